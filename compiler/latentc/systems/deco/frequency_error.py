"""The error of a prediction by frequency.

Symbols: B batch, C channels, H and W sides of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.kit import per_sample_mean
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array
from latentc.ir.builder import Builder, Var

SIDE = 8
"""Side of the blocks that are transformed, as in JPEG."""
# Rows of the tables K.1 and K.2 of ITU-T T.81, recommended steps of quantisation of luminance and of chrominance.
LUMINANCE = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Luminance, blue and red difference of red, green and blue (JFIF)."""


class FrequencyError(DenoisingTerm):
    """Mean square error of the cosine transform of 8 x 8 blocks, in luminance and chrominance, each frequency by the
    inverse of JPEG's step of quantisation (DeCo, Ma et al. 2025, arXiv:2511.19365).

    Images have the channels red, green and blue, or one, the luminance.
    """

    kind: Literal["frequency_error"]
    weight: float = Field(1.0, gt=0, le=1_000, description="weight of the term")
    quality: int = Field(85, ge=1, le=100, description="JPEG quality of the weights; 100: equal weights")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "frequency_error"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None:
            return
        if len(shape) != 3 or shape[0] not in (1, 3) or any(side % SIDE for side in shape[1:]):
            message = f"`{self.kind}` transforms blocks of {SIDE} x {SIDE} pixels of 1 or 3 channels, not {[*shape]}"
            yield Problem((), message, f"use images whose sides are multiples of {SIDE}, or remove the term")

    def value(self, denoised: Denoised) -> Var:
        b = denoised.b
        error = denoised.at.error(denoised.estimate)
        weights = frequency_weights(self.quality, int(error.shape[1]))
        found = _transformed(b, error)
        square = b.mul(found * found, b.constant(weights, "f32", out="weights"), out="square")
        return per_sample_mean(b, square, out="frequency_error")


def _transformed(b: Builder, x: Var) -> Var:
    """f32[B, C, H, W] -> f32[B, C, H / 8, W / 8, 8, 8]: coefficients of the cosine transform of each block."""
    batch, channels, height, width = x.shape
    if int(channels) == 3:
        flat = b.reshape(x, shape=(batch, channels, height * width))
        x = b.matmul(b.constant(YCBCR, "f32", out="ycbcr"), flat)
    rows, columns = height // SIDE, width // SIDE
    x = b.reshape(x, shape=(batch, channels, rows, SIDE, columns, SIDE))
    x = b.transpose(x, perm=(0, 1, 2, 4, 3, 5), out="blocks")
    waves = b.constant(cosines(), "f32", out="cosines")
    return b.matmul(b.matmul(waves, x), b.transpose(waves, perm=(1, 0)), out="coefficients")


def cosines() -> Array:
    """f64[8, 8]: the orthonormal cosine transform (DCT-II) of 8 numbers, a row per frequency."""
    place = (2.0 * np.arange(SIDE) + 1.0) / (2.0 * SIDE)
    waves = np.cos(np.pi * np.arange(SIDE)[:, None] * place) * np.sqrt(2.0 / SIDE)
    waves[0] /= np.sqrt(2.0)
    return waves


def frequency_weights(quality: int, channels: int) -> Array:
    """f64[channels, 1, 1, 8, 8]: inverse steps of quantisation, over their mean in each channel."""
    scale = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    tables = (LUMINANCE, CHROMINANCE, CHROMINANCE)[:channels]
    steps = np.array([np.array(table.split(), float).reshape(SIDE, SIDE) for table in tables])
    inverse = 1.0 / np.clip(np.floor((steps * scale + 50.0) / 100.0), 1.0, 255.0)
    return (inverse / inverse.mean(axis=(1, 2), keepdims=True))[:, None, None]
