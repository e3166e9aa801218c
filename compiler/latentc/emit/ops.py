"""One row an op: how it is written in PyTorch. `TORCH[op](printer, node)` gives the right-hand side.

A printer answers what a row must know of its surroundings: the text of an operand (`arg`), of a size (`size`), whether
an operand is a Python number (`number`), and takes note of a helper function that the text calls (`helper`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from latentc.emit.text import AND, COMPARE, OR, POWER, PRODUCT, SUM, UNARY, Text, call, commas, literal
from latentc.ir.core import Node, Value
from latentc.ir.types import Dim, Sym

TORCH_DTYPE = {
    "f64": "torch.float64",
    "f32": "torch.float32",
    "f16": "torch.float16",
    "bf16": "torch.bfloat16",
    "i64": "torch.int64",
    "i32": "torch.int32",
    "i8": "torch.int8",
    "u8": "torch.uint8",
    "bool": "torch.bool",
}


class Printer(Protocol):
    """What a row may ask; see `latentc.emit.body`."""

    def arg(self, value: Value) -> Text: ...

    def tensor(self, value: Value, like: Value | None = None) -> Text: ...

    def size(self, dim: Dim) -> Text: ...

    def number(self, value: Value) -> bool: ...

    def helper(self, name: str) -> str: ...

    def folded(self, value: Value) -> Node | None: ...


Row = Callable[[Printer, Node], Text]


def _function(name: str, **keywords: Any) -> Row:
    return lambda p, n: call(name, [p.tensor(x) for x in n.inputs], **keywords)


def _infix(symbol: str, level: int, right: int | None = None) -> Row:
    """A binary operator; `right` is the level its right operand needs (one more where it does not associate)."""

    def row(p: Printer, n: Node) -> Text:
        a, b = (p.arg(x) for x in n.inputs)
        if all(p.number(x) for x in n.inputs):
            a = p.tensor(n.inputs[0])
        return Text(f"{a.at(level)} {symbol} {b.at(level if right is None else right)}", level)

    return row


def _modulation(p: Printer, n: Node) -> Text | None:
    """`x * (scale + 1) + shift` with one scale and shift a sample: the conditioning of adaptive norms."""
    product = p.folded(n.inputs[0])
    raised = p.folded(product.inputs[1]) if product and product.op == "mul" else None
    if not product or not raised or raised.op != "add" or not p.number(raised.inputs[1]):
        return None
    x, scale, shift = product.inputs[0], raised.inputs[0], n.inputs[1]
    of_samples = tuple(scale.type.shape) == tuple(shift.type.shape) and len(scale.type.shape) == 3
    if p.arg(raised.inputs[1]).code != "1" or not of_samples or scale.type.shape[1] != 1:
        return None
    return call(p.helper("modulate"), [p.arg(x), p.arg(shift), p.arg(scale)])


def _add(p: Printer, n: Node) -> Text:
    modulation = _modulation(p, n)
    if modulation is not None:
        return modulation
    a, b = (p.arg(x) for x in n.inputs)
    if b.code.startswith("-") and b.level >= PRODUCT and not p.number(n.inputs[0]):
        return Text(f"{a.at(SUM)} - {Text(b.code[1:], b.level).at(PRODUCT)}", SUM)
    return _infix("+", SUM)(p, n)


def _mul(p: Printer, n: Node) -> Text:
    """A product; by 1 and -1 it is the operand and its negative."""
    texts = [p.arg(x) for x in n.inputs]
    for i, unit in enumerate(n.inputs):
        other = n.inputs[1 - i]
        if p.number(unit) and not p.number(other) and other.type.shape == n.outputs[0].type.shape:
            if texts[i].code == "1":
                return texts[1 - i]
            if texts[i].code == "-1":
                return Text(f"-{texts[1 - i].at(UNARY)}", UNARY)
    return _infix("*", PRODUCT)(p, n)


def _div(p: Printer, n: Node) -> Text:
    symbol = "/" if n.inputs[0].type.is_float else "//"
    return _infix(symbol, PRODUCT, PRODUCT + 1)(p, n)


def _pow(p: Printer, n: Node) -> Text:
    a, b = (p.arg(x) for x in n.inputs)
    return Text(f"{a.at(POWER + 1)} ** {b.at(UNARY)}", POWER)


def _extreme(name: str, bound: str) -> Row:
    """maximum and minimum: a clamp where one operand is a number."""

    def row(p: Printer, n: Node) -> Text:
        a, b = n.inputs
        if p.number(a):
            a, b = b, a
        if p.number(b) and not p.number(a):
            return call(f"{p.arg(a).atom}.clamp", [], **{bound: p.arg(b)})
        return call(f"torch.{name}", [p.tensor(a), p.tensor(b)])

    return row


def _cast(p: Printer, n: Node) -> Text:
    to = n.attrs["to"]
    x = p.tensor(n.inputs[0]).atom
    short = {"f32": "float", "i64": "long", "bool": "bool"}.get(to)
    return Text(f"{x}.{short}()" if short else f"{x}.to({TORCH_DTYPE[to]})")


def _clamp(p: Printer, n: Node) -> Text:
    return call(f"{p.tensor(n.inputs[0]).atom}.clamp", [literal(n.attrs["low"]), literal(n.attrs["high"])])


def _where(p: Printer, n: Node) -> Text:
    condition, a, b = n.inputs
    branches = [p.arg(a), p.arg(b)]
    if p.number(a) and p.number(b):
        branches[0] = p.tensor(a)
    return call("torch.where", [p.arg(condition), *branches])


def _product(dims: Sequence[Dim]) -> tuple[str, int]:
    """A product's run-time name and its number."""
    names, total = "", 1
    for d in dims:
        names += d.name if isinstance(d, Sym) else ""
        total *= d.factor if isinstance(d, Sym) else int(d)
    return names, total


