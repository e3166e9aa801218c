"""A classifier with three heads, from which ratios of densities follow: MobileNetV2.

Symbols: B batch, C channels, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import batch_norm
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

EPS, MOMENTUM = 1e-5, 0.1
Shortcut = Literal["identity", "projected", "none"]


class Stage(Closed):
    """A stage of inverted residual blocks."""

    multiplier: Size = Field(description="channels of its output, as a multiple of `width`")
    blocks: Size = Field(1, description="number of blocks")
    stride: Literal[1, 2] = Field(1, description="factor by which its first block divides the resolution")
    expansion: Size = Field(6, description="channels inside a block, as a multiple of those of its input")


MOBILENET = (
    Stage(multiplier=2, expansion=1),
    Stage(multiplier=3, blocks=2),
    Stage(multiplier=4, blocks=3, stride=2),
    Stage(multiplier=8, blocks=4, stride=2),
    Stage(multiplier=12, blocks=3),
    Stage(multiplier=20, blocks=3, stride=2),
    Stage(multiplier=40),
)
"""MobileNetV2 for 32 × 32 pixels."""


class RatioClassifier(Backbone):
    """MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) with the three heads of S2M (Cho et al. 2022,
    arXiv:2206.05764).

    Takes x f32[B, C, H, W]; returns the logit f32[B] of data against samples of `main`, the logits f32[B, K] of the
    label of data and, if `main` takes the class, those of the class that a sample was made for.
    """

    kind: Literal["ratio_classifier"]
    width: int = Field(8, gt=0, le=4_096, description="base channels (MobileNetV2: 8)")
    first_multiplier: Size = Field(4, description="channels of the first convolution, as a multiple of `width`")
    stages: tuple[Stage, ...] = Field(
        MOBILENET, min_length=1, max_length=64, description="stages of blocks; default: those for 32 × 32 pixels"
    )
    last_multiplier: Size = Field(160, description="channels of the last convolution, as a multiple of `width`")
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts labels")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"weigh_labels"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "ratio_classifier",
        "width": 4,
        "first_multiplier": 2,
        "stages": [{"multiplier": 1, "expansion": 1}, {"multiplier": 2, "blocks": 2, "stride": 2, "expansion": 2}],
        "last_multiplier": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
        yield from problems_of_labels(self.kind, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        main = spec.networks.get("main")
        of_samples = isinstance(main, Backbone) and "class" in main.takes(spec)
        blocks = {f"blocks_{i}": stage.blocks for i, stage in enumerate(self.stages)}
        static = {"width": self.width, **blocks, "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        outputs: tuple[Any, ...] = ("output",) * (3 if of_samples else 2)
        forward = add_method(mb, name, "forward", _network(self, of_samples), ports, static, outputs)
        return Network(name, {"forward": forward}, self.PROVIDES)


def _conv(b: Builder, name: str, x: Var, features: Any, kernel: int, stride: int = 1, separate: bool = False) -> Var:
    """A convolution without a bias, of each channel by itself if `separate`, and its batch norm."""
    inside = 1 if separate else x.shape[1]
    fan_in: dict[str, Any] = {"fan_in": inside * kernel**2}
    weight = b.param(f"{name}.weight", f32(features, inside, kernel, kernel), "linear_default", **fan_in)
    groups = {"groups": features} if separate else {}
    return b.conv(x, weight, stride=stride, padding=kernel // 2, out="h", **groups)


@cache
def _network(config: RatioClassifier, of_samples: bool) -> BlockBody:
    @module_class("RatioClassifier", x="B C H W")
    def forward(b: Builder, x: Var, *, width: int, classes: int, **static: Any) -> Any:
        """The logit of data against samples, and the logits of the labels that data and samples have."""

        def normed(name: str, h: Var) -> Var:
            return b.relu(batch_norm(b, name, h, True, EPS, MOMENTUM), out="x")

        x = normed("bn1", _conv(b, "conv1", x, config.first_multiplier * width, 3))
        places = [(i, stage) for i, stage in enumerate(config.stages)]
        names = iter(items("layers", sum(static[f"blocks_{i}"] for i, _ in places)))
        for i, stage in places:
            features = stage.multiplier * width
            for place, name in zip(range(int(static[f"blocks_{i}"])), names, strict=False):
                stride = stage.stride if place == 0 else 1
                body = _block(stride, _shortcut(stride, int(x.shape[1]) == int(features)))
                sizes = {"channels": x.shape[1], "features": features, "expansion": stage.expansion}
                x = b.sub(name, body, x, out="x", **sizes)
        x = normed("bn2", _conv(b, "conv2", x, config.last_multiplier * width, 1))
        h = b.mean(x, axes=(2, 3), keepdims=False, out="h")
        column = dense(b, "validity", h, 1, True, "linear_default")
        found = [b.reshape(column, shape=(column.shape[0],), out="validity")]
        heads = ("of_data", "of_samples") if of_samples else ("of_data",)
        found += [dense(b, head, h, classes, True, "linear_default", out=head) for head in heads]
        return tuple(found)

    return forward


def _shortcut(stride: int, same: bool) -> Shortcut:
    return "none" if stride > 1 else "identity" if same else "projected"


@cache
def _block(stride: int, shortcut: Shortcut) -> BlockBody:
    name = {"identity": "", "projected": "Wide", "none": "Down"}[shortcut]

    @module_class(f"{name}InvertedResidual", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, expansion: int) -> Var:
        """Widens, convolves each channel by itself and narrows; x [B, channels, H, W]."""

        def normed(name: str, h: Var) -> Var:
            return batch_norm(b, name, h, True, EPS, MOMENTUM, out="h")

        inside = expansion * channels
        h = b.relu(normed("bn1", _conv(b, "conv1", x, inside, 1)), out="h")
        h = b.relu(normed("bn2", _conv(b, "conv2", h, inside, 3, stride, separate=True)), out="h")
        h = normed("bn3", _conv(b, "conv3", h, features, 1))
        if shortcut == "none":
            return h
        if shortcut == "projected":
            x = _conv(b, "shortcut_conv", x, features, 1)
            x = batch_norm(b, "shortcut_norm", x, True, EPS, MOMENTUM, out="x")
        return b.add(h, x, out="x")

    return forward


__all__ = ["MOBILENET", "RatioClassifier", "Stage"]
