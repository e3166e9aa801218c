"""Cases of ops on arrays: elementwise, along axes, of shapes and places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_draws import CASES, TORCH, Case, Draw, Lead, Operand, case, size_of

from latentc.ir.types import TensorType

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{
        n: getattr(torch, n)
        for n in ("neg", "exp", "sin", "cos", "atan", "tanh", "sigmoid", "erf", "abs", "floor", "relu")
    },
    "silu": F.silu,
    "softplus": F.softplus,
    "mish": F.mish,
    "elu": F.elu,
    "stop_gradient": torch.detach,
    "dropout": lambda x: x,
}
POSITIVE = {n: getattr(torch, n) for n in ("log", "sqrt", "rsqrt")}
for _name, _fn in UNARY.items():
    _attrs = {"p": 0.1} if _name == "dropout" else {}
    CASES[_name] = lambda d, fn=_fn, attrs=_attrs: Case([d.floats(*d.shape())], fn, attrs)
for _name, _fn in POSITIVE.items():
    CASES[_name] = lambda d, fn=_fn: Case([d.floats(*d.shape(), low=0.1)], fn)
CASES["acos"] = lambda d: Case([d.floats(*d.shape(), low=-0.9, high=0.9)], torch.acos)
BINARY = {n: getattr(torch, n) for n in ("add", "sub", "mul", "div", "pow", "maximum", "minimum")}


@case(*BINARY)
def binary(d: Draw, name: str) -> Case:
    a, b = d.pair()
    return Case([d.floats(*a, low=0.2 if name == "pow" else -2), d.floats(*b, low=0.2)], BINARY[name])


COMPARE = {"equal": torch.eq, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt}


@case(*COMPARE)
def compare(d: Draw, name: str) -> Case:
    a, b = d.pair()
    return Case([d.ints(*a, high=3), d.ints(*b, high=3)], COMPARE[name])


@case("logical_and", "logical_or")
def logical(d: Draw, name: str) -> Case:
    a, b = d.pair()
    return Case([d.bools(*a), d.bools(*b)], getattr(torch, name))


@case("where")
def where(d: Draw) -> Case:
    a, b = d.pair()
    return Case([d.bools(*b), d.floats(*a), d.floats(*b)], torch.where)


@case("gelu")
def gelu(d: Draw) -> Case:
    kind = d.choose(["none", "tanh"])
    return Case([d.floats(*d.shape())], lambda x: F.gelu(x, approximate=kind), {"approximate": kind})


@case("clamp")
def clamp(d: Draw) -> Case:
    low, high = sorted(d.rng.uniform(-2, 2, 2).tolist())
    return Case([d.floats(*d.shape())], lambda x: x.clamp(low, high), {"low": low, "high": high})


@case("cast")
def cast(d: Draw) -> Case:
    to = d.choose(["f64", "f32", "i64", "bool"])
    return Case([d.floats(*d.shape())], lambda x: x.to(TORCH[to]), {"to": to})


@case("sum", "mean", "max")
def reduction(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    axes = tuple(sorted(d.data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    axes = tuple(a - len(shape) if d.flag() else a for a in axes)
    keep = d.flag()
    fn = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax}[name]
    return Case([d.floats(*shape)], lambda x: fn(x, dim=axes, keepdim=keep), {"axes": axes, "keepdims": keep})


@case("softmax", "log_softmax", "argmax", "cumsum")
def along_axis(d: Draw, name: str) -> Case:
    shape = d.shape(1)
    axis = d.int(-len(shape), len(shape) - 1)
    return Case([d.floats(*shape)], lambda x: getattr(torch, name)(x, dim=axis), {"axis": axis})


@case("cumprod")
def cumprod(d: Draw) -> Case:
    """The length along the axis must be known."""
    shape = (*d.shape(0, 2), d.int(1, 5), d.int(1, 3))
    axis = d.int(-2, -1)
    axis = axis + len(shape) if d.flag() else axis
    return Case([d.floats(*shape)], lambda x: torch.cumprod(x, dim=axis), {"axis": axis})


@case("logsumexp")
def logsumexp(d: Draw) -> Case:
    shape = d.shape(1)
    axis = d.int(-len(shape), len(shape) - 1)
    return Case([d.floats(*shape)], lambda x: torch.logsumexp(x, axis), {"axis": axis})


@case("argsort")
def argsort(d: Draw) -> Case:
    operand = d.choose([d.floats(*d.shape(0, 2), d.int(1, 5)), d.ints(*d.shape(0, 2), d.int(1, 5), high=3)])
    return Case([operand], lambda x: torch.argsort(x, stable=True))


@case("leaky_relu")
def leaky_relu(d: Draw) -> Case:
    return Case([d.floats(*d.shape())], lambda x: F.leaky_relu(x, 0.2), {"slope": 0.2})


@case("top_k")
def top_k(d: Draw) -> Case:
    n = d.int(1, 5)
    k = d.int(1, n)
    return Case([d.floats(*d.shape(0, 3), n)], lambda x: torch.topk(x, k), {"k": k})


@case("cross_entropy")
def cross_entropy(d: Draw) -> Case:
    rows, classes = d.lead(), d.int(1, 5)
    return Case(
        [d.floats(rows, classes), d.ints(rows, high=classes)], lambda x, y: F.cross_entropy(x, y, reduction="none")
    )


@case("constant")
def constant(d: Draw) -> Case:
    value = d.rng.standard_normal([d.int(1, 3) for _ in range(d.int(0, 3))])
    return Case([], lambda: torch.as_tensor(value), {"value": value, "dtype": "f32"})


@case("full")
def full(d: Draw) -> Case:
    x, shape = d.floats(d.lead(), 2), tuple(d.int(1, 3) for _ in range(d.int(0, 3)))
    factor = d.int(1, 2)
    attrs = {"shape": shape, "value": 1.5, "dtype": "f32"} | ({"factor": 2} if factor == 2 else {})
    return Case([x], lambda t: torch.full((len(t) * factor, *shape), 1.5, dtype=torch.float64), attrs)


@case("reshape")
def reshape(d: Draw) -> Case:
    lead, a, b = d.lead(), d.int(1, 3), d.int(1, 3)
    to = d.choose([[lead, a * b], [lead * a, b], [lead, b, 1, a], [lead * (a * b)], [1, lead, a, b]])
    sizes = [size_of(x) for x in to]
    return Case(
        [d.floats(lead, a, b)],
        lambda x: x.reshape(sizes),
        {"shape": tuple(x.dim if isinstance(x, Lead) else x for x in to)},
    )


@case("transpose")
def transpose(d: Draw) -> Case:
    shape = d.shape(1)
    perm = tuple(d.data.draw(st.permutations(range(len(shape)))))
    return Case([d.floats(*shape)], lambda x: x.permute(perm), {"perm": perm})


@case("broadcast_to")
def broadcast_to(d: Draw) -> Case:
    lead, a, b = d.lead(), d.int(1, 3), d.int(1, 3)
    like = d.floats(lead, 2)
    small = d.choose([[a, b], [1, b], [b], [], [1, a, 1], [lead, 1, b]])
    sizes = (lead.size, a, b)
    operands = [d.floats(*small)] + ([like] if small != [lead, 1, b] or d.flag() else [])
    return Case(operands, lambda x, *rest: x.expand(sizes), {"shape": (lead.dim, a, b)})


@case("concat")
def concat(d: Draw) -> Case:
    lead, rest, axis = d.lead(), d.int(1, 3), d.int(0, 2)
    parts = []
    for _ in range(d.int(1, 3)):
        shape: list[Any] = [lead, 2, rest]
        if axis:
            shape[axis] = d.int(1, 3)
        parts.append(d.floats(*shape))
    return Case(parts, lambda *xs: torch.cat(xs, axis), {"axis": axis if d.flag() else axis - 3})


@case("split")
def split(d: Draw) -> Case:
    lead, axis = d.lead(), d.int(0, 1)
    counts = [d.int(1, 3) for _ in range(d.int(1, 3))]
    sizes: list[Any] = [lead * n for n in counts] if axis == 0 else counts
    shape = [lead * sum(counts), 2] if axis == 0 else [lead, sum(counts)]
    parts = [size_of(s) for s in sizes]
    attrs = {"axis": axis, "sizes": tuple(s.dim if isinstance(s, Lead) else s for s in sizes)}
    return Case([d.floats(*shape)], lambda x: torch.split(x, parts, axis), attrs)


@case("unbind")
def unbind(d: Draw) -> Case:
    axis = d.int(1, 2)
    return Case([d.floats(d.lead(), d.int(1, 3), d.int(1, 3))], lambda x: torch.unbind(x, axis), {"axis": axis})


@case("slice")
def slice_(d: Draw) -> Case:
    n = d.int(1, 5)
    start = d.int(0, n - 1)
    stop = d.int(start + 1, n)
    return Case([d.floats(d.lead(), n)], lambda x: x[:, start:stop], {"axis": 1, "start": start, "stop": stop})


@case("pad")
def pad(d: Draw) -> Case:
    before, after = d.int(0, 2), d.int(0, 2)
    return Case(
        [d.floats(d.lead(), d.int(1, 3))],
        lambda x: F.pad(x, (before, after), value=0.5),
        {"axis": 1, "before": before, "after": after, "value": 0.5},
    )


@case("take")
def take(d: Draw) -> Case:
    n, axis = d.int(1, 4), d.int(0, 1)
    index = d.ints(*d.shape(0, 2), high=n)
    shape = [n, 2] if axis == 0 else [2, n]

    def picked(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return x[i] if axis == 0 else x[:, i]

    return Case([d.floats(*shape), index], picked, {"axis": axis})


@case("take_along")
def take_along(d: Draw) -> Case:
    lead, n, k, axis = d.lead(), d.int(1, 4), d.int(1, 3), d.int(1, 2)
    shapes = ([lead, n, 2], [lead, k, 2]) if axis == 1 else ([lead, 2, n], [lead, 2, k])
    return Case(
        [d.floats(*shapes[0]), d.ints(*shapes[1], high=n)],
        lambda x, i: torch.take_along_dim(x, i, axis),
        {"axis": axis},
    )


@case("scatter_add")
def scatter_add(d: Draw) -> Case:
    n, k, axis = d.int(1, 4), d.int(1, 4), d.int(0, 1)
    shapes = ([n, 2], [k, 2]) if axis == 0 else ([2, n], [2, k])
    return Case(
        [d.floats(*shapes[0]), d.ints(k, high=n), d.floats(*shapes[1])],
        lambda x, i, u: x.index_add(axis, i, u),
        {"axis": axis},
    )


@case("update_slice")
def update_slice(d: Draw) -> Case:
    lead, n = d.lead(), d.int(1, 4)
    k = d.int(1, n)
    start = d.int(0, n - k)

    def updated(x: torch.Tensor, u: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, : int(s)], u, x[:, int(s) + k :]], 1)

    begin = Operand(TensorType("i64", ()), np.asarray(start))
    return Case([d.floats(lead, n, 2), d.floats(lead, k, 2), begin], updated, {"axis": 1})
