"""For each op, a generator of operands and attributes, and what PyTorch makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from latentc.ir.ops.quantize import RANGES
from latentc.ir.types import Sym, TensorType

TORCH = {"f64": torch.float64, "f32": torch.float64, "i64": torch.int64, "bool": torch.bool}
# Quantised numbers are compared as the numbers they are.
TORCH |= {"i8": torch.int64, "u8": torch.int64, "i4": torch.int64, "f8e4m3": torch.float64}


@dataclass(frozen=True)
class Lead:
    """A first dimension: how the type writes it, and its size in this example."""

    dim: Any
    size: int

    def __mul__(self, other: int) -> Lead:
        return Lead(self.dim * other, self.size * other)


@dataclass(frozen=True)
class Operand:
    type: TensorType
    array: np.ndarray


@dataclass(frozen=True)
class Case:
    """Operands, attributes, and `torch(tensors) -> outputs` in float64."""

    operands: list[Operand]
    torch: Callable[..., Any]
    attrs: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Sizes and arrays of one example."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.rng = np.random.default_rng(self.int(0, 10**6))

    def int(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.data.draw(st.booleans())

    def choose(self, values: Any) -> Any:
        return self.data.draw(st.sampled_from(list(values)))

    def lead(self) -> Lead:
        """A batch: of fixed size, of run-time size B, or 2*B."""
        size = self.int(1, 3)
        return self.choose([Lead(size, size), Lead(Sym("B"), size), Lead(Sym("B", 2), 2 * size)])

    def shape(self, low: int = 0, high: int = 4) -> list[Any]:
        rank = self.int(low, high)
        return [self.lead() if i == 0 and self.flag() else self.int(1, 3) for i in range(rank)]

    def operand(self, shape: Any, make: Callable[[tuple[int, ...]], np.ndarray], dtype: str = "f32") -> Operand:
        dims = tuple(d.dim if isinstance(d, Lead) else d for d in shape)
        sizes = tuple(d.size if isinstance(d, Lead) else d for d in shape)
        return Operand(TensorType(dtype, dims), np.asarray(make(sizes)))

    def floats(self, *shape: Any, low: float = -2, high: float = 2) -> Operand:
        return self.operand(shape, lambda s: self.rng.uniform(low, high, s))

    def ints(self, *shape: Any, high: int) -> Operand:
        return self.operand(shape, lambda s: self.rng.integers(0, high, s), "i64")

    def bools(self, *shape: Any) -> Operand:
        return self.operand(shape, lambda s: self.rng.random(s) < 0.5, "bool")

    def pair(self) -> tuple[list[Any], list[Any]]:
        """Two shapes that broadcast with each other."""
        whole = self.shape()
        first, second = ([1 if self.flag() and self.flag() else d for d in whole] for _ in range(2))
        if self.flag():
            second = second[self.int(0, len(second)) :]
        return (first, second) if self.flag() else (second, first)


def size_of(dim: Any) -> int:
    return dim.size if isinstance(dim, Lead) else dim


CASES: dict[str, Callable[[Draw], Case]] = {}


def case(*names: str) -> Callable[[Any], Any]:
    def add(make: Any) -> Any:
        for name in names:
            CASES[name] = (lambda d, n=name: make(d, n)) if len(names) > 1 else make
        return make

    return add


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **{n: getattr(torch, n) for n in ("neg", "exp", "sin", "cos", "tanh", "sigmoid", "erf", "abs", "floor", "relu")},
    "silu": F.silu,
    "stop_gradient": torch.detach,
    "dropout": lambda x: x,
}
POSITIVE = {n: getattr(torch, n) for n in ("log", "sqrt", "rsqrt")}
for _name, _fn in UNARY.items():
    _attrs = {"p": 0.1} if _name == "dropout" else {}
    CASES[_name] = lambda d, fn=_fn, attrs=_attrs: Case([d.floats(*d.shape())], fn, attrs)
for _name, _fn in POSITIVE.items():
    CASES[_name] = lambda d, fn=_fn: Case([d.floats(*d.shape(), low=0.1)], fn)
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


@case("matmul")
def matmul(d: Draw) -> Case:
    a, b = d.pair()
    m, k, n = d.int(1, 3), d.int(1, 3), d.int(1, 3)
    return Case([d.floats(*a, m, k), d.floats(*b, k, n)], torch.matmul)


@case("linear")
def linear(d: Draw) -> Case:
    n, m = d.int(1, 4), d.int(1, 4)
    bias = [d.floats(m)] if d.flag() else []
    return Case([d.floats(*d.shape(0, 3), n), d.floats(m, n), *bias], F.linear)


def _convolution(d: Draw) -> tuple[dict[str, int], tuple[int, int], tuple[int, int]]:
    attrs = {"stride": d.int(1, 3), "padding": d.int(0, 2), "groups": d.int(1, 2)}
    if d.flag():
        attrs["dilation"] = d.int(1, 2)
    return attrs, (d.int(1, 3), d.int(1, 3)), (d.int(5, 7), d.int(5, 7))


@case("conv2d")
def conv2d(d: Draw) -> Case:
    attrs, kernel, size = _convolution(d)
    g, lead = attrs["groups"], d.lead()
    c, o = g * d.int(1, 2), g * d.int(1, 2)
    bias = [d.floats(o)] if d.flag() else []
    return Case(
        [d.floats(lead, c, *size), d.floats(o, c // g, *kernel), *bias], lambda *x: F.conv2d(*x, **attrs), attrs
    )


@case("conv_transpose2d")
def conv_transpose2d(d: Draw) -> Case:
    attrs, kernel, size = _convolution(d)
    g, lead = attrs["groups"], d.lead()
    room = max(attrs["stride"], attrs.get("dilation", 1)) - 1
    extra = (d.int(0, room), d.int(0, room))
    c, o = g * d.int(1, 2), d.int(1, 2)
    return Case(
        [d.floats(lead, c, *size), d.floats(c, o, *kernel)],
        lambda *x: F.conv_transpose2d(*x, output_padding=extra, **attrs),
        {**attrs, "output_padding": extra},
    )


@case("embedding")
def embedding(d: Draw) -> Case:
    n = d.int(1, 4)
    return Case([d.floats(n, d.int(1, 3)), d.ints(*d.shape(0, 2), high=n)], lambda w, i: w[i])


@case("layer_norm", "rms_norm")
def norm(d: Draw, name: str) -> Case:
    n = d.int(2, 5)
    most = 2 if name == "layer_norm" else 1
    affine = [d.floats(n) for _ in range(d.int(0, most))]
    fn = F.layer_norm if name == "layer_norm" else F.rms_norm
    return Case([d.floats(*d.shape(0, 3), n), *affine], lambda x, *a: fn(x, (n,), *a, eps=1e-3), {"eps": 1e-3})


@case("group_norm")
def group_norm(d: Draw) -> Case:
    groups = d.int(1, 3)
    channels = groups * d.int(1, 2)
    space = [d.int(2, 3) for _ in range(d.int(1, 2))]
    affine = [d.floats(channels) for _ in range(d.int(0, 2))]
    return Case(
        [d.floats(d.lead(), channels, *space), *affine],
        lambda x, *a: F.group_norm(x, groups, *a, eps=1e-3),
        {"groups": groups, "eps": 1e-3},
    )


@case("batch_norm")
def batch_norm(d: Draw) -> Case:
    channels = d.int(1, 4)
    space = [d.int(1, 3) for _ in range(d.int(0, 2))]
    affine = [d.floats(channels) for _ in range(d.int(0, 2))]

    def reference(x: Any, mean: Any, var: Any, *affine: Any) -> Any:
        """Written out, for PyTorch's has no derivative by the statistics."""
        mean, var, *affine = (v.reshape(-1, *(1 for _ in space)) for v in (mean, var, *affine))
        y = (x - mean) / (var + 1e-3).sqrt()
        y = y * affine[0] if affine else y
        return y + affine[1] if len(affine) > 1 else y

    operands = [d.floats(d.lead(), channels, *space), d.floats(channels), d.floats(channels, low=0.1), *affine]
    return Case(operands, reference, {"eps": 1e-3, "momentum": 0.1})


