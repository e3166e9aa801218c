"""Merges, splits and rescales linear layers; their weights are computed from the model's by recipes.

Symbols: T rows of a sample, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby, pairwise, product
from types import SimpleNamespace

from latentc.ir.builder import Builder, Var, as_tuple
from latentc.ir.core import Node, Param, Recipe, Uses, Value
from latentc.ir.ops.attention import attention_scale
from latentc.ir.types import product as rows_of
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.pattern import Match

SEPARATE_ROWS = 64
"""Rows per sample from which several matmuls cost no more than one; with fewer, reading the weights dominates."""

INNER_WIDTH = 768
"""Channels per part in the rule `inner_parts`."""


def shared(uses: Uses, linear: Node) -> str | None:
    """The reason if the weight or bias of a linear layer or convolution is also used elsewhere, or is not a weight."""
    for value in linear.inputs[1:]:
        if value not in uses.params:
            return f"%{value.name} is not a weight"
        if len(uses.users[value]) > 1 or value in uses.outputs:
            return f"%{value.name} is also used elsewhere"
    return None


def _weights(uses: Uses, linear: Node) -> list[Param]:
    """Weight and bias of a linear layer that shares neither."""
    return [uses.params[value] for value in linear.inputs[1:]]


def _derived(b: Builder, name: str, recipe: Recipe | Param) -> Var:
    """A param, whose name says how it is computed, so that a path means the same in all methods of a class."""
    return b.derived(name, recipe) if isinstance(recipe, Recipe) else Var(recipe.value, b)


def source(param: Param) -> Recipe | Param:
    """The recipe of a param, or the param itself if it is a weight of the model."""
    return param if param.recipe is None else param.recipe


def _part(param: Param, start: int, stop: int, axis: int = 0) -> Recipe:
    return Recipe("slice", (source(param),), {"axis": axis, "start": start, "stop": stop})


# ---- merge_linears: layers with the same input become one


def _together(uses: Uses, linear: Node) -> list[Node]:
    """The linear layers that can be merged with `linear`, including itself, in order."""

    def fits(node: Node) -> bool:
        return (
            node.op == "linear"
            and node.inputs[0] is linear.inputs[0]
            and len(node.inputs) == len(linear.inputs)
            and shared(uses, node) is None
            and not _expert(uses, node)
        )

    return [node for node in uses.users[linear.inputs[0]] if fits(node)]


def _expert(uses: Uses, linear: Node) -> bool:
    """True for the layer of an expert: all experts read the same tokens, but are too many to be merged."""
    return any(param.recipe is not None and param.recipe.op == "pick" for param in _weights(uses, linear))


def _merge_check(match: Match) -> str | None:
    if reason := shared(match.uses, match.root):
        return reason
    if _expert(match.uses, match.root):
        return f"%{match.root.inputs[1].name} is the weight of an expert"
    nodes = _together(match.uses, match.root)
    if len(nodes) == 1:
        return f"no other linear layer reads %{match.values['x'].name}"
    return None if nodes[0] is match.root else f"it is merged into that of %{nodes[0].outputs[0].name}"


def _merge(b: Builder, v: SimpleNamespace) -> Mapping[Value, Var]:
    nodes = _together(v.match.uses, v.match.root)
    params = [_weights(v.match.uses, node) for node in nodes]
    merged = []
    for column in zip(*params, strict=True):
        name = "-".join(param.name for param in column)
        merged.append(_derived(b, name, Recipe("concat", tuple(map(source, column)), {"axis": 0})))
    h: Var = b.linear(v.x, *merged)
    sizes = tuple(node.outputs[0].type.shape[-1] for node in nodes)
    names = " ".join(node.outputs[0].name for node in nodes)
    parts = b.split(h, axis=h.type.rank - 1, sizes=sizes, out=names)
    return {node.outputs[0]: part for node, part in zip(nodes, parts, strict=True)}


MERGE_LINEARS = Rule("merge_linears", ("linear(x, w, b)", "linear(x, w)"), _merge, _merge_check)

# ---- separate_linears: a layer whose result is split becomes several


def _few(h: Value) -> str | None:
    """The reason if the rows of a layer's result are too few for several matmuls."""
    rows = h.type.with_shape(h.type.shape[1:-1]).count()
    return f"{rows} rows per sample are too few: wants {SEPARATE_ROWS}" if rows < SEPARATE_ROWS else None


def _separate_check(match: Match) -> str | None:
    h = match.values["h"]
    if match.root.attrs["axis"] % h.type.rank != h.type.rank - 1:
        return "the split is not along its features"
    return _few(h) or shared(match.uses, match.node("h"))


