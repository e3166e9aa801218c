"""Where a smoothed value is divided: in what makes it, if that costs (almost) nothing, else by a product of its own.

A norm divides with its scale, so for nothing; a sum of a norm and something small with that and a small product. The
modulation of adaptive norms, norm(x) * (1 + scale) + shift, is of the latter kind: only its shift, one row a sample, is
multiplied.

Smoothing: Xiao et al. 2023, arXiv:2211.10438, section 4.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from latentc.ir.core import Function, Module, Node, Value, callees

_NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class Uses:
    """Who makes a function's values, and how often each is used, the function's outputs counted."""

    made: Mapping[Value, Node]
    count: Mapping[Value, int]

    @staticmethod
    def of(fn: Function) -> Uses:
        made = {o: node for node in fn.nodes for o in node.outputs}
        return Uses(made, Counter([*(v for n in fn.nodes for v in n.inputs), *fn.outputs]))


@dataclass
class Folds:
    """Nodes that divide by a smoothing vector, by its name in the function: norms wholly, sums in one small operand."""

    norms: dict[Node, str] = field(default_factory=dict)
    sums: dict[Node, tuple[int, str]] = field(default_factory=dict)


def fold(uses: Uses, value: Value, smooth: str, into: Folds | None = None) -> bool:
    """Whether what makes `value` can divide it; notes where in `into`. The users of `value` must all want it so."""
    node = uses.made.get(value)
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
        if uses.count[large] > 1 or large.type.shape != node.outputs[0].type.shape:
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
    """{function: its inputs that every caller can divide for nothing}; of entries, whose callers are unknown, none."""
    able: dict[str, set[int]] = {}
    refused: dict[str, set[int]] = {name: set(range(len(module.functions[name].inputs))) for name in _roots(module)}
    for fn in module.functions.values():
        uses = Uses.of(fn)
        for node in fn.nodes:
            for callee in callees(node):
                for i, value in enumerate(node.inputs):
                    fits = node.op == "call" and uses.count[value] == 1 and fold(uses, value, "")
                    (able if fits else refused).setdefault(callee, set()).add(i)
    return {name: frozenset(found - refused.get(name, set())) for name, found in able.items()}


def _roots(module: Module) -> set[str]:
    return set(module.entries.values())
