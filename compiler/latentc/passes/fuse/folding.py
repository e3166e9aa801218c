"""What is constant in inference goes into the weights: spectral norms, and batch norms beside a product.

The weights are made by recipes. What cannot be found in them again, a value a channel at most, bundles keep beside
(`latentc.export.recipes.kept`).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Node, Param, Recipe
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.linears import shared, source
from latentc.passes.fuse.pattern import Match

# ---- a weight over its largest singular value


def _spectral_check(match: Match) -> str | None:
    others = [v for v in match.root.inputs if v not in match.uses.params]
    return f"%{others[0].name} is no weight" if others else None


def _spectral(b: Builder, v: SimpleNamespace) -> Var:
    weight, u = (v.match.uses.params[v.match.values[name]] for name in ("w", "u"))
    sigma = Recipe("singular_value", (source(weight), source(u)), {"eps": v.match.root.attrs["eps"]})
    return b.made(f"{weight.name}.normed", Recipe("div", (source(weight), sigma)))


SPECTRAL_NORM = Rule("spectral_norm", ("spectral_norm(w, u)",), _spectral, _spectral_check)

# ---- a batch norm and the product before or behind it

_NORMS = ("batch_norm({0}, mean, var)", "batch_norm({0}, mean, var, scale, shift)")
_PRODUCTS = ("conv({0}, w, b)", "conv({0}, w)", "linear({0}, w, b)", "linear({0}, w)")


def _statistics(match: Match, norm: Node) -> str | None:
    others = [v for v in norm.inputs[1:] if v not in match.uses.params]
    return f"%{others[0].name} is no weight" if others else None


def _factor(match: Match, norm: Node) -> Recipe:
    """What a norm multiplies each channel by."""
    params = [match.uses.params[value] for value in norm.inputs[1:]]
    inverse = Recipe("inverse_std", (source(params[1]),), {"eps": norm.attrs["eps"]})
    return inverse if len(params) == 2 else Recipe("scale_axis", (source(params[2]), inverse), {"axis": 0})


def _minus(param: Param) -> Recipe:
    return Recipe("affine", (source(param),), {"mul": -1.0, "add": 0.0})


def _product(match: Match, node: Node) -> tuple[Param, Param | None]:
    weight, *bias = (match.uses.params[value] for value in node.inputs[1:])
    return weight, bias[0] if bias else None


def _rebuilt(b: Builder, node: Node, x: Var, weight: Var, bias: Var) -> Var:
    made: Var = b.op(node.op, x, weight, bias, out=node.outputs[0].name, **node.attrs)
    return made


def _rows(node: Node) -> str | None:
    """A linear layer's features are the channels of rank 2 alone."""
    if node.op == "linear" and node.outputs[0].type.rank != 2:
        return f"the channels of %{node.outputs[0].name} are not its features"
    return None


def _before_check(match: Match) -> str | None:
    product = match.node("h")
    return _rows(product) or shared(match.uses, product) or _statistics(match, match.root)


def _before(b: Builder, v: SimpleNamespace) -> Var:
    norm, product = v.match.root, v.match.node("h")
    weight, bias = _product(v.match, product)
    mean, _, *affine = (v.match.uses.params[value] for value in norm.inputs[1:])
    factor = _factor(v.match, norm)
    centred = _minus(mean) if bias is None else Recipe("sub", (source(bias), source(mean)))
    moved = Recipe("scale_axis", (centred, factor), {"axis": 0})
    if affine:
        moved = Recipe("add", (moved, source(affine[1])))
    name = mean.name.rpartition(".")[0]
    kernel = b.made(f"{weight.name}.into.{name}", Recipe("scale_axis", (source(weight), factor), {"axis": 0}))
    return _rebuilt(b, product, v.x, kernel, b.made(f"{name}.bias.of.{weight.name}", moved))


NORM_INTO_PRODUCT_BEFORE = Rule(
    "norm_into_product_before",
    tuple(norm.format(f"(h := {product.format('x')})") for norm in _NORMS for product in _PRODUCTS),
    _before,
    _before_check,
)


def _behind_check(match: Match) -> str | None:
    product = match.root
    if product.op == "conv" and np.any(product.attrs.get("padding", 0)):
        return "its padding is zeros behind the norm, which no weights make of what is before it"
    if product.op == "conv" and product.attrs.get("groups", 1) != 1:
        return "the convolution is in groups"
    return _rows(product) or shared(match.uses, product) or _statistics(match, match.node("n"))


def _behind(b: Builder, v: SimpleNamespace) -> Var:
    norm, product = v.match.node("n"), v.match.root
    weight, bias = _product(v.match, product)
    mean, _, *affine = (v.match.uses.params[value] for value in norm.inputs[1:])
    factor = _factor(v.match, norm)
    shift = Recipe("scale_axis", (_minus(mean), factor), {"axis": 0})
    if affine:
        shift = Recipe("add", (shift, source(affine[1])))
    moved = Recipe("channel_sum", (source(weight), shift))
    if bias is not None:
        moved = Recipe("add", (source(bias), moved))
    name = mean.name.rpartition(".")[0]
    kernel = b.made(f"{weight.name}.after.{name}", Recipe("scale_axis", (source(weight), factor), {"axis": 1}))
    return _rebuilt(b, product, v.x, kernel, b.made(f"{weight.name}.bias.after.{name}", moved))


NORM_INTO_PRODUCT_BEHIND = Rule(
    "norm_into_product_behind",
    tuple(product.format(f"(n := {norm.format('x')})") for norm in _NORMS for product in _PRODUCTS),
    _behind,
    _behind_check,
)

# ---- a batch norm that a condition scales and shifts


def _conditional_check(match: Match) -> str | None:
    x = match.values["x"].type
    for name in ("gain", "bias"):
        value = match.values[name]
        if value.type.rank != x.rank or any(d != 1 for d in value.type.shape[2:]):
            return f"%{value.name} is {value.type}, not one value for each sample and channel"
    return _statistics(match, match.node("n"))


def _conditional(b: Builder, v: SimpleNamespace) -> Var:
    """x g + (bias - mean g) with g = gain / std: small tensors take the norm's place."""
    norm = v.match.node("n")
    mean, var = (v.match.uses.params[value] for value in norm.inputs[1:])
    column = (v.x.shape[1], *(1 for _ in v.x.shape[2:]))
    inverse = b.made(f"{var.name}.inverse", Recipe("inverse_std", (source(var),), {"eps": norm.attrs["eps"]}))
    gain = v.gain * b.reshape(inverse, shape=column)
    return v.x * gain + (v.bias - gain * b.reshape(Var(mean.value, b), shape=column))


CONDITIONAL_NORM = Rule(
    "conditional_norm", ("(n := batch_norm(x, mean, var)) * gain + bias",), _conditional, _conditional_check
)

# Spectral norms first, for they stand in weights; what no product takes is left to the condition.
FOLDING = (SPECTRAL_NORM, NORM_INTO_PRODUCT_BEFORE, NORM_INTO_PRODUCT_BEHIND, CONDITIONAL_NORM)