def _same(a: Dim, b: Dim) -> bool:
    return a == b


def shape_change(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[str, Any] | None:
    """A reshape's plain name, if it has one: ("unsqueeze", axis), ("squeeze", axis), ("columns", (axis, count of
    new axes)), ("flatten", (first, last)), ("unflatten", (axis, new sizes))."""
    head = 0
    while head < min(len(old), len(new)) and _same(old[head], new[head]):
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and _same(old[-1 - tail], new[-1 - tail]):
        tail += 1
    before, after = list(old[head : len(old) - tail]), list(new[head : len(new) - tail])
    if not before and after and set(after) == {1}:
        return ("unsqueeze", head) if len(after) == 1 else ("columns", (head, len(after)))
    if not after and before == [1]:
        return "squeeze", head
    if len(after) == 1 and len(before) > 1:
        return "flatten", (head, head + len(before) - 1)
    if len(before) == 1 and len(after) > 1 and not isinstance(before[0], Sym):
        return "unflatten", (head, after)
    return None


def reshape(p: Printer, n: Node) -> Text:
    """`unsqueeze`, `squeeze`, `flatten` or `unflatten` where that says it, else `reshape` with one size left open."""
    (value,), new = n.inputs, tuple(n.attrs["shape"])
    x, old = p.tensor(value).atom, value.type.shape
    match shape_change(old, new):
        case ("unsqueeze", axis):
            return call(f"{x}.unsqueeze", [str(axis)])
        case ("columns", (axis, count)) if axis == len(old):
            return Text(f"{x}[{commas([':'] * axis + ['None'] * count)}]")
        case ("squeeze", axis):
            return call(f"{x}.squeeze", [str(axis)])
        case ("flatten", (first, last)):
            return call(f"{x}.flatten", [str(first)] if last == len(old) - 1 else [str(first), str(last)])
        case ("unflatten", (axis, parts)):
            return call(f"{x}.unflatten", [str(axis), f"({commas(_open(p, parts))})"])
    if list(old) == list(new):
        return p.tensor(value)
    return call(f"{x}.reshape", list(_open(p, new)))


def _open(p: Printer, shape: Sequence[Dim]) -> list[str]:
    """Sizes as text, the one that reads worst as -1 where the others determine it."""
    texts = [p.size(d) for d in shape]
    composite = [i for i, t in enumerate(texts) if t.level < 7]
    if not composite:
        composite = [i for i, t in enumerate(texts) if "." in t.code or (t.code.isdigit() and int(t.code) > 16)]
    open_axis = composite[-1] if composite and "-1" not in [t.code for t in texts] else None
    return ["-1" if i == open_axis else t.code for i, t in enumerate(texts)]


def _transpose(p: Printer, n: Node) -> Text:
    x, perm = p.tensor(n.inputs[0]).atom, tuple(n.attrs["perm"])
    moved = [i for i, j in enumerate(perm) if i != j]
    if not moved:
        return p.tensor(n.inputs[0])
    if len(moved) == 2:
        return call(f"{x}.transpose", [str(moved[0]), str(moved[1])])
    return call(f"{x}.permute", [str(i) for i in perm])


def _broadcast(p: Printer, n: Node) -> Text:
    shape, old = n.attrs["shape"], n.inputs[0].type.shape
    if p.number(n.inputs[0]) and len(n.inputs) > 1:
        other = n.inputs[1]
        dtype = None if other.type.dtype == n.outputs[0].type.dtype else Text(TORCH_DTYPE[n.outputs[0].type.dtype])
        if tuple(other.type.shape) == tuple(shape):
            return call("torch.full_like", [p.arg(other), p.arg(n.inputs[0])], dtype=dtype)
    lead = len(shape) - len(old)
    sizes = [
        "-1" if i >= lead and not isinstance(old[i - lead], Sym) and old[i - lead] == d else p.size(d).code
        for i, d in enumerate(shape)
    ]
    if sizes[0] == "-1" and isinstance(shape[0], Sym) and len(n.inputs) > 1:
        sizes[0] = f"{p.arg(n.inputs[1]).atom}.shape[0]"
    return call(f"{p.tensor(n.inputs[0]).atom}.expand", sizes)


def _concat(p: Printer, n: Node) -> Text:
    return call("torch.cat", [f"[{commas(p.tensor(x).code for x in n.inputs)}]"], dim=n.attrs["axis"])


def _split(p: Printer, n: Node) -> Text:
    x, sizes, axis = p.tensor(n.inputs[0]).atom, n.attrs["sizes"], n.attrs["axis"]
    if len({_product([s]) for s in sizes}) == 1:
        return call(f"{x}.chunk", [str(len(sizes))], dim=axis)
    return call(f"{x}.split", [f"({commas(p.size(s).code for s in sizes)})"], dim=axis)


def _unbind(p: Printer, n: Node) -> Text:
    return call(f"{p.tensor(n.inputs[0]).atom}.unbind", [str(n.attrs["axis"])])


def _at(rank: int, axis: int, index: str) -> str:
    """Subscript that applies `index` at an axis."""
    axis %= rank
    if axis == rank - 1 and rank > 2:
        return f"[..., {index}]"
    return "[" + ":, " * axis + index + "]"


def _slice(p: Printer, n: Node) -> Text:
    value, start, stop = n.inputs[0], n.attrs["start"], n.attrs["stop"]
    axis = n.attrs["axis"] % value.type.rank
    first = "" if start == 0 else p.size(start).code
    if stop == value.type.shape[axis] and stop - start == 1 and start > 0:
        first = "-1"
    last = "" if stop == value.type.shape[axis] else p.size(stop).code
    return Text(f"{p.tensor(value).atom}{_at(value.type.rank, axis, f'{first}:{last}')}")


def _pad(p: Printer, n: Node) -> Text:
    rank, axis = n.inputs[0].type.rank, n.attrs["axis"]
    after_axes = rank - 1 - axis % rank
    widths = ["0"] * (2 * after_axes) + [p.size(n.attrs["before"]).code, p.size(n.attrs["after"]).code]
    value = n.attrs["value"] or None
    return call("F.pad", [p.tensor(n.inputs[0]), f"({commas(widths)})"], value=value)


def _take(p: Printer, n: Node) -> Text:
    x, index = n.inputs
    axis = n.attrs["axis"] % x.type.rank
    return Text(f"{p.tensor(x, like=None).atom}[{':, ' * axis}{p.arg(index).code}]")


def _take_along(p: Printer, n: Node) -> Text:
    return call(f"{p.tensor(n.inputs[0]).atom}.gather", [str(n.attrs["axis"]), p.arg(n.inputs[1])])


def _scatter_add(p: Printer, n: Node) -> Text:
    x, index, update = (p.tensor(v) for v in n.inputs)
    return call(f"{x.atom}.index_add", [str(n.attrs["axis"]), index, update])


def _update_slice(p: Printer, n: Node) -> Text:
    x, update, start = n.inputs
    axis = n.attrs["axis"] % x.type.rank
    rows = update.type.shape[axis]
    where = p.arg(start)
    if rows == 1:
        index = f"{where.atom}.reshape(1)"
    else:
        index = f"{where.at(SUM)} + torch.arange({p.size(rows).code}, device={p.arg(x).atom}.device)"
    return call(f"{p.arg(x).atom}.index_copy", [str(axis), index, p.arg(update)])


def _full(p: Printer, n: Node) -> Text:
    (like,), out = n.inputs, n.outputs[0].type
    value, x = literal(n.attrs["value"]), p.arg(like)
    if tuple(out.shape) == tuple(like.type.shape) and out.dtype == like.type.dtype:
        return call("torch.full_like", [x, value]) if n.attrs["value"] else call("torch.zeros_like", [x])
    factor = n.attrs.get("factor", 1)
    batch = f"{x.atom}.shape[0]" if factor == 1 else f"{int(factor)} * {x.atom}.shape[0]"
    sizes = [batch, *(p.size(d).code for d in n.attrs["shape"])]
    dtype = None if out.dtype == like.type.dtype else Text(TORCH_DTYPE[out.dtype])
    if not n.attrs["value"]:
        return call(f"{x.atom}.new_zeros", sizes, dtype=dtype)
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({commas(sizes)})"
    return call(f"{x.atom}.new_full", [shape, value], dtype=dtype)


def _reduce(method: str) -> Row:
    def row(p: Printer, n: Node) -> Text:
        axes, keep = tuple(int(a) for a in n.attrs["axes"]), n.attrs["keepdims"]
        x = p.tensor(n.inputs[0]).atom
        if not keep and {a % n.inputs[0].type.rank for a in axes} == set(range(n.inputs[0].type.rank)):
            return call(f"{x}.{method}", [])
        dim = axes[0] if len(axes) == 1 else axes
        return call(f"{x}.{method}", [], dim=dim, keepdim=True if keep else None)

    return row


def _norm(function: str) -> Row:
    def row(p: Printer, n: Node) -> Text:
        x = n.inputs[0]
        params = [p.arg(v) for v in n.inputs[1:]]
        return call(function, [p.arg(x), f"({p.size(x.type.shape[-1]).code},)", *params], eps=n.attrs["eps"])

    return row


def _group_norm(p: Printer, n: Node) -> Text:
    x, *params = (p.arg(v) for v in n.inputs)
    return call("F.group_norm", [x, p.size(n.attrs["groups"]), *params], eps=n.attrs["eps"])


def conv_keywords(attrs: Any) -> dict[str, Any]:
    """stride, padding, dilation, groups where they are not PyTorch's defaults."""
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
    return {k: None if attrs.get(k, d) in (d, (d, d)) else _plain(attrs[k]) for k, d in defaults.items()}


def _plain(value: Any) -> Any:
    return tuple(int(v) for v in value) if isinstance(value, tuple) else int(value)


def _conv(function: str) -> Row:
    return lambda p, n: call(function, [p.arg(v) for v in n.inputs], **conv_keywords(n.attrs))


def _attention(p: Printer, n: Node) -> Text:
    q, k = n.inputs[:2]
    return call(
        "F.scaled_dot_product_attention",
        [p.arg(v) for v in n.inputs[:3]],
        attn_mask=p.arg(n.inputs[3]) if len(n.inputs) > 3 else None,
        is_causal=True if n.attrs["causal"] else None,
        scale=n.attrs.get("scale"),
        enable_gqa=True if q.type.shape[1] != k.type.shape[1] else None,
    )


def _rotary(p: Printer, n: Node) -> Text:
    name = p.helper("apply_rotary" if n.attrs["interleaved"] else "apply_rotary_halves")
    return call(name, [p.arg(v) for v in n.inputs])


def _timestep(p: Printer, n: Node) -> Text:
    period = n.attrs["max_period"]
    return call(
        p.helper("timestep_embedding"),
        [p.arg(n.inputs[0]), p.size(n.attrs["dim"])],
        max_period=None if period == 10000 else period,
    )


def _dropout(p: Printer, n: Node) -> Text:
    return call("F.dropout", [p.arg(n.inputs[0]), literal(n.attrs["p"]), "self.training"])


TORCH: dict[str, Row] = {
    "neg": lambda p, n: Text(f"-{p.arg(n.inputs[0]).at(UNARY)}", UNARY),
    **{f: _function(f"torch.{f}") for f in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "erf")},
    **{f: _function(f"torch.{f}") for f in ("abs", "floor")},
    "relu": _function("F.relu"),
    "silu": _function("F.silu"),
    "gelu": lambda p, n: call(
        "F.gelu", [p.tensor(n.inputs[0])], approximate="tanh" if n.attrs["approximate"] == "tanh" else None
    ),
    "add": _add,
    "sub": _infix("-", SUM, SUM + 1),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "maximum": _extreme("maximum", "min"),
    "minimum": _extreme("minimum", "max"),
    "equal": _infix("==", COMPARE, COMPARE + 1),
    "less": _infix("<", COMPARE, COMPARE + 1),
    "less_equal": _infix("<=", COMPARE, COMPARE + 1),
    "greater": _infix(">", COMPARE, COMPARE + 1),
    "logical_and": _infix("&", AND),
    "logical_or": _infix("|", OR),
    "clamp": _clamp,
    "cast": _cast,
    "where": _where,
    "full": _full,
    "reshape": reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast,
    "concat": _concat,
    "split": _split,
    "unbind": _unbind,
    "slice": _slice,
    "pad": _pad,
    "take": _take,
    "take_along": _take_along,
    "scatter_add": _scatter_add,
    "update_slice": _update_slice,
    "sum": _reduce("sum"),
    "mean": _reduce("mean"),
    "max": _reduce("amax"),
    "softmax": lambda p, n: call("F.softmax", [p.arg(n.inputs[0])], dim=n.attrs["axis"]),
    "log_softmax": lambda p, n: call("F.log_softmax", [p.arg(n.inputs[0])], dim=n.attrs["axis"]),
    "argmax": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.argmax", [], dim=n.attrs["axis"]),
    "top_k": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.topk", [p.size(n.attrs["k"])]),
    "cumsum": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.cumsum", [], dim=n.attrs["axis"]),
    "matmul": _infix("@", PRODUCT),
    "linear": _function("F.linear"),
    "conv2d": _conv("F.conv2d"),
    "conv_transpose2d": _conv("F.conv_transpose2d"),
    "embedding": lambda p, n: call("F.embedding", [p.arg(n.inputs[1]), p.arg(n.inputs[0])]),
    "layer_norm": lambda p, n: _norm("F.layer_norm")(p, n),
    "rms_norm": _norm("F.rms_norm"),
    "group_norm": _group_norm,
    "attention": _attention,
    "rotary": _rotary,
    "timestep_embedding": _timestep,
    "dropout": _dropout,
    "stop_gradient": lambda p, n: Text(f"{p.arg(n.inputs[0]).atom}.detach()"),
    "cross_entropy": lambda p, n: call("F.cross_entropy", [p.arg(v) for v in n.inputs], reduction="none"),
}