@case("spectral_norm")
def spectral_norm(d: Draw) -> Case:
    shape = [d.int(1, 4), *(d.int(1, 3) for _ in range(d.int(1, 3)))]

    def reference(weight: Any, u: Any) -> Any:
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(u @ matrix, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        return weight / (u @ matrix @ v)

    return Case([d.floats(*shape, low=0.1), d.floats(shape[0], low=0.1)], reference, {"eps": 1e-12})


@case("upsample_nearest")
def upsample_nearest(d: Draw) -> Case:
    factor = d.int(1, 3)
    image = d.floats(d.lead(), d.int(1, 2), d.int(1, 3), d.int(1, 3))
    return Case([image], lambda x: F.interpolate(x, scale_factor=factor), {"factor": factor})


@case("avg_pool2d", "max_pool2d")
def pool(d: Draw, name: str) -> Case:
    size = d.int(1, 3)
    image = d.floats(d.lead(), d.int(1, 2), size * d.int(1, 2), size * d.int(1, 2))
    return Case([image], lambda x: getattr(F, name)(x, size), {"size": size})


@case("attention")
def attention(d: Draw) -> Case:
    lead, kv, t = d.lead(), d.int(1, 2), d.int(1, 4)
    heads, width, value = kv * d.int(1, 3), d.int(1, 4), d.int(1, 4)
    causal = d.flag()
    s = t if causal else d.int(1, 4)
    scale = d.choose([None, 0.3])
    mask = []
    if not causal and d.flag():
        shape = d.choose([[t, s], [1, 1, 1, s], [lead, heads, t, s]])
        mask = [d.choose([d.bools, d.floats])(*shape)]
        if mask[0].type.dtype == "bool":
            mask[0].array[..., 0] = True  # a query that sees nothing has no softmax

    def reference(q: Any, k: Any, v: Any, *m: Any) -> Any:
        k, v = (x.repeat_interleave(heads // kv, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, *m, is_causal=causal, scale=scale)

    operands = [d.floats(lead, heads, t, width), d.floats(lead, kv, s, width), d.floats(lead, kv, s, value), *mask]
    return Case(operands, reference, {"causal": causal, "scale": scale})


@case("experts")
def experts(d: Draw) -> Case:
    lead, count, width, hidden = d.lead(), d.int(1, 4), d.int(1, 3), d.int(1, 3)
    per_token = d.int(1, count)

    def reference(x: Any, gates: Any, w1: Any, w3: Any, w2: Any) -> Any:
        h = F.silu(torch.einsum("btd,efd->btef", x, w1)) * torch.einsum("btd,efd->btef", x, w3)
        return torch.einsum("btef,edf,bte->btd", h, w2, gates)

    shapes = [(lead, 2, width), (lead, 2, count), *[(count, hidden, width)] * 2, (count, width, hidden)]
    return Case([d.floats(*shape) for shape in shapes], reference, {"per_token": per_token})


@case("expert")
def expert(d: Draw) -> Case:
    lead, width, hidden = d.lead(), d.int(1, 3), d.int(1, 3)

    def reference(onto: Any, x: Any, gate: Any, w1: Any, w3: Any, w2: Any) -> Any:
        return onto + gate * F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)

    shapes = [(lead, 2, width), (lead, 2, width), (lead, 2, 1), *[(hidden, width)] * 2, (width, hidden)]
    return Case([d.floats(*shape) for shape in shapes], reference)


@case("auxiliary_loss")
def auxiliary_loss(d: Draw) -> Case:
    return Case([d.floats(*d.shape()), d.floats()], lambda x, loss: x)


@case("rotary")
def rotary(d: Draw) -> Case:
    t, half, interleaved = d.int(1, 3), d.int(1, 3), d.flag()

    def reference(x: Any, cos: Any, sin: Any) -> Any:
        """Multiplication of complex numbers, which is what a rotation is."""
        pairs = x.unflatten(-1, (half, 2)) if interleaved else x.unflatten(-1, (2, half)).transpose(-1, -2)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
        return turned.flatten(-2) if interleaved else turned.transpose(-1, -2).flatten(-2)

    tables = [d.floats(t, half), d.floats(t, half)]
    return Case([d.floats(d.lead(), d.int(1, 2), t, 2 * half), *tables], reference, {"interleaved": interleaved})


@case("timestep_embedding")
def timestep_embedding(d: Draw) -> Case:
    dim = 2 * d.int(1, 3)

    def reference(t: Any) -> Any:
        rates = torch.exp(-math.log(100.0) / (dim // 2) * torch.arange(dim // 2, dtype=torch.float64))
        return torch.cat([torch.cos(torch.outer(t, rates)), torch.sin(torch.outer(t, rates))], 1)

    return Case([d.floats(d.lead(), low=0, high=5)], reference, {"dim": dim, "max_period": 100.0})


# ---- quantised numbers


def _numbers(d: Draw, *shape: Any, dtype: str) -> Operand:
    low, high, _ = RANGES[dtype]
    if dtype == "f8e4m3":
        return d.operand(shape, lambda s: d.rng.choice([-448.0, -1.5, 0.0, 0.125, 20.0, 448.0], s), dtype)
    return d.operand(shape, lambda s: d.rng.integers(low, high + 1, s), dtype)


def _scale_of(d: Draw, shape: Any, blocks: bool = False) -> tuple[Operand, dict[str, Any], Callable[[Any], Any]]:
    """A scale for a tensor of this shape, its attributes, and how it spreads over the tensor."""
    axes = [i for i, n in enumerate(shape) if not isinstance(n, Lead)]
    if not axes or d.flag():
        return d.floats(low=0.05, high=0.5), {}, lambda s: s
    axis = d.choose(axes)
    if blocks and d.flag():
        block = d.choose([n for n in (1, 2, 3) if shape[axis] % n == 0])
        whole = [*shape[:axis], shape[axis] // block, *shape[axis + 1 :]]
        attrs = {"axis": axis, "block": block}
        return d.floats(*whole, low=0.05, high=0.5), attrs, lambda s: s.repeat_interleave(block, axis)
    column = [-1 if i == axis else 1 for i in range(len(shape))]
    return d.floats(shape[axis], low=0.05, high=0.5), {"axis": axis}, lambda s: s.reshape(column)


@case("quantize")
def quantize(d: Draw) -> Case:
    shape, to = d.shape(1), d.choose(RANGES)
    low, high, zero = RANGES[to]
    scale, attrs, spread = _scale_of(d, shape)

    def reference(x: Any, s: Any) -> Any:
        ratio = (x / spread(s)).detach()
        if to == "f8e4m3":
            return ratio.clamp(low, high).float().to(torch.float8_e4m3fn).double()
        return (torch.round(ratio) + zero).clamp(low, high).long()

    return Case([d.floats(*shape, low=-9, high=9), scale], reference, {"to": to, **attrs})


@case("dequantize")
def dequantize(d: Draw) -> Case:
    shape, dtype = d.shape(1), d.choose(RANGES)
    scale, attrs, spread = _scale_of(d, shape, blocks=True)
    return Case(
        [_numbers(d, *shape, dtype=dtype), scale], lambda q, s: (q - RANGES[dtype][2]).double() * spread(s), attrs
    )


@case("linear_int8")
def linear_int8(d: Draw) -> Case:
    k, n, dtype = d.int(1, 4), d.int(1, 4), d.choose(["i8", "u8"])
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, w: Any, sx: Any, sw: Any, *b: Any) -> Any:
        return F.linear((x - RANGES[dtype][2]) * sx, (w * sw).T, *b)

    operands = [_numbers(d, *d.shape(0, 2), k, dtype=dtype), _numbers(d, k, n, dtype="i8"), d.floats(low=0.1)]
    return Case([*operands, d.floats(n, low=0.1), *bias], reference)


@case("linear_int8_dynamic")
def linear_int8_dynamic(d: Draw) -> Case:
    k, n = d.int(1, 4), d.int(1, 4)
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, w: Any, s: Any, *b: Any) -> Any:
        low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
        step = (high - low) / 255
        zero = torch.round(-low / step)
        whole = (torch.round(x.detach() / step) + zero).clamp(0, 255) - zero
        return F.linear(whole * step, (w * s).T, *b)

    return Case([d.floats(*d.shape(0, 2), k), _numbers(d, k, n, dtype="i8"), d.floats(n, low=0.1), *bias], reference)


@case("linear_blocks")
def linear_blocks(d: Draw) -> Case:
    bits, n, groups = d.choose([4, 8]), d.int(1, 3), d.int(1, 2)
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, q: Any, s: Any, *b: Any) -> Any:
        if bits == 4:
            q = torch.stack([q % 16, q // 16], -1).flatten(2)
        return F.linear(x, ((q - 2 ** (bits - 1)) * s[..., None]).flatten(1), *b)

    operands = [d.floats(*d.shape(0, 2), groups * 16), _numbers(d, n, groups, 2 * bits, dtype="u8")]
    return Case([*operands, d.floats(n, groups, low=0.1), *bias], reference, {"bits": bits, "block": 16})
