"""Folds what is constant in inference into weights: norms of weights, and batch norms next to a linear layer or conv.

The new weights are computed by recipes. Folding is lossy for the statistics of norms, one value per channel at most, so
bundles store them separately (`latentc.export.recipes.kept`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Node, Param, Recipe, Value
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.linears import shared, source
from latentc.passes.fuse.pattern import Match

# ---- spectral norm


def _spectral_check(match: Match) -> str | None:
    return _not_weights(match, match.root.inputs)


def _not_weights(match: Match, values: Sequence[Value]) -> str | None:
    others = [v for v in values if v not in match.uses.params]
    return f"%{others[0].name} is not a weight" if others else None


def _spectral(b: Builder, v: SimpleNamespace) -> Var:
    weight, u = (v.match.uses.params[v.match.values[name]] for name in ("w", "u"))
    sigma = Recipe("singular_value", (source(weight), source(u)), {"eps": v.match.root.attrs["eps"]})
    return b.derived(f"{weight.name}.normed", Recipe("div", (source(weight), sigma)))


SPECTRAL_NORM = Rule("spectral_norm", ("spectral_norm(w, u)",), _spectral, _spectral_check)

# ---- forced norm


def _forced(b: Builder, v: SimpleNamespace) -> Var:
    weight = v.match.uses.params[v.match.values["w"]]
    scales = Recipe("row_scales", (source(weight),), {"eps": v.match.root.attrs["eps"], "axis": 0})
    return b.derived(f"{weight.name}.normed", Recipe("scale_axis", (source(weight), scales), {"axis": 0}))


FORCED_NORM = Rule("forced_norm", ("forced_norm(w)",), _forced, _spectral_check)

# ---- weight norm


def _weight_norm(b: Builder, v: SimpleNamespace) -> Var:
    weight, gain = (v.match.uses.params[v.match.values[name]] for name in ("w", "g"))
    along = {"axis": v.match.root.attrs["axis"]}
    scales = Recipe("mul", (source(gain), Recipe("row_scales", (source(weight),), {"eps": 0.0, **along})))
    return b.derived(f"{weight.name}.normed", Recipe("scale_axis", (source(weight), scales), along))


WEIGHT_NORM = Rule("weight_norm", ("weight_norm(w, g)",), _weight_norm, _spectral_check)

# ---- batch norm after or before a linear layer or convolution

_NORMS = ("batch_norm({0}, mean, var)", "batch_norm({0}, mean, var, scale, shift)")
_PRODUCTS = ("conv({0}, w, b)", "conv({0}, w)", "linear({0}, w, b)", "linear({0}, w)")


def _factor(match: Match, norm: Node) -> Recipe:
    """The factor per channel of a norm."""
    params = [match.uses.params[value] for value in norm.inputs[1:]]
    inverse = Recipe("inverse_std", (source(params[1]),), {"eps": norm.attrs["eps"]})
    return inverse if len(params) == 2 else Recipe("scale_axis", (source(params[2]), inverse), {"axis": 0})


def _negated(param: Param) -> Recipe:
    return Recipe("affine", (source(param),), {"mul": -1.0, "add": 0.0})


def _product(match: Match, node: Node) -> tuple[Param, Param | None]:
    weight, *bias = (match.uses.params[value] for value in node.inputs[1:])
    return weight, bias[0] if bias else None


def _rebuilt(b: Builder, node: Node, x: Var, weight: Var, bias: Var) -> Var:
    return b.op(node.op, x, weight, bias, out=node.outputs[0].name, **node.attrs)


def _channels_check(node: Node) -> str | None:
    """A batch norm normalises axis 1, which are the features of a linear layer only at rank 2."""
    if node.op == "linear" and node.outputs[0].type.rank != 2:
        return f"axis 1 of %{node.outputs[0].name} is not its features"
    return None


def _before_check(match: Match) -> str | None:
    product = match.node("h")
    return _channels_check(product) or shared(match.uses, product) or _not_weights(match, match.root.inputs[1:])


def _before(b: Builder, v: SimpleNamespace) -> Var:
    norm, product = v.match.root, v.match.node("h")
    weight, bias = _product(v.match, product)
    mean, _, *affine = (v.match.uses.params[value] for value in norm.inputs[1:])
    factor = _factor(v.match, norm)
    centred = _negated(mean) if bias is None else Recipe("sub", (source(bias), source(mean)))
    new_bias = Recipe("scale_axis", (centred, factor), {"axis": 0})
    if affine:
        new_bias = Recipe("add", (new_bias, source(affine[1])))
    name = mean.name.rpartition(".")[0]
    kernel = b.derived(f"{weight.name}.into.{name}", Recipe("scale_axis", (source(weight), factor), {"axis": 0}))
    return _rebuilt(b, product, v.x, kernel, b.derived(f"{name}.bias.of.{weight.name}", new_bias))


NORM_INTO_PRODUCT_BEFORE = Rule(
    "norm_into_product_before",
    tuple(norm.format(f"(h := {product.format('x')})") for norm in _NORMS for product in _PRODUCTS),
    _before,
    _before_check,
)


def _behind_check(match: Match) -> str | None:
    product = match.root
    if product.op == "conv" and np.any(product.attrs.get("padding", 0)):
        return "the convolution pads the normalised input with zeros, which no weights reproduce"
    if product.op == "conv" and product.attrs.get("groups", 1) != 1:
        return "the convolution has groups"
    norm = match.node("n")
    return _channels_check(product) or shared(match.uses, product) or _not_weights(match, norm.inputs[1:])


def _behind(b: Builder, v: SimpleNamespace) -> Var:
    norm, product = v.match.node("n"), v.match.root
    weight, bias = _product(v.match, product)
    mean, _, *affine = (v.match.uses.params[value] for value in norm.inputs[1:])
    factor = _factor(v.match, norm)
    shift = Recipe("scale_axis", (_negated(mean), factor), {"axis": 0})
    if affine:
        shift = Recipe("add", (shift, source(affine[1])))
    new_bias = Recipe("channel_sum", (source(weight), shift))
    if bias is not None:
        new_bias = Recipe("add", (source(bias), new_bias))
    name = mean.name.rpartition(".")[0]
    kernel = b.derived(f"{weight.name}.after.{name}", Recipe("scale_axis", (source(weight), factor), {"axis": 1}))
    return _rebuilt(b, product, v.x, kernel, b.derived(f"{weight.name}.bias.after.{name}", new_bias))


NORM_INTO_PRODUCT_BEHIND = Rule(
    "norm_into_product_behind",
    tuple(product.format(f"(n := {norm.format('x')})") for norm in _NORMS for product in _PRODUCTS),
    _behind,
    _behind_check,
)

# ---- batch norm whose scale and shift come from a condition


def _conditional_check(match: Match) -> str | None:
    x = match.values["x"].type
    for name in ("gain", "bias"):
        value = match.values[name]
        if value.type.rank != x.rank or any(d != 1 for d in value.type.shape[2:]):
            return f"%{value.name} is {value.type}, not one value per sample and channel"
    return _not_weights(match, match.node("n").inputs[1:])


def _conditional(b: Builder, v: SimpleNamespace) -> Var:
    """x g + (bias - mean g) with g = gain / std: computations on small tensors replace the norm."""
    norm = v.match.node("n")
    mean, var = (v.match.uses.params[value] for value in norm.inputs[1:])
    column = (v.x.shape[1], *(1 for _ in v.x.shape[2:]))
    inverse = b.derived(f"{var.name}.inverse", Recipe("inverse_std", (source(var),), {"eps": norm.attrs["eps"]}))
    gain = v.gain * b.reshape(inverse, shape=column)
    return v.x * gain + (v.bias - gain * b.reshape(Var(mean.value, b), shape=column))


CONDITIONAL_NORM = Rule(
    "conditional_norm", ("(n := batch_norm(x, mean, var)) * gain + bias",), _conditional, _conditional_check
)

# Norms of weights first; conditional norms last, for norms that did not fold.
FOLDING = (
    SPECTRAL_NORM,
    FORCED_NORM,
    WEIGHT_NORM,
    NORM_INTO_PRODUCT_BEFORE,
    NORM_INTO_PRODUCT_BEHIND,
    CONDITIONAL_NORM,
)