def _separate(b: Builder, v: SimpleNamespace) -> Mapping[Value, Var]:
    params = _weights(v.match.uses, v.match.node("h"))
    results = v.match.root.outputs
    ends = [0, *accumulate(int(size) for size in v.match.root.attrs["sizes"])]
    replaced = {}
    for result, (start, stop) in zip(results, pairwise(ends), strict=True):
        cut = [_derived(b, f"{param.name}.{start}-{stop}", _part(param, start, stop)) for param in params]
        h: Var = b.linear(v.x, *cut, out=result.name)
        replaced[result] = h
    return replaced


SEPARATE_LINEARS = Rule(
    "separate_linears", ("split((h := linear(x, w, b)))", "split((h := linear(x, w)))"), _separate, _separate_check
)

# ---- inner_parts: a feed-forward becomes the sum of several with fewer inner channels

_UP = ("linear(x, {0}, {0}_bias)", "linear(x, {0})")
_INNER = (
    *(f"(a := {op}((h := {up.format('w1')})))" for op, up in product(("gelu", "silu", "relu"), _UP)),
    *(f"(a := silu((h := {up.format('w1')}))) * (g := {up.format('w3')})" for up in _UP),
)
_FEED_FORWARDS = tuple(f"(y := linear({inner}, w2{bias}))" for inner, bias in product(_INNER, (", w2_bias", "")))


