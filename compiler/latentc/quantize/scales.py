"""Scales from calibration: where the range of a layer's input is cut off, and the measured tensors of a plan.

x is stored as round(x / scale), clipped to ±`LARGEST`; in NVFP4 the scale is that of the scales of its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np

from latentc.ir.ops.float4 import in_blocks
from latentc.measure.execute import Array
from latentc.passes.quantize.plan import FLOAT4, LARGEST, Layer, LayerQuant
from latentc.quantize.observe import BINS, Observed

Range = Literal["max", "percentile", "mse"]
PERCENTILE = 0.9999
CANDIDATES = 100
"""Cut-offs that `mse` tries, evenly spaced up to the largest value."""


def reach(seen: Observed, scheme: str, range: Range) -> float:
    """The largest magnitude of an input (after smoothing) that a scale represents; larger ones saturate."""
    if range == "max" or scheme in FLOAT4:  # blocks have scales of their own: cutting off gains nothing
        return seen.limit
    edges = np.arange(1, BINS + 1) * (seen.limit / BINS)
    if range == "percentile":
        cumulative = np.cumsum(seen.histogram) / max(int(seen.histogram.sum()), 1)
        return float(edges[int(np.searchsorted(cumulative, PERCENTILE))])
    middles = edges - seen.limit / (2 * BINS)
    tried = seen.limit * np.arange(1, CANDIDATES + 1) / CANDIDATES
    errors = [float(np.sum(seen.histogram * (rounded(middles, end, scheme) - middles) ** 2)) for end in tried]
    return float(tried[int(np.argmin(errors))])


def rounded(x: Array, reach: float, scheme: str) -> Array:
    """Values f64 after quantising and dequantising; those beyond `reach` saturate."""
    scale = reach / LARGEST[scheme]
    clipped = np.clip(np.asarray(x, np.float64) / scale, -LARGEST[scheme], LARGEST[scheme])
    whole = clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) if scheme == "fp8" else np.round(clipped)
    return whole * scale


def rounded_rows(seen: Observed, quant: LayerQuant, range: Range) -> Array:
    """The kept rows of an input after quantising and dequantising it as a layer does."""
    smooth = seen.smooth.reshape(-1, *[1] * (seen.rows.ndim - 2))
    if quant.scheme == "nvfp4":
        return _rounded_blocks(seen.rows / smooth, seen.limit) * smooth
    if quant.scheme in LARGEST:
        return np.asarray(
            rounded(seen.rows / smooth, reach(seen, quant.scheme, range), quant.scheme) * smooth, np.float32
        )
    if quant.scheme != "int8_dynamic":
        return seen.rows
    smooth = smooth if quant.smooth else np.ones(1, np.float32)
    x = seen.rows / smooth
    scale = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255 or 1.0
    return np.asarray(np.rint(x / scale) * scale * smooth, np.float32)


def _rounded_blocks(x: Array, limit: float) -> Array:
    """Rows f32[N, K] in NVFP4, under the scale of values up to `limit`."""
    scale = np.asarray(limit / LARGEST["nvfp4"], np.float32)
    return np.asarray(in_blocks(x, scale, {"format": FLOAT4["nvfp4"]}), np.float32)


def saturated(seen: Observed, reach: float) -> float:
    """The share of values beyond `reach`, to the resolution of the histogram."""
    first = int(np.ceil(reach / seen.limit * BINS - 1e-6)) if seen.limit else BINS
    return float(seen.histogram[first:].sum() / max(int(seen.histogram.sum()), 1))


def measured_tensors(
    plan: Mapping[str, LayerQuant], layers: Mapping[str, Layer], inputs: Mapping[str, Observed], range: Range
) -> dict[str, np.ndarray[Any, Any]]:
    """The scales and smoothing vectors of a plan by path; `inputs` by the path of their measured tensors."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path, quant in plan.items():
        group = layers[path].group
        if quant.scheme in LARGEST:
            end = reach(inputs[group], quant.scheme, range)
            found[f"{group}.input_scale"] = np.asarray(end / LARGEST[quant.scheme], np.float32)
        if quant.smooth:
            found[f"{group}.smooth"] = inputs[group].smooth
    return found
