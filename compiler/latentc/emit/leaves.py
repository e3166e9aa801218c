"""Leaf modules: which params of a class form an nn.Linear, nn.Embedding, …, its constructor and initialisation.

Layers with normalised weights are leaves too: `normed_layers` merges the norm and the layer into one node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from latentc.emit.helpers import HELPERS
from latentc.emit.ops import conv_keywords, per_axis
from latentc.emit.text import Call, Text, call, commas, layout, literal
from latentc.ir.core import Function, Init, Module, Node, Param, Value, reachable
from latentc.ir.types import TensorType

# op -> index of the weight among its operands; the operands after it are the bias.
WEIGHT_AT = {"linear": 1, "conv": 1, "conv_transpose": 1, "embedding": 0}
WEIGHT_AT |= {"layer_norm": 1, "rms_norm": 1, "group_norm": 1, "batch_norm": 1}
# Names of a leaf's params, in the order of its op's operands.
_NAMES = ["weight", "bias"]
_BATCH_NORM = ["running_mean", "running_var", *_NAMES]
NORMS = {"layer_norm": "nn.LayerNorm", "rms_norm": "nn.RMSNorm"}
Size = Callable[[Any], Text]


@dataclass(frozen=True)
class Leaf:
    """A module without children: state-dict prefix, op, attributes, params (weight, then bias if it has one)."""

    path: str
    op: str
    attrs: tuple[tuple[str, Any], ...]
    params: tuple[Param, ...]


def find_leaves(functions: Sequence[Function]) -> dict[str, Leaf]:
    """Leaves of a class by prefix: params `P.weight` [and `P.bias`] that one op takes together.

    If there is a `P.bias` that the op does not take, P is no leaf, because the module would add that bias.
    """
    leaves: dict[str, Leaf] = {}
    for fn in functions:
        params = {p.value: p for p in fn.params}
        for node in fn.nodes:
            leaf = leaf_of(node, params)
            if leaf is not None:
                known = leaves.setdefault(leaf.path, leaf)
                if len(leaf.params) > len(known.params):
                    leaves[leaf.path] = leaf
    names = {p.name for fn in functions for p in fn.params}
    taken = {p.name for leaf in leaves.values() for p in leaf.params}
    return {path: leaf for path, leaf in leaves.items() if f"{path}.bias" not in names - taken}


def leaf_of(node: Node, params: dict[Value, Param]) -> Leaf | None:
    """The leaf of a node, if its params are named like those of a module."""
    at = WEIGHT_AT.get(node.op)
    if at is None or len(node.inputs) <= at:
        return None
    taken = list(node.inputs[at:])
    if node.op == "embedding":
        taken = [node.inputs[0], *node.inputs[2:]]
    if any(v not in params or params[v].kind not in ("weight", "state") for v in taken):
        return None
    names = [params[v].name for v in taken]
    if any(
        params[v].kind == "state" and name.endswith((".weight", ".bias")) for v, name in zip(taken, names, strict=True)
    ):
        return None  # as a torch module it would be trained
    path = names[0].rpartition(".")[0]
    wanted = _BATCH_NORM if node.op == "batch_norm" else _NAMES
    axes = node.inputs[0].type.rank - 2
    if node.op == "batch_norm" and (axes not in (0, 2) or len(names) == 3):
        return None
    if (norm := NORMED.get(node.attrs.get(NORM, ""))) is not None and norm.extra:
        wanted = [*_NAMES[: len(names) - len(norm.extra)], *norm.extra]
    if not path or names != [f"{path}.{name}" for name in wanted[: len(names)]]:
        return None
    attrs = {**node.attrs, "axes": axes} if node.op == "batch_norm" else node.attrs
    return Leaf(path, node.op, tuple(sorted(attrs.items())), tuple(params[v] for v in taken))


@dataclass(frozen=True)
class NormedLayers:
    """How layers whose weight an op normalises are emitted: as a class `prefix` with a name of `layers` {op: name}.

    A name may hold the number of spatial axes. `helpers` are what the classes use, `defaults` those of their keyword
    arguments, `extra` the op's params after the weight, `starts` how the classes start params.
    """

    prefix: str
    layers: Mapping[str, str]
    helpers: tuple[str, ...]
    defaults: Mapping[str, Any]
    extra: tuple[str, ...] = ()
    starts: Mapping[str, Init] = field(default_factory=dict)

    def of(self, op: str, weight: TensorType) -> str | None:
        """The class of a layer, if there is one."""
        name = self.layers.get(op, "").format(axes=weight.rank - 2)
        return f"{self.prefix}{name}" if name and f"{self.prefix}{name}" in HELPERS else None


NORMED = {
    "spectral_norm": NormedLayers(
        "SN",
        {"linear": "Linear", "conv": "Conv{axes}d", "embedding": "Embedding"},
        ("spectral_norm",),
        {"eps": 1e-12},
        ("u",),
    ),
    "forced_norm": NormedLayers(
        "MP",
        {"linear": "Linear", "conv": "Conv{axes}d"},
        ("forced_norm", "MagnitudePreserving"),
        {"eps": 1e-4},
        starts={"weight": Init("normal", {"std": 1.0})},
    ),
    "weight_norm": NormedLayers(
        "WN",
        {"linear": "Linear", "conv": "Conv{axes}d", "conv_transpose": "ConvTranspose{axes}d"},
        ("weight_norm", "WeightNormed"),
        {"dim": 0, "output_std": 1.0},
        ("g",),
        {"weight": Init("normal", {"std": 0.05}), "bias": Init("zeros"), "g": Init("ones")},
    ),
}
NORM, OPTIONS = "norm_of_weight", "options_of_norm"
"""Attributes of a node that normalises its weight: the op of `NORMED`, whose params come last, and its attributes."""


def normed_layers(fn: Function) -> Function:
    """Merges each norm of a weight into the layer that uses its result, if that is its only user and a leaf."""
    params = {p.value: p for p in fn.params}
    users: dict[Value, list[Node]] = {}
    for node in fn.nodes:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    layers: dict[Node, Node] = {}
    for norm in fn.nodes:
        made = norm.outputs[0] if norm.op in NORMED else None
        if made is None or len(users.get(made, [])) != 1 or made in fn.outputs:
            continue
        (user,) = users[made]
        if NORMED[norm.op].of(user.op, made.type) is None or user.inputs[WEIGHT_AT[user.op]] is not made:
            continue
        weight, *others = norm.inputs
        ins = (*(weight if v is made else v for v in user.inputs), *others)
        options = tuple(("dim" if key == "axis" else key, value) for key, value in norm.attrs.items())
        layer = replace(user, inputs=ins, attrs={**user.attrs, NORM: norm.op, OPTIONS: options})
        if leaf_of(layer, params) is not None:
            layers |= {norm: layer, user: layer}
    if not layers:
        return fn
    return fn.with_(nodes=tuple(layers.get(n, n) for n in fn.nodes if n.op not in NORMED or n not in layers))


def normed_leaf(node: Node, params: Mapping[Value, Param]) -> str | None:
    """The path of the layer whose weight a node normalises, if `normed_layers` left the norm where it is."""
    if node.op != "weight_norm" or any(v not in params for v in node.inputs):
        return None
    paths = [params[v].name.rpartition(".") for v in node.inputs]
    return paths[0][0] if [last for _, _, last in paths] == ["weight", "g"] and paths[0][0] == paths[1][0] else None


def norms_in_loops(module: Module, fn: Function) -> bool:
    """True if a loop of a method normalises weights, which are the same in every step."""
    bodies = tuple(node.attrs["body"] for node in fn.nodes if node.op == "loop")
    nodes = (node for name in reachable(module, bodies) for node in module.functions[name].nodes)
    return bool(bodies) and any("weight_norm" in (node.op, node.attrs.get(NORM)) for node in nodes)


def same_leaf(a: Leaf, b: Leaf) -> bool:
    names = [p.name for p in a.params] == [p.name for p in b.params]
    return a.op == b.op and a.attrs == b.attrs and names


def constructor(leaf: Leaf, size: Size, helper: Callable[[str], str]) -> Call:
    """`nn.Linear(dim, 3 * dim)`. `helper` records a class that the emitted file has to define."""
    attrs = dict(leaf.attrs)
    norm, options = NORMED.get(attrs.pop(NORM, "")), dict(attrs.pop(OPTIONS, ()))
    weight, bias = leaf.params[0].type.shape, len(leaf.params) > 1 + (len(norm.extra) if norm else 0)
    library = "nn."
    if norm is not None:
        library, options = norm.prefix, {k: v for k, v in options.items() if v != norm.defaults[k]}
        for name in (*norm.helpers, norm.of(leaf.op, leaf.params[0].type) or ""):
            helper(name)
    match leaf.op:
        case "linear":
            return Call.of(
                f"{library}Linear", [size(weight[1]), size(weight[0])], bias=None if bias else False, **options
            )
        case "embedding":
            return Call.of(f"{library}Embedding", [size(weight[0]), size(weight[1])], **options)
        case "batch_norm":
            momentum = None if attrs["momentum"] == 0.1 else attrs["momentum"]
            affine = None if len(leaf.params) > 2 else False
            name = f"nn.BatchNorm{attrs['axes'] or 1}d"
            return Call.of(name, [size(weight[0])], eps=attrs["eps"], momentum=momentum, affine=affine)
        case "layer_norm":
            return Call.of("nn.LayerNorm", [size(weight[0])], eps=attrs["eps"], bias=None if bias else False)
        case "rms_norm":
            return Call.of("nn.RMSNorm", [size(weight[0])], eps=attrs["eps"])
        case "group_norm":
            return Call.of("nn.GroupNorm", [size(attrs["groups"]), size(weight[0])], eps=attrs["eps"])
        case _:
            groups = attrs.get("groups", 1)
            whole, grouped = size(weight[0]), size(weight[1] if groups == 1 else weight[1] * groups)
            channels = [whole, grouped] if leaf.op == "conv_transpose" else [grouped, whole]
            kernel = per_axis(size, weight[2:])
            keywords = conv_keywords(attrs, size) | {"bias": None if bias else False}
            name = f"{'Conv' if leaf.op == 'conv' else 'ConvTranspose'}{len(weight) - 2}d"
            return Call.of(f"{library}{name}", channels, kernel_size=kernel, **keywords, **options)


def init_calls(param: Param, target: str, size: Size, helper: Callable[[str], str]) -> list[str]:
    """Statements that initialise a weight; `size` is the text of a size there, `helper` records what they use."""
    kind, args = param.init.kind, param.init.args
    gain = args.get("gain", math.sqrt(2) if kind.startswith("kaiming") else 1.0)
    match kind:
        case "zeros" | "ones" | "eye" | "orthogonal":
            return [f"nn.init.{kind}_({target})"]
        case "constant":
            return [f"nn.init.constant_({target}, {literal(float(args['value'])).code})"]
        case "normal":
            std = args.get("std", 1.0)
            return [call("nn.init.normal_", [target], std=None if std == 1.0 else std).code]
        case "xavier_uniform" | "xavier_normal":
            of, rank = args.get("of", "kernel"), param.type.rank
            gain = None if gain == 1.0 else gain
            if of == "each":
                return [f"for weight in {target}:", f"    {call(f'nn.init.{kind}_', ['weight'], gain=gain).code}"]
            matrix = of == "matrix" and rank != 2
            return [call(f"nn.init.{kind}_", [f"{target}.flatten(1)" if matrix else target], gain=gain).code]
        case "kaiming_uniform" | "kaiming_normal":
            mode = None if args.get("mode", "fan_in") == "fan_in" else args["mode"]
            linear = None if gain == math.sqrt(2) else "linear"
            text = call(f"nn.init.{kind}_", [target], mode=mode, nonlinearity=linear).code
            return [text if linear is None or gain == 1.0 else f"{text}.data.mul_({literal(float(gain)).code})"]
        case "uniform" | "linear_default":
            bound = literal(float(args["bound"])) if kind == "uniform" else Text(f"{size(args['fan_in']).atom} ** -0.5")
            return [f"nn.init.uniform_({target}, -{bound.code}, {bound.code})"]
        case "uniform_between":
            return [f"nn.init.uniform_({target}, {literal(args['low']).code}, {literal(args['high']).code})"]
        case "linspace":
            ends = f"{literal(args['low']).code}, {literal(args['high']).code}, {size(param.type.shape[-1]).code}"
            return [f"{target}.data.copy_(torch.linspace({ends}))"]
        case "log_arange":
            count = size(param.type.shape[-1]).atom
            return [f"{target}.data.copy_(torch.arange(1, {count} + 1).log())"]
        case "directions":
            heads, maps, points = (size(args[key]) for key in ("heads", "maps", "points"))
            return [
                f"angle = torch.arange({heads.code}) * (2 * torch.pi / {heads.atom})",
                "unit = F.normalize(torch.stack([angle.cos(), angle.sin()], dim=1), p=torch.inf)",
                f"steps = unit[:, None, None] * torch.arange(1, {points.atom} + 1)[:, None]",
                f"{target}.data.copy_(steps.expand(-1, {maps.code}, -1, -1).flatten())",
            ]
        case "rotations":
            head_count = size(args["heads"]).atom
            return [
                f"count = {target}.shape[1] // (2 * {head_count})",
                f"lengths = {literal(float(args['base'])).atom} ** -(torch.arange(count) / count)",
                f"angle = torch.rand({head_count}, 1) * (2 * torch.pi)",
                "cos, sin = lengths * angle.cos(), lengths * angle.sin()",
                "x, y = torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)",
                f"{target}.data.copy_(torch.stack([x, y]).flatten(1))",
            ]
        case "softplus_inverse":
            low, high = (literal(math.log(args[end])).code for end in ("low", "high"))
            return [
                f"nn.init.uniform_({target}, {low}, {high})",
                f"{target}.data.copy_({target}.exp().expm1().log())",
            ]
        case "sincos_1d" | "sincos_2d":
            return [f"{target}.data.copy_({buffer_value(param, size, helper)})"]
    raise ValueError(f"no torch text for initialiser {kind}")


def default_init(leaf: Leaf, param: Param) -> bool:
    """True if torch.nn already initialises the param as specified."""
    init, is_bias = param.init, param.name.endswith(".bias")
    if param.kind == "state":
        return True
    match leaf.op:
        case "linear" | "conv" | "conv_transpose":
            fan_in = leaf.params[0].type.with_shape(leaf.params[0].type.shape[1:]).count()
            if (norm := NORMED.get(dict(leaf.attrs).get(NORM, ""))) is not None and norm.starts:
                own = norm.starts[param.name.rpartition(".")[2]]
                return (init.kind, {"std": 1.0, **init.args}) == (own.kind, {"std": 1.0, **own.args})
            return init.kind == "linear_default" and int(init.args["fan_in"]) == fan_in
        case "embedding":
            return init.kind == "normal" and init.args.get("std", 1.0) == 1.0
    return init.kind == ("zeros" if is_bias else "ones")


def initialisation(
    leaves: Sequence[tuple[str, Leaf]],
    plain: Sequence[tuple[str, Param]],
    size: Size,
    helper: Callable[[str], str],
    lengths: Mapping[str, int] | None = None,
) -> list[str]:
    """Statements of `reset_parameters`, given (expression, leaf or param); leaves with equal ones share a loop.

    `lengths`: {expression of a list of modules: their number}.
    """
    groups: dict[tuple[str, ...], list[tuple[str, Leaf]]] = {}
    for access, leaf in leaves:
        custom = [p for p in leaf.params if not default_init(leaf, p)]
        if custom:
            key = tuple(line for p in custom for line in init_calls(p, f"@.{p.name.rpartition('.')[2]}", size, helper))
            groups.setdefault(key, []).append((access, leaf))
    lines = []
    for statements, members in groups.items():
        if len(members) == 1:
            lines += [s.replace("@", members[0][0]) for s in statements]
        else:
            accesses = [access for access, _ in members]
            bases = {access.rpartition("[")[0] for access in accesses}
            listed = len(bases) == 1 and all(access[-2:-1].isdigit() for access in accesses)
            whole = listed and (lengths or {}).get(min(bases)) == len(accesses)
            lines += layout("", f"for layer in {min(bases) if whole else f'({commas(accesses)})'}:", reserve=8)
            lines += [f"    {s.replace('@', 'layer')}" for s in statements]
    return lines + [line for access, param in plain for line in init_calls(param, access, size, helper)]


def buffer_value(param: Param, size: Size, helper: Callable[[str], str]) -> str:
    """The initial value of a buffer."""
    shape, args = param.type.shape, param.init.args
    dims = commas(size(d).code for d in shape)
    match param.init.kind:
        case "zeros" | "ones" as kind:
            return f"torch.{kind}({dims or '()'})"
        case "count":
            return f"torch.zeros({dims})"
        case "normal":
            std = args.get("std", 1.0)
            return f"torch.randn({dims})" + ("" if std == 1.0 else f" * {literal(float(std)).code}")
        case "uniform":
            bound = literal(float(args["bound"])).code
            return f"torch.empty({dims}).uniform_(-{bound}, {bound})"
        case "disc":
            lengths = f"torch.rand({size(shape[0]).code}, 1).sqrt() * {literal(float(args['radius'])).code}"
            return f"nn.functional.normalize(torch.randn({dims})) * {lengths}"
        case "sincos_1d":
            sizes = [size(args[k]) for k in ("width", "length")]
            text = call(helper("sincos_1d"), sizes, base=float(args["base"])).code
            return f"{text}.reshape({dims})" if len(shape) > 2 else text
        case "sincos_2d":
            step = {"step": float(args["step"])} if "step" in args else {}
            text = call(helper("sincos_2d"), [size(args["width"]), size(args["grid"])], **step).code
            return f"{text}.unsqueeze(0)" if len(shape) == 3 and shape[0] == 1 else f"{text}.reshape({dims})"
        case "rope_1d":
            sizes = [size(args[k]) for k in ("head_dim", "length")]
            text = call(helper("rope_1d"), sizes, base=float(args["base"])).code
            return f"{text}[{0 if args['part'] == 'cos' else 1}]"
        case "rope_2d":
            sizes = [size(args[k]) for k in ("head_dim", "grid")]
            text = call(helper("rope_2d"), sizes, prefix=int(args["prefix"]), base=float(args["base"])).code
            # Columns first, so the halves of the table are swapped.
            swapped = f".roll({size(shape[1]).atom} // 2, 1)" if args.get("first", "row") == "column" else ""
            return f"{text}[{0 if args['part'] == 'cos' else 1}]{swapped}"
        case "cosines_2d":
            return call(helper("cosines_2d"), [size(args[k]) for k in ("grid", "frequencies")]).code
        case "rope_2d_spread":
            sizes = [size(args[k]) for k in ("head_dim", "grid")]
            text = call(helper("rope_2d_spread"), sizes, base=float(args["base"]), span=float(args["span"])).code
            return f"{text}[{0 if args['part'] == 'cos' else 1}]"
        case "rope_2d_extrapolated":
            sizes = [size(args[k]) for k in ("head_dim", "rows", "columns")]
            changed = {key: args[key] for key in ("method", "trained", "separate") if key in args}
            if changed:
                helper("extrapolated_frequencies")  # which it calls
            name = helper("rope_2d_extrapolated" if changed else "rope_2d_rectangle")
            text = call(name, sizes, base=float(args["base"]), **changed).code
            return f"{text}[{0 if args['part'] == 'cos' else 1}]"
        case "rope_prefix":
            sizes = [size(args[k]) for k in ("head_dim", "grid", "prefix")]
            fixed: dict[str, Any] = {"base": float(args["base"]), "pairs": int(args["pairs"]), "side": args["side"]}
            if "frames" in args:
                fixed |= {"columns": size(args["columns"]), "frames": size(args["frames"])}
            text = call(helper("rope_prefix"), sizes, **fixed).code
            return f"{text}[{0 if args['part'] == 'cos' else 1}]"
    raise ValueError(f"no torch text for buffer initialiser {param.init.kind}")
