"""Where a smoothed value is divided: in the nodes that compute it if that is (almost) free, else by a multiplication.

A norm divides by its scale, which is free; a sum of a norm and a small tensor also needs a small multiplication. The
modulation of adaptive norms, norm(x) * (1 + scale) + shift, is such a sum: only its shift, one row per sample, is
multiplied.

Smoothing: Xiao et al. 2023, arXiv:2211.10438, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from latentc.ir.core import Module, Node, Uses, Value, callees

_NORMS = ("layer_norm", "rms_norm")


@dataclass
class Folds:
    """Nodes that divide by a smoothing vector: {norm: vector}, {sum: (number of the small operand, vector)}."""

    norms: dict[Node, str] = field(default_factory=dict)
    sums: dict[Node, tuple[int, str]] = field(default_factory=dict)


def fold(uses: Uses, value: Value, smooth: str, into: Folds | None = None) -> bool:
    """True if the nodes that compute `value` can divide it; they are added to `into`.

    All users of `value` must need it divided by the vector `smooth`.
    """
    node = uses.made_by.get(value)
    if node is None:
        return False
    if node.op in _NORMS:
        if into is not None:
            into.norms[node] = smooth
        return True
    if node.op not in ("mul", "add") or node.inputs[0] is node.inputs[1]:
        return False
    for i in (0, 1):
        large, small = node.inputs[i], node.inputs[1 - i]
        if uses.count(large) > 1 or large.type.shape != node.outputs[0].type.shape:
            continue
        if node.op == "add" and small.type.count() * 8 > large.type.count():
            continue
        if fold(uses, large, smooth):
            if into is not None:
                fold(uses, large, smooth, into)
                if node.op == "add":
                    into.sums[node] = (1 - i, smooth)
            return True
    return False


def foldable_inputs(module: Module) -> dict[str, frozenset[int]]:
    """{function: inputs that every caller can divide for free}; none of entries, whose callers are unknown."""
    able: dict[str, set[int]] = {}
    entries = set(module.entries.values())
    refused = {name: set(range(len(module.functions[name].inputs))) for name in entries}
    for fn in module.functions.values():
        uses = Uses(fn)
        for node in fn.nodes:
            for callee in callees(node):
                for i, value in enumerate(node.inputs):
                    fits = node.op == "call" and uses.count(value) == 1 and fold(uses, value, "")
                    (able if fits else refused).setdefault(callee, set()).add(i)
    return {name: frozenset(found - refused.get(name, set())) for name, found in able.items()}
