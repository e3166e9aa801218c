"""Fusion: rules that rewrite patterns of ops, and which of them each target gets.

A rule is in a target's list where it was measured to win, or where it leaves an engine one op fewer. DiT-S/2, batch 8,
two cores with AMX; what was not measured says so. A residual's gate, x + gate * branch, has no rule: OpenVINO and
TensorRT-RTX fuse it by themselves, and ONNX Runtime's SkipLayerNormalization is slower than what it would replace
(docs/optimisation.md).
"""

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

# target engine -> its rules, in order
RULES: dict[str, tuple[Rule, ...]] = {
    # Not MERGE_LINEARS: queries, keys and values or w1 and w3 as one ran at 0.91 to 1.07 times the speed.
    "onnxruntime": _EVERYWHERE,
    "openvino": (
        *_EVERYWHERE,
        # A split is a copy: three products for queries, keys and values are 2 to 3 % of a step faster than one.
        SEPARATE_LINEARS,
        # After it, when the queries have weights of their own: saves a pass over them, 2 %.
        QUERY_SCALE,
    ),
    # One large product fills a GPU better than several small ones. Not measured.
    "tensorrt": (*_EVERYWHERE, MERGE_LINEARS),
    "tensorrt-rtx": (*_EVERYWHERE, MERGE_LINEARS),
}

__all__ = ["COMPOSITES", "FOLDING", "INNER_PARTS", "RULES", "FusionReport", "Rule", "fuse", "fused"]
