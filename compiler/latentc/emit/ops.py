"""One row per op: how it is written in PyTorch. `TORCH[op](printer, node)` is the right-hand side of an assignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from latentc.emit.shapes import SHAPES
from latentc.emit.text import AND, COMPARE, MATMUL, OR, POWER, PRODUCT, SUM, UNARY, Text, call, literal
from latentc.ir.core import Node, Value
from latentc.weights.expr import DTYPE_OF_TORCH

if TYPE_CHECKING:
    from latentc.emit.expressions import Expressions as Printer
    from latentc.emit.shapes import Row

TORCH_DTYPE = {ours: f"torch.{theirs}" for theirs, ours in DTYPE_OF_TORCH.items()}


def _operator(symbol: str, level: int, right: int) -> Callable[[Text, Text], Text]:
    return lambda a, b: Text(f"{a.at(level)} {symbol} {b.at(right)}", level)


NUMBERS: dict[str, Callable[..., Text]] = {
    "neg": lambda a: Text(f"-{a.at(UNARY)}", UNARY),
    "sqrt": lambda a: Text(f"{a.at(POWER + 1)} ** 0.5", POWER),
    "rsqrt": lambda a: Text(f"{a.at(POWER + 1)} ** -0.5", POWER),
    "exp": lambda a: call("math.exp", [a]),
    "log": lambda a: call("math.log", [a]),
    "add": _operator("+", SUM, SUM),
    "sub": _operator("-", SUM, SUM + 1),
    "mul": _operator("*", PRODUCT, PRODUCT),
    "div": _operator("/", PRODUCT, PRODUCT + 1),
    "pow": _operator("**", POWER, UNARY),
}
"""Ops on Python numbers."""


def _function(name: str, **keywords: Any) -> Row:
    return lambda p, n: call(name, [p.tensor(x) for x in n.inputs], **keywords)


def _infix(symbol: str, level: int, right: int | None = None) -> Row:
    """A binary operator; `right`: precedence required of its right operand, `level + 1` if it does not associate."""

    def row(p: Printer, n: Node) -> Text:
        a, b = (p.arg(x) for x in n.inputs)
        if all(p.number(x) for x in n.inputs):
            a = p.tensor(n.inputs[0])
        return Text(f"{a.at(level)} {symbol} {b.at(level if right is None else right)}", level)

    return row


def _modulation(p: Printer, n: Node) -> Text | None:
    """`x * (scale + 1) + shift` with one scale and shift per sample, the conditioning of adaptive norms."""
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
    """A product; factors 1 and -1 are simplified."""
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


def _sub(p: Printer, n: Node) -> Text:
    index = _index(p, n.inputs[0])
    if index is not None and p.number(n.inputs[1]) and p.arg(n.inputs[1]).code == "1":
        return index
    return _infix("-", SUM, SUM + 1)(p, n)


def _index(p: Printer, value: Value) -> Text | None:
    """`torch.arange(B)`, if a value counts the samples from 1 on: the cumulative sum of ones."""
    total = p.folded(value)
    ones = p.folded(total.inputs[0]) if total is not None and total.op == "cumsum" else None
    if ones is None or ones.op != "full" or ones.attrs["value"] != 1 or value.type.rank != 1:
        return None
    like = p.arg(ones.inputs[0]).atom
    dtype = None if value.type.dtype == "i64" else p.dtype(value.type.dtype)
    return call("torch.arange", [p.size(value.type.shape[0])], dtype=dtype, device=Text(f"{like}.device"))


def _pow(p: Printer, n: Node) -> Text:
    a, b = (p.arg(x) for x in n.inputs)
    return Text(f"{a.at(POWER + 1)} ** {b.at(UNARY)}", POWER)


def _extreme(name: str, bound: str) -> Row:
    """`maximum` or `minimum`: a clamp if one operand is a number."""

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
    if to == "f32" and not n.inputs[0].type.is_float and p.dtype(to).code != TORCH_DTYPE[to]:
        return call(f"{x}.to", [p.dtype(to)])
    return Text(f"{x}.{short}()" if short else f"{x}.to({TORCH_DTYPE[to]})")


def _where(p: Printer, n: Node) -> Text:
    condition, a, b = n.inputs
    branches = [p.arg(a), p.arg(b)]
    if p.number(a) and p.number(b):
        branches[0] = p.tensor(a)
    return call("torch.where", [p.arg(condition), *branches])


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


def _reflect_pad(p: Printer, n: Node) -> Text:
    axes, size = n.inputs[0].type.rank - 2, n.attrs["size"]
    sizes = size if isinstance(size, tuple | list) else (size,) * axes
    widths = tuple(int(size) for size in reversed(sizes) for _ in range(2))
    return call("F.pad", [p.arg(n.inputs[0]), literal(widths)], mode=literal("reflect"))


def _resize(p: Printer, n: Node) -> Text:
    size = n.attrs["size"]
    whole = size if isinstance(size, tuple | list) else (size, size)
    mode = n.attrs["mode"]
    how = {"antialiased": {"antialias": "True"}, "aligned": {"align_corners": "True"}}.get(mode, {})
    how = {"mode": '"bilinear"' if how else f'"{mode}"', **how}
    texts = {name: Text(value) for name, value in how.items()}
    return call("F.interpolate", [p.arg(n.inputs[0])], size=per_axis(p.size, whole), **texts)


def _grid_sample(p: Printer, n: Node) -> Text:
    outside = n.attrs["outside"]
    how = None if outside == "zeros" else Text(f'"{outside}"')
    return call("F.grid_sample", [p.arg(v) for v in n.inputs], padding_mode=how, align_corners=Text("False"))


def _pool(function: str) -> Row:
    def row(p: Printer, n: Node) -> Text:
        return call(f"{function}{n.inputs[0].type.rank - 2}d", [p.arg(n.inputs[0]), per_axis(p.size, n.attrs["size"])])

    return row


def per_axis(size: Callable[[Any], Text], value: Any) -> Text:
    """One size per spatial axis: `3` if all are equal, else `(1, 3)`."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    texts = [size(v).code for v in values]
    return size(values[0]) if all(v == values[0] for v in values) else Text(f"({', '.join(texts)})")


