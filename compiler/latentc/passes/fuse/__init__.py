"""Fusion: rules that rewrite patterns of ops, each target with its own list of them."""

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
from latentc.passes.fuse.engine import Report, Rule, fuse, fused
from latentc.passes.fuse.samplers import COMBINED_UPDATE

COMPOSITES = (SOFTMAX, ATTENTION, LAYER_NORM, RMS_NORM, NORM_AFFINE, GELU, GELU_TANH, SILU)

__all__ = ["COMBINED_UPDATE", "COMPOSITES", "Report", "Rule", "fuse", "fused"]
