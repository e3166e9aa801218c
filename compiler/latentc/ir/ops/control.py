"""Ops that refer to other functions: call, guided, gradient, jvp, loop. Their types come from these functions.

`call`    attrs fn, name, args: applies a function; `name` is the state-dict prefix, `args` the static arguments as
          written by the caller (for the emitted constructor).
`guided`  classifier-free guidance of a call: attrs fn, name, kinds ('shared', 'conditional' or 'carried' per operand),
          guides ('guided' or 'carried' per output), channels (number of channels of axis 1 to guide, or None for
          all). Inputs: the operands, then the null alternative of each conditional operand, then the scale [B]. A
          guided output is u + scale (c - u) of the conditional branch c and the null branch u; a carried tensor holds
          both branches, [2*B, ...], the conditional one first.
`gradient` reverse-mode derivative of a call: attrs fn, name, of (number of an output), wrt (numbers of inputs).
          Inputs: the operands of the call. Outputs: output `of` of the call, then for each input in `wrt` the gradient
          of that output's sum. The output of a network is one value per sample, so the gradient is per sample as well.
`jvp`     forward-mode derivative of a call: attrs as of gradient. Inputs: the operands, then a tangent for each input
          in `wrt`. Outputs: output `of`, and its directional derivative (the Jacobian-vector product).
`loop`    attrs body, trip, invariants, carried (counts): runs `body(i, *invariants, *carried, *rows)` trip times;
          the remaining inputs are tables, of which the body gets row i. The body returns the new carried values, then
          values that are stacked over the steps. Loops nest. attr until, if any: number of a carried bool[]; once it is
          true, further steps return what they carry unchanged, so that a backend may end the loop, or run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentc.ir.core import Function
from latentc.ir.ops.row import Attrs, OpError, need
from latentc.ir.types import Dim, Sym, TensorType, i64, substitute, unify

NO_ATTRS: Attrs = {}


def call_types(fn: Function, actuals: Sequence[TensorType], attrs: Attrs = NO_ATTRS) -> list[TensorType]:
    """Output types of a function applied to operands of the types `actuals`, its run-time sizes solved for."""
    need(len(fn.inputs) == len(actuals), "{} takes {} operands, got {}", fn.name, len(fn.inputs), len(actuals))
    sizes: dict[str, Dim] = {}
    for formal, actual in zip(fn.inputs, actuals, strict=True):
        if not unify(formal.type, actual, sizes):
            raise OpError(f"{fn.name} takes {formal.name}: {formal.type}, got {actual}")
    return [substitute(out.type, sizes) for out in fn.outputs]


def doubled(type: TensorType) -> TensorType:
    return type.with_shape([type.shape[0] * 2, *type.shape[1:]])


def _even(size: Dim) -> bool:
    return (size.factor if isinstance(size, Sym) else size) % 2 == 0


def guided_types(fn: Function, actuals: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """Output types of a guided call."""
    kinds, guides, channels = attrs["kinds"], attrs["guides"], attrs["channels"]
    need(set(kinds) <= {"shared", "conditional", "carried"}, "operand kinds are {}", kinds)
    need(set(guides) <= {"guided", "carried"}, "output kinds are {}", guides)
    conditional = [i for i, k in enumerate(kinds) if k == "conditional"]
    need(len(kinds) == len(fn.inputs), "{} operand kinds for {} operands of {}", len(kinds), len(fn.inputs), fn.name)
    need(len(guides) == len(fn.outputs), "{} output kinds for {} outputs of {}", len(guides), len(fn.outputs), fn.name)
    need(len(actuals) == len(kinds) + len(conditional) + 1, "takes the operands, their null alternatives, the scale")
    operands, nulls, scale = actuals[: len(kinds)], actuals[len(kinds) : -1], actuals[-1]
    need(scale.rank == 1 and scale.is_float, "scale is {}; wants float [B]", scale)
    for i, null in zip(conditional, nulls, strict=True):
        need(null == operands[i], "null alternative of operand {} is {}; wants {}", i, null, operands[i])
    both = [t if k == "carried" else doubled(t) if t.rank else t for t, k in zip(operands, kinds, strict=True)]
    types = call_types(fn, both)
    halves = []
    for t, g in zip(types, guides, strict=True):
        if g == "carried":
            halves.append(t)
            continue
        need(t.rank > 0 and t.is_float and _even(t.shape[0]), "cannot guide {}", t)
        need(t.shape[0] // 2 == scale.shape[0], "the scale is {}, but {} has another batch size", scale, t)
        if channels is not None:
            size = t.shape[1] if t.rank > 1 else 0
            need(not isinstance(size, Sym) and 0 < channels <= size, "cannot guide {} channels of {}", channels, t)
        halves.append(t.with_shape([t.shape[0] // 2, *t.shape[1:]]))
    return halves


def _differentiated(fn: Function, actuals: Sequence[TensorType], attrs: Attrs) -> TensorType:
    """Type of the output that a `gradient` or `jvp` node differentiates."""
    of, wrt = attrs["of"], attrs["wrt"]
    types = call_types(fn, actuals)
    need(0 <= of < len(types), "{} has no output {}; it has {}", fn.name, of, len(types))
    need(types[of].is_float, "output {} of {} is {}; a derivative needs floats", of, fn.name, types[of])
    need(len(wrt) > 0 and len(set(wrt)) == len(wrt), "wrt is {}; wants at least one input, and no input twice", wrt)
    for i in wrt:
        need(0 <= i < len(actuals), "{} has no input {}; it has {}", fn.name, i, len(actuals))
        need(actuals[i].is_float, "input {} of {} is {}; a derivative needs floats", i, fn.name, actuals[i])
    return types[of]


def gradient_types(fn: Function, actuals: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """Output types of a gradient: the differentiated output, then one gradient per input in `wrt`."""
    return [_differentiated(fn, actuals, attrs), *(actuals[i] for i in attrs["wrt"])]


def jvp_types(fn: Function, actuals: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """Output types of a jvp: the differentiated output, and its tangent."""
    count = len(fn.inputs)
    need(len(actuals) == count + len(attrs["wrt"]), "takes {} operands and a tangent for each input in wrt", count)
    out = _differentiated(fn, actuals[:count], attrs)
    for i, tangent in zip(attrs["wrt"], actuals[count:], strict=True):
        need(tangent == actuals[i], "tangent of input {} is {}; wants {}", i, tangent, actuals[i])
    return [out, out]


def loop_types(body: Function, actuals: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
    """Output types of a loop over `body`."""
    trip, invariants, carried = attrs["trip"], attrs["invariants"], attrs["carried"]
    need(trip > 0, "trip count {} is not positive", trip)
    need(
        invariants >= 0 and carried >= 0 and invariants + carried <= len(actuals),
        "{} operands for {} invariants and {} carried values",
        len(actuals),
        invariants,
        carried,
    )
    head = list(actuals[: invariants + carried])
    rows = []
    for table in actuals[invariants + carried :]:
        need(table.rank > 0 and table.shape[0] == trip, "table is {}; wants {} rows", table, trip)
        rows.append(table.with_shape(table.shape[1:]))
    types = call_types(body, [i64(), *head, *rows])
    for new, old in zip(types, head[invariants:], strict=False):
        need(new == old, "{} carries {} in but {} out", body.name, old, new)
    need(len(types) >= carried, "{} returns {} values; wants at least the {} carried", body.name, len(types), carried)
    need(len(types) > 0, "{} returns nothing", body.name)
    if (until := attrs.get("until")) is not None:
        need(0 <= until < carried, "{} carries no value {} that ends it", body.name, until)
        need(types[until] == i64().with_dtype("bool"), "{} is ended by {}; wants bool[]", body.name, types[until])
        need(len(types) == carried, "{} stacks a value per step, and may end before all are made", body.name)
    return types[:carried] + [t.with_shape([trip, *t.shape]) for t in types[carried:]]


@dataclass(frozen=True)
class Control:
    """A row: `types(function, operand types, attrs)` gives the output types; `attrs` names and types the attributes.

    The attributes `args`, `count` and `until` may be absent and are not checked.
    """

    types: Callable[[Function, Sequence[TensorType], Attrs], list[TensorType]]
    attrs: Mapping[str, Any]


CONTROL: dict[str, Control] = {
    "call": Control(call_types, {"fn": str, "name": str}),
    "guided": Control(guided_types, {"fn": str, "name": str, "kinds": tuple, "guides": tuple, "channels": int | None}),
    "gradient": Control(gradient_types, {"fn": str, "name": str, "of": int, "wrt": tuple}),
    "jvp": Control(jvp_types, {"fn": str, "name": str, "of": int, "wrt": tuple}),
    "loop": Control(loop_types, {"body": str, "trip": int, "invariants": int, "carried": int}),
}