def conv_keywords(attrs: Any, size: Callable[[Any], Text]) -> dict[str, Any]:
    """Keyword arguments of a convolution that differ from PyTorch's defaults."""
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
    texts = {k: per_axis(size, attrs[k]) for k in defaults if k in attrs}
    return {k: text for k, text in texts.items() if text.code != str(defaults[k])}


def _conv(function: str) -> Row:
    def row(p: Printer, n: Node) -> Text:
        axes = n.inputs[0].type.rank - 2
        return call(f"{function}{axes}d", [p.arg(v) for v in n.inputs], **conv_keywords(n.attrs, p.size))

    return row


def _attention(p: Printer, n: Node) -> Text:
    q, k = n.inputs[:2]
    mask = p.tensor(n.inputs[3]) if len(n.inputs) > 3 else None
    if mask and n.inputs[3].type.rank < 2:
        mask = Text(f"{mask.atom}[{', '.join(['None'] * (2 - n.inputs[3].type.rank))}]")
    causal = n.attrs["causal"]
    if mask and causal:  # PyTorch takes only one of the two
        mask = call(p.helper("causal_mask"), [mask, p.arg(q)])
    return call(
        "F.scaled_dot_product_attention",
        [p.arg(v) for v in n.inputs[:3]],
        attn_mask=mask,
        dropout_p=_dropped(p, n.attrs.get("dropout", 0.0)),
        is_causal=True if causal and not mask else None,
        scale=n.attrs.get("scale"),
        enable_gqa=True if q.type.shape[1] != k.type.shape[1] else None,
    )


def _dropped(p: Printer, share: float) -> Text | None:
    """The share of attention weights that is dropped: PyTorch drops it in inference, too."""
    return Text(f"{literal(share).code} if {p.training} else 0.0") if share and p.training != "False" else None


