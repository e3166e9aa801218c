"""Fusion: rules that rewrite patterns of ops, and the rules of each engine.

All engines share some rules; an engine lists the others that it gains from (`Engine.fusions`), with measurements. There
is no rule for gated residuals, x + gate * branch: OpenVINO and TensorRT-RTX fuse them, and ONNX Runtime's
SkipLayerNormalization is slower than the ops it would replace (docs/optimisation.md).
"""

from latentc.engines import ENGINES
from latentc.passes.fuse.composites import COMPOSITES
from latentc.passes.fuse.engine import FusionReport, Rule, fuse, fused
from latentc.passes.fuse.folding import FOLDING
from latentc.passes.fuse.linears import (
    INNER_PARTS,
    LINEAR_BIAS,
    MERGE_LINEARS,
    MODULATION_ONE,
    QUERY_SCALE,
    SEPARATE_LINEARS,
)
from latentc.passes.fuse.moves import TRANSPOSES

_EVERYWHERE = (
    # First, because it changes weights: folds everything that is constant in inference into them.
    *FOLDING,
    *COMPOSITES,
    # Fewer ops, the same matmuls.
    TRANSPOSES,
    LINEAR_BIAS,
    # Then modulation is one multiplication and one addition: two small ops fewer per block and step.
    MODULATION_ONE,
)

# Rules that engines ask for by name.
_CHOSEN = {rule.name: rule for rule in (MERGE_LINEARS, SEPARATE_LINEARS, QUERY_SCALE, INNER_PARTS)}

RULES: dict[str, tuple[Rule, ...]] = {
    name: (*_EVERYWHERE, *(_CHOSEN[rule] for rule in engine.fusions)) for name, engine in ENGINES.items()
}
"""{engine: its rules, in order}"""


def rules_after_quantising(engine: str, precision: str) -> tuple[Rule, ...]:
    """The rules for layers that quantisation left unchanged."""
    return tuple(_CHOSEN[rule] for rule in ENGINES[engine].fusions_after_quantising.get(precision, ()))


__all__ = ["COMPOSITES", "FOLDING", "RULES", "FusionReport", "Rule", "fuse", "fused", "rules_after_quantising"]
