"""Recognises operators that are written in simpler ops, in the usual ways.

Engines have kernels for the operators; each simpler op would cost a pass over memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from types import SimpleNamespace

from latentc.ir.builder import Builder, Var
from latentc.ir.ops.linear import swap
from latentc.ir.types import Dim
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.pattern import Match


def _last_axis(match: Match, names: Iterable[str]) -> str | None:
    """The reason if one of the named reductions is not over the last axis with keepdims."""
    for name in names:
        node = match.node(name)
        axes, rank = [axis % node.inputs[0].type.rank for axis in node.attrs["axes"]], node.inputs[0].type.rank
        if axes != [rank - 1]:
            return f"{node.op} is over axes {axes}, not the last of {rank}"
        if not node.attrs["keepdims"]:
            return f"{node.op} drops its axis"
    return None


# ---- softmax


def _softmax_check(match: Match) -> str | None:
    names = [name for name in ("m", "s") if name in match.values]
    axes = {tuple(axis % len(match.shape("x")) for axis in match.attr(name, "axes")) for name in names}
    if len(axes) > 1 or len(next(iter(axes))) != 1:
        return f"the maximum and the sum are over axes {sorted(axes)}, not over one"
    return None if all(match.attr(name, "keepdims") for name in names) else "a reduction drops its axis"


SOFTMAX = Rule(
    "softmax",
    ("(e := exp(x - (m := max(x)))) / (s := sum(e))", "(e := exp(x)) / (s := sum(e))"),
    lambda b, v: b.softmax(v.x, axis=v.match.attr("s", "axes")[0]),
    _softmax_check,
)

# ---- norms

_SQUARE = ("{0} * {0}", "{0} ** 2")
_OVER_ROOT = ("{0} * rsqrt({1} + EPS)", "{0} / sqrt({1} + EPS)")
_CENTRED = "(d := x - (m := mean(x)))"


def _norms(of: str, operand: str) -> tuple[str, ...]:
    """Patterns of `of` divided by the root of the mean square of `operand`."""
    return tuple(
        root.format(of, f"(q := mean({square.format(operand)}))") for root, square in product(_OVER_ROOT, _SQUARE)
    )


LAYER_NORM = Rule(
    "layer_norm",
    _norms(_CENTRED, "d"),
    lambda b, v: b.layer_norm(v.x, eps=v.EPS),
    lambda match: _last_axis(match, ("m", "q")),
)
RMS_NORM = Rule(
    "rms_norm",
    _norms("x", "x"),
    lambda b, v: b.rms_norm(v.x, eps=v.EPS),
    lambda match: _last_axis(match, ("q",)),
)


def _affine_check(match: Match) -> str | None:
    width, added = match.shape("x")[-1], "shift" in match.values
    name = "shift" if added else "scale"
    if match.shape(name) != (width,):
        return f"%{match.values[name].name} is {match.values[name].type}, not one value per channel ({width})"
    return None


def _affine(b: Builder, v: SimpleNamespace) -> Var:
    op = v.match.node("n").op
    operands = [v.x, *([v.scale] if hasattr(v, "scale") else []), *([v.shift] if hasattr(v, "shift") else [])]
    result: Var = b.op(op, *operands, eps=v.match.attr("n", "eps"), out="h")
    return result


# After the norms themselves. It does not apply to the scales of adaLN, which differ between samples.
NORM_AFFINE = Rule(
    "norm_affine",
    ("(n := layer_norm(x)) * scale", "(n := layer_norm(x, scale)) + shift", "(n := rms_norm(x)) * scale"),
    _affine,
    _affine_check,
)

# ---- activations

SILU = Rule("silu", ("x * sigmoid(x)", "x / (1 + exp(-x))", "x / (1 + exp(x * -1))"), lambda b, v: b.silu(v.x))

_HALVES = ("0.5 * x * {0}", "0.5 * (x * {0})", "x * (0.5 * {0})")
_ERF = ("(1 + erf(x / 1.4142135623730951))", "(1 + erf(x * 0.7071067811865476))")
_CUBE = ("0.044715 * (x * x * x)", "0.044715 * x * x * x", "0.044715 * x ** 3")
_TANH = (*(f"(1 + tanh(0.7978845608028654 * (x + {cube})))" for cube in _CUBE),)

GELU = Rule(
    "gelu",
    tuple(half.format(gate) for half, gate in product(_HALVES, _ERF)),
    lambda b, v: b.gelu(v.x, approximate="none"),
)
GELU_TANH = Rule(
    "gelu_tanh",
    tuple(half.format(gate) for half, gate in product(_HALVES, _TANH)),
    lambda b, v: b.gelu(v.x, approximate="tanh"),
)

# ---- attention

_SCORES = ("matmul(q, t) * SCALE", "matmul(q, t) / ROOT", "matmul(q * SCALE, t)", "matmul(q / ROOT, t)", "matmul(q, t)")
_MASKED = ("{0} + mask", "where(mask, {0}, NEVER)", "{0}")
_NEVER = -1e9  # replaces minus infinity: its exponential is 0 relative to any score


def _attention_check(match: Match) -> str | None:
    rank = len(match.shape("q"))
    if rank not in (3, 4) or len(match.shape("t")) != rank or len(match.shape("v")) != rank:
        return f"queries are {match.values['q'].type}; takes [B, H, T, d] or [N, T, d]"
    if match.attr("p", "axis") % rank != rank - 1:
        return f"the softmax is over axis {match.attr('p', 'axis')}, not over the keys"
    keys = match.uses.made_by.get(match.values["t"])
    if keys is None or keys.op != "transpose":
        return f"%{match.values['t'].name} is not a transpose: fusing would add one of the keys"
    if match.shape("q")[:-2] != match.shape("t")[:-2] or match.shape("q")[:-2] != match.shape("v")[:-2]:
        return "queries, keys and values differ in batch or heads"
    if match.numbers.get("NEVER", _NEVER) > _NEVER:
        return f"{match.numbers['NEVER']:g} does not mask a key: wants at most {_NEVER:g}"
    if rank == 3 and "mask" in match.values and len(match.shape("mask")) > 2:
        return "the mask differs between samples, and batch and heads are one axis"
    return None


def _attention(b: Builder, v: SimpleNamespace) -> Var:
    scale = v.SCALE if hasattr(v, "SCALE") else 1 / v.ROOT if hasattr(v, "ROOT") else 1.0
    shape: tuple[Dim, ...] = v.match.root.outputs[0].type.shape
    q, k, values = v.q, swap(b, v.t), v.v  # cleanup joins the two transposes of the keys
    if len(shape) == 3:
        q, k, values = (b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:])) for x in (q, k, values))
    masks = [v.mask] if hasattr(v, "mask") else []
    if not math.isinf(v.match.numbers.get("NEVER", -math.inf)):  # rows without any visible key then have a result
        masks = [b.where(v.mask, b.scalar(0.0, q), b.scalar(v.NEVER, q))]
    out: Var = b.attention(q, k, values, *masks, causal=False, scale=scale, out="x")
    return b.reshape(out, shape=shape) if len(shape) == 3 else out


# After softmax, which its pattern contains.
ATTENTION = Rule(
    "attention",
    tuple(f"matmul((p := softmax({mask.format(f'({scores})')})), v)" for scores, mask in product(_SCORES, _MASKED)),
    _attention,
    _attention_check,
)

# Decomposed operators become the operator again. A rule follows the rules for the operators in its pattern.
COMPOSITES = (SOFTMAX, ATTENTION, LAYER_NORM, RMS_NORM, NORM_AFFINE, GELU, GELU_TANH, SILU)