def _rotary(p: Printer, n: Node) -> Text:
    name = p.helper("apply_rotary" if n.attrs["interleaved"] else "apply_rotary_halves")
    return call(name, [p.arg(v) for v in n.inputs])


def _timestep(p: Printer, n: Node) -> Text:
    period = n.attrs["max_period"]
    return call(
        p.helper("timestep_embedding"),
        [p.arg(n.inputs[0]), p.size(n.attrs["dim"])],
        max_period=None if period == 10000 else period,
        endpoint=n.attrs.get("endpoint") or None,
    )


def _training_noise(p: Printer, n: Node) -> Text:
    return call(p.helper(f"with_{n.attrs['mode']}_noise"), [p.arg(n.inputs[0]), literal(n.attrs["scale"]), p.training])


def _fake_quantize(p: Printer, n: Node) -> Text:
    to = n.attrs["to"]
    args = [p.arg(v) for v in n.inputs]
    if to == "f8e4m3":
        return call(p.helper("fake_quantize_e4m3"), args)
    return call(p.helper("fake_quantize"), args, bits=None if to == "i8" else 4)


def _fake_quantize_blocks(p: Printer, n: Node) -> Text:
    p.helper("rounded_e2m1")
    return call(p.helper(f"fake_quantize_{n.attrs.get('format', 'nvfp4')}"), [p.arg(v) for v in n.inputs])


def _fake_quantize_weight(p: Printer, n: Node) -> Text:
    to, most, args = n.attrs["to"], n.attrs["most"], [p.arg(n.inputs[0])]
    p.helper("channel_scale")
    if to == "f8e4m3":
        p.helper("fake_quantize_e4m3")
        return call(p.helper("fake_quantize_weight_e4m3"), args)
    p.helper("fake_quantize")
    words = {"most": None if most == 127 else most, "bits": None if to == "i8" else 4, "block": n.attrs.get("block")}
    return call(p.helper("fake_quantize_weight"), args, **words)


def _helper(name: str, *attributes: str, training: Literal["", "last", "keyword"] = "") -> Row:
    """A helper called on the operands and, by name, on attributes (`axis` as `dim`); `training`: how it is passed."""

    def row(p: Printer, n: Node) -> Text:
        args = [p.arg(v) for v in n.inputs] + [Text(p.training)] * (training == "last")
        words = {"training": Text(p.training)} if training == "keyword" else {}
        return call(p.helper(name), args, **words, **{"dim" if a == "axis" else a: n.attrs.get(a) for a in attributes})

    return row