def _inner_parts(width: int) -> int:
    """Number of equal parts of about INNER_WIDTH channels, a multiple of 32, of a width."""
    parts = max(1, width // INNER_WIDTH)
    while width % (32 * parts) and parts > 1:
        parts -= 1
    return parts


def _layers(match: Match) -> list[Node]:
    """The layers that compute the inner channels."""
    return [match.node(name) for name in ("h", "g") if name in match.values]


def _inner_check(match: Match) -> str | None:
    width = int(match.shape("w2")[-1])
    if _inner_parts(width) == 1:
        return f"{width} inner channels: wants {2 * INNER_WIDTH}, and equal parts that are multiples of 32"
    for node in (*_layers(match), match.root):
        if reason := shared(match.uses, node):
            return reason
        if computed := [p.name for p in _weights(match.uses, node) if p.recipe is not None]:
            return f"%{computed[0]} has a recipe already"  # parts of it could not be inverted
    return _few(match.root.outputs[0])


def _inner(b: Builder, v: SimpleNamespace) -> Var:
    width = int(v.match.shape("w2")[-1])
    size = width // _inner_parts(width)
    act = v.match.node("a")
    down, *bias = _weights(v.match.uses, v.match.root)
    total: Var | None = None
    # As rows, and added as rows: OpenVINO 2026.4 cannot compile a sum of matmuls in several axes that ends in another
    # matmul without a norm between them, as TarFlow's last projection ("Topological order is required, but not set").
    *lead, channels = v.x.shape
    x = b.reshape(v.x, shape=(rows_of(lead), channels))
    for start in range(0, width, size):
        stop = start + size
        ups = [
            b.linear(x, *(_derived(b, f"{p.name}.{start}-{stop}", _part(p, start, stop)) for p in params))
            for params in (_weights(v.match.uses, node) for node in _layers(v.match))
        ]
        h = b.op(act.op, ups[0], **act.attrs)
        columns = _derived(b, f"{down.name}.columns{start}-{stop}", _part(down, start, stop, axis=1))
        part = b.linear(h * ups[1] if len(ups) > 1 else h, columns, *(_derived(b, p.name, p) for p in bias))
        bias, total = [], part if total is None else total + part
    assert total is not None
    return b.reshape(total, shape=v.match.root.outputs[0].type.shape)


INNER_PARTS = Rule("inner_parts", _FEED_FORWARDS, _inner, _inner_check)

# ---- linear_bias: an added bias goes into the layer


def _bias_check(match: Match) -> str | None:
    width = match.shape("w")[0]
    bias = match.values["bias"]
    return None if bias.type.shape == (width,) else f"%{bias.name} is {bias.type}, not one value per feature ({width})"


LINEAR_BIAS = Rule(
    "linear_bias",
    ("linear(x, w) + bias",),
    lambda b, v: b.linear(v.x, v.w, v.bias),
    _bias_check,
)

# ---- query_scale: the scale of attention goes into the query projection

_LINEAR_MOVES = ("transpose", "reshape", "rotary")  # scaling their input scales their output


def _query_path(match: Match) -> tuple[list[Node], str | None]:
    """The nodes on the path from the query projection to the attention, and the reason if they do not fit."""
    path: list[Node] = []
    user, value = match.root, match.values["q"]
    while True:
        node = match.uses.made_by.get(value)
        if node is None or node.op not in (*_LINEAR_MOVES, "linear"):
            return path, f"%{value.name} is {'an input' if node is None else node.op}, not the result of a linear layer"
        if match.uses.users[value] != [user] or value in match.uses.outputs or user.inputs.count(value) > 1:
            return path, f"%{value.name} is also used elsewhere"
        path.insert(0, node)
        if node.op == "linear":
            return path, shared(match.uses, node)
        user, value = node, node.inputs[0]


def _query_check(match: Match) -> str | None:
    if attention_scale(match.values["q"].type, match.root.attrs) == 1.0:
        return "its scale is 1"
    return _query_path(match)[1]


def _query(b: Builder, v: SimpleNamespace) -> Var:
    linear, *moves = _query_path(v.match)[0]
    params = _weights(v.match.uses, linear)
    scale = attention_scale(v.match.values["q"].type, v.match.root.attrs)
    scaled = [
        _derived(b, f"{p.name}.times{scale:.6g}", Recipe("affine", (source(p),), {"mul": scale, "add": 0.0}))
        for p in params
    ]
    q: Var = b.linear(v.env[linear.inputs[0]], *scaled, out=linear.outputs[0].name)
    for node in moves:
        q = b.op(node.op, q, *(v.env[x] for x in node.inputs[1:]), out=node.outputs[0].name, **node.attrs)
    rest = [v.env[x] for x in v.match.root.inputs[1:]]
    out: Var = b.attention(q, *rest, out=v.match.root.outputs[0].name, **{**v.match.root.attrs, "scale": 1.0})
    return out


QUERY_SCALE = Rule("query_scale", ("attention(q, k, v)", "attention(q, k, v, mask)"), _query, _query_check)

# ---- modulation_one: the `1 +` of `1 + scale` goes into the bias of the projection that computes `scale`


def _increments(uses: Uses, linear: Node) -> tuple[list[Node], dict[int, Node]]:
    """The nodes from a linear layer to the split of its result, and {number of a part: its only use, `1 + part`}."""
    chain, node = [], linear
    while len(users := uses.users.get(node.outputs[0], [])) == 1 and node.outputs[0] not in uses.outputs:
        node = users[0]
        if node.op not in ("reshape", "split"):
            break
        chain.append(node)
        if node.op == "split":
            break
    if not chain or chain[-1].op != "split":
        return [], {}
    split = chain[-1]
    rank = split.inputs[0].type.rank
    whole = split.inputs[0].type.shape[-1] == linear.outputs[0].type.shape[-1]
    if split.attrs["axis"] % rank != rank - 1 or not whole:
        return [], {}
    larger: dict[int, Node] = {}
    for number, part in enumerate(split.outputs):
        users = uses.users.get(part, [])
        if len(users) == 1 and part not in uses.outputs and users[0].op == "add":
            others = [uses.number(x) for x in users[0].inputs if x is not part]
            if others == [1.0] and users[0].outputs[0].type == part.type:
                larger[number] = users[0]
    return chain, larger


def _one_check(match: Match) -> str | None:
    if not _increments(match.uses, match.root)[1]:
        return "no part of it is used only in `1 + part`"
    return shared(match.uses, match.root)


def _runs(sizes: Sequence[int], larger: Mapping[int, Node]) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, True if 1 is added) for runs of neighbouring parts that are treated the same way."""
    ends = list(accumulate(sizes))
    for one, group in groupby(range(len(sizes)), lambda number: number in larger):
        numbers = list(group)
        yield ends[numbers[0]] - sizes[numbers[0]], ends[numbers[-1]], one


def _one(b: Builder, v: SimpleNamespace) -> Mapping[Value, Var]:
    chain, larger = _increments(v.match.uses, v.match.root)
    bias = v.match.uses.params[v.match.values["b"]]
    parts = []
    for start, stop, one in _runs([int(size) for size in chain[-1].attrs["sizes"]], larger):
        part = _part(bias, start, stop)
        parts.append(Recipe("affine", (part,), {"mul": 1.0, "add": 1.0}) if one else part)
    where = "-".join(map(str, larger))
    h: Var = b.linear(v.x, v.w, _derived(b, f"{bias.name}.one{where}", Recipe("concat", tuple(parts), {"axis": 0})))
    replaced = {v.match.root.outputs[0]: h}
    results: tuple[Var, ...] = (h,)
    for node in chain:
        names = " ".join(o.name for o in node.outputs)
        results = as_tuple(b.op(node.op, results[0], out=names, **node.attrs))
        replaced.update(zip(node.outputs, results, strict=True))
    replaced.update((node.outputs[0], results[number]) for number, node in larger.items())
    return replaced


MODULATION_ONE = Rule("modulation_one", ("linear(x, w, b)",), _one, _one_check)
