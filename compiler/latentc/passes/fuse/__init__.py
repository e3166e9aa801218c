"""Fusion: rules that rewrite patterns of ops, and the rules that every engine gets.

An engine names the further rules that it gains from (`Engine.fusions`), with what was measured. A residual's gate,
x + gate * branch, has no rule: OpenVINO and TensorRT-RTX fuse it themselves, and ONNX Runtime's SkipLayerNormalization
is slower than what it would replace (docs/optimisation.md).
"""

from latentc.engines import ENGINES
from latentc.passes.fuse.composites import (
    ATTENTION,
    GELU,
    GELU_TANH,
    LAYER_NORM,
    NORM_AFFINE,
    RMS_NORM,
    SILU,
    SOFTMAX,
)
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

# Operators written out become the operator. A rule stands after those whose operators its pattern is made of.
COMPOSITES = (SOFTMAX, ATTENTION, LAYER_NORM, RMS_NORM, NORM_AFFINE, GELU, GELU_TANH, SILU)

_EVERYWHERE = (
    # Before anything reads weights: what is constant in inference goes into them.
    *FOLDING,
    *COMPOSITES,
    # Fewer ops, the same products.
    TRANSPOSES,
    LINEAR_BIAS,
    # Modulation is one multiplication and one addition then, in each step of a loop two small ops less a block.
    MODULATION_ONE,
)

# Rules that an engine asks for by name.
_CHOSEN = {rule.name: rule for rule in (MERGE_LINEARS, SEPARATE_LINEARS, QUERY_SCALE, INNER_PARTS)}

RULES: dict[str, tuple[Rule, ...]] = {
    name: (*_EVERYWHERE, *(_CHOSEN[rule] for rule in engine.fusions)) for name, engine in ENGINES.items()
}
"""{engine: its rules, in order}"""


def rules_after_quantising(engine: str, precision: str) -> tuple[Rule, ...]:
    """The rules for what quantisation left unquantised."""
    return tuple(_CHOSEN[rule] for rule in ENGINES[engine].fusions_after_quantising.get(precision, ()))


__all__ = ["COMPOSITES", "FOLDING", "RULES", "FusionReport", "Rule", "fuse", "fused", "rules_after_quantising"]
