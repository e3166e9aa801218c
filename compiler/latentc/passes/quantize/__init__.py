"""Quantisation of layers to 8 or 4 bits. `plan` says which layers, `forms` how a layer is rewritten per engine."""

from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import (
    LARGEST,
    Layer,
    LayerQuant,
    Quantization,
    Scheme,
    Site,
    prefix_of,
    quantizable,
    stem,
)
from latentc.passes.quantize.rewrite import quantize

__all__ = [
    "LARGEST",
    "Layer",
    "LayerQuant",
    "Quantization",
    "Scheme",
    "Site",
    "fits",
    "prefix_of",
    "quantizable",
    "quantize",
    "stem",
]