TORCH: dict[str, Row] = {
    **SHAPES,
    "neg": lambda p, n: Text(f"-{p.arg(n.inputs[0]).at(UNARY)}", UNARY),
    **{f: _function(f"torch.{f}") for f in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "atan", "acos")},
    **{f: _function(f"torch.{f}") for f in ("tanh", "sigmoid", "erf")},
    **{f: _function(f"torch.{f}") for f in ("abs", "floor")},
    **{f: _function(f"F.{f}") for f in ("relu", "silu", "softplus", "mish", "elu", "linear")},
    "leaky_relu": lambda p, n: call("F.leaky_relu", [p.tensor(n.inputs[0]), literal(n.attrs["slope"])]),
    "gelu": lambda p, n: call(
        "F.gelu", [p.tensor(n.inputs[0])], approximate="tanh" if n.attrs["approximate"] == "tanh" else None
    ),
    "add": _add,
    "sub": _sub,
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
    "clamp": lambda p, n: call(
        f"{p.tensor(n.inputs[0]).atom}.clamp", [literal(n.attrs["low"]), literal(n.attrs["high"])]
    ),
    "cast": _cast,
    "where": _where,
    "sum": _reduce("sum"),
    "mean": _reduce("mean"),
    "max": _reduce("amax"),
    "softmax": lambda p, n: call("F.softmax", [p.arg(n.inputs[0])], dim=n.attrs["axis"]),
    "log_softmax": lambda p, n: call("F.log_softmax", [p.arg(n.inputs[0])], dim=n.attrs["axis"]),
    "logsumexp": lambda p, n: call("torch.logsumexp", [p.arg(n.inputs[0])], dim=n.attrs["axis"]),
    "argsort": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.argsort", [], stable=True),
    "argmax": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.argmax", [], dim=n.attrs["axis"]),
    "top_k": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.topk", [p.size(n.attrs["k"])]),
    "cumsum": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.cumsum", [], dim=n.attrs["axis"]),
    "cumprod": lambda p, n: call(f"{p.arg(n.inputs[0]).atom}.cumprod", [], dim=n.attrs["axis"]),
    "matmul": _infix("@", MATMUL, PRODUCT + 1),
    "conv": _conv("F.conv"),
    "conv_transpose": _conv("F.conv_transpose"),
    "embedding": lambda p, n: call("F.embedding", [p.arg(n.inputs[1]), p.arg(n.inputs[0])]),
    "layer_norm": _norm("F.layer_norm"),
    "rms_norm": _norm("F.rms_norm"),
    "group_norm": _group_norm,
    "batch_norm": lambda p, n: call("F.batch_norm", [p.arg(v) for v in n.inputs], eps=n.attrs["eps"]),
    "fake_quantize": _fake_quantize,
    "fake_quantize_blocks": _fake_quantize_blocks,
    "fake_quantize_nvfp4": _fake_quantize_blocks,
    "fake_quantize_weight": _fake_quantize_weight,
    "spectral_norm": _helper("spectral_norm", "eps", training="keyword"),
    "mp_silu": _helper("mp_silu"),
    "mp_sum": _helper("mp_sum", "balance"),
    "mp_concat": _helper("mp_concat", "axis", "balance"),
    "pixel_norm": lambda p, n: call(
        p.helper("pixel_norm"),
        [p.arg(n.inputs[0])],
        dim=n.attrs["axis"],
        eps=None if n.attrs["eps"] == 1e-4 else n.attrs["eps"],
    ),
    "forced_norm": _helper("forced_norm", "eps", training="last"),
    "weight_norm": _helper("weight_norm", "axis"),
    "upsample_nearest": lambda p, n: call(
        "F.interpolate", [p.arg(n.inputs[0])], scale_factor=per_axis(p.size, n.attrs["factor"])
    ),
    "reflect_pad": _reflect_pad,
    "resize": _resize,
    "grid_sample": _grid_sample,
    "avg_pool": _pool("F.avg_pool"),
    "max_pool": _pool("F.max_pool"),
    "attention": _attention,
    "rotary": _rotary,
    "timestep_embedding": _timestep,
    "dropout": lambda p, n: call("F.dropout", [p.arg(n.inputs[0]), literal(n.attrs["p"]), p.training]),
    "drop_path": _helper("drop_path", training="last"),
    "training_noise": _training_noise,
    "posterior_mean": _helper("posterior_mean", "extra"),
    "auxiliary_loss": lambda p, n: call(
        f"{p.helper('AuxiliaryLoss')}.apply", [*(p.arg(v) for v in n.inputs), Text(p.training)]
    ),
    "experts": _helper("routed_experts"),
    "selective_scan": _helper("selective_scan"),
    "depthwise_each": _helper("depthwise_each"),
    "gelu_experts": _helper("routed_mlps"),
    "pool_choice": lambda p, n: call(
        p.helper("pool_choice"),
        [p.arg(v) for v in n.inputs[:3]],
        capacity=p.arg(n.inputs[3]),
        training=Text(p.training),
        momentum=n.attrs["momentum"],
    ),
    "exchanged": _helper("exchanged", training="last"),
    "noted": _helper("noted", "momentum", training="keyword"),
    "running_mean": _helper("running_mean", "momentum", training="keyword"),
    "set_from_data": _helper("set_from_data", training="last"),
    "training_passes": _helper("training_passes", "otherwise", training="last"),
    "stop_gradient": lambda p, n: Text(f"{p.arg(n.inputs[0]).atom}.detach()"),
    "cross_entropy": lambda p, n: call("F.cross_entropy", [p.arg(v) for v in n.inputs], reduction="none"),
}
