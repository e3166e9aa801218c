"""EfficientNet's inverted residual blocks without squeeze and excitation (EfficientNet-lite, Tan and Le 2019).

The names of weights and the padding of strided convolutions are those of timm's `tf_efficientnet_lite0`, whose weights
come from TensorFlow. Symbols: B batch, C channels, H and W sides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import Field

from latentc.components import layers
from latentc.components.component import Closed
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class

EPS = 1e-3
CAP = 6.0  # largest value of an activation


class Stage(Closed):
    """Blocks of one width; the first halves the resolution if `stride` is 2."""

    width: int = Field(gt=0, le=65_536, description="channels")
    blocks: int = Field(1, gt=0, le=64, description="number of blocks")
    kernel: int = Field(3, gt=0, le=15, description="kernel size of the convolutions by channel, odd")
    stride: int = Field(1, gt=0, le=2, description="stride of the first block")
    expansion: int = Field(6, gt=0, le=64, description="channels inside a block, as a multiple of those before it")


LITE0 = (
    Stage(width=16, expansion=1),
    Stage(width=24, blocks=2, stride=2),
    Stage(width=40, blocks=2, kernel=5, stride=2),
    Stage(width=80, blocks=3, stride=2),
    Stage(width=112, blocks=3, kernel=5),
    Stage(width=192, blocks=4, kernel=5, stride=2),
    Stage(width=320),
)
"""EfficientNet-lite0."""


def sides(side: int, stages: tuple[Stage, ...], stem_stride: int) -> list[int]:
    """The side of the feature map after each stage, for images of this side."""
    found, side = [], -(-side // stem_stride)
    for stage in stages:
        side = -(-side // stage.stride)
        found.append(side)
    return found


def read_stages(stages: tuple[Stage, ...]) -> list[int]:
    """Indices of the last stage of each resolution, the finest left out if there are more than four."""
    last = [i for i, stage in enumerate(stages) if i + 1 == len(stages) or stages[i + 1].stride == 2]
    return last[-4:]


@cache
def features(stages: tuple[Stage, ...], stem_stride: int, frozen: bool) -> BlockBody:
    """The feature maps after the last stage of each resolution, from fine to coarse."""

    @module_class("FrozenFeatures" if frozen else "EfficientFeatures", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, stem: int) -> Any:
        """Feature maps of images x in [-1, 1], at four resolutions at most."""
        h = _conv(b, "conv_stem", x, stem, 3, stem_stride)
        h = _active(b, _norm(b, "bn1", h, frozen))
        found, read = [], read_stages(stages)
        for i, stage in enumerate(stages):
            for j, name in enumerate(items(f"blocks.{i}", stage.blocks)):
                stride = stage.stride if j == 0 else 1
                same = stride == 1 and int(h.shape[1]) == stage.width
                body = _block(stage.expansion == 1, stage.kernel, stride, same, frozen)
                sizes = {"channels": h.shape[1], "hidden": stage.expansion * h.shape[1], "features": stage.width}
                h = b.sub(name, body, h, out="h", **sizes)
            if i in read:
                found.append(h)
        return found[0] if len(found) == 1 else tuple(found)

    return forward


@cache
def _block(separable: bool, kernel: int, stride: int, same: bool, frozen: bool) -> BlockBody:
    name = "SeparableBlock" if separable else "InvertedBlock"

    @module_class(f"Frozen{name}" if frozen else name, x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, hidden: int, features: int) -> Var:
        """A convolution by channel between two of 1 x 1 pixels, or before one; added to x if shapes agree."""
        h, last, norm = x, "conv_pw" if separable else "conv_pwl", "bn1" if separable else "bn2"
        if not separable:
            h = _active(b, _norm(b, "bn1", _conv(b, "conv_pw", h, hidden, 1), frozen))
        h = _active(b, _norm(b, norm, _conv(b, "conv_dw", h, hidden, kernel, stride, hidden), frozen))
        h = _norm(b, "bn2" if separable else "bn3", _conv(b, last, h, features, 1), frozen)
        return b.add(x, h, out="x") if same else h

    return forward


def _conv(b: Builder, name: str, x: Var, features: Any, kernel: int, stride: int = 1, groups: Any = 1) -> Var:
    """A convolution without bias; with a stride, zeros are put around x as TensorFlow does."""
    inside = x.shape[1] if groups == 1 else 1
    weight = b.param(f"{name}.weight", f32(features, inside, kernel, kernel), "kaiming_normal", mode="fan_out")
    grouped = {} if groups == 1 else {"groups": groups}
    if stride == 1:
        return b.conv(x, weight, padding=kernel // 2, out="h", **grouped)
    for axis in (2, 3):
        size = int(x.shape[axis])
        zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = b.pad(x, axis=axis, before=zeros // 2, after=zeros - zeros // 2, value=0.0, out="padded")
    return b.conv(x, weight, stride=stride, out="h", **grouped)


def _norm(b: Builder, name: str, x: Var, frozen: bool) -> Var:
    if not frozen:
        return layers.batch_norm(b, name, x, affine=True, eps=EPS, out="h")
    size = f32(x.shape[1])
    mean, var = b.param(f"{name}.running_mean", size, "zeros"), b.param(f"{name}.running_var", size, "ones")
    weight, bias = b.param(f"{name}.weight", size, "ones"), b.param(f"{name}.bias", size, "zeros")
    scale = b.mul(weight, b.rsqrt(var + EPS), out="scale")
    shift = b.op("sub", bias, mean * scale, out="shift")
    each = (1, x.shape[1], 1, 1)
    return b.add(x * b.reshape(scale, shape=each), b.reshape(shift, shape=each), out="h")


def _active(b: Builder, x: Var) -> Var:
    return b.clamp(x, low=0.0, high=CAP, out="h")
