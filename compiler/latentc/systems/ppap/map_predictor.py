"""A convolutional network that predicts a map from an image, such as its depth: MiDaS-small.

Why a file of its own: no other network fuses the levels of an encoder of inverted residuals.
Symbols: B batch, C channels, F channels of the map.
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
from latentc.components.layers import MEAN, batch_norm, standardised
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.ppap.low_rank import LowRank

MOMENTUM, EPS = 0.1, 1e-3
"""Of the batch norms; EPS is TensorFlow's."""


class Stage(Closed):
    """Inverted residuals of one width (Sandler et al. 2018, arXiv:1801.04381): 1 x 1, depthwise, 1 x 1 convolutions."""

    channels: Size = Field(description="channels that its blocks return")
    blocks: Size = Field(1, description="number of blocks")
    kernel: Literal[3, 5] = Field(3, description="kernel size of the depthwise convolutions")
    ratio: int = Field(
        6,
        gt=0,
        le=64,
        description="channels of the depthwise convolutions per input channel; 1: without the first 1 x 1",
    )
    halve: bool = Field(False, description="the first block halves the resolution")


class MapPredictor(Backbone):
    """Predicts a map f32[B, F, H, W] from x f32[B, C, H, W], noisy or not: MiDaS-small for depth.

    An encoder of inverted residuals (EfficientNet-Lite3, Tan and Le 2019, arXiv:1905.11946) has a level per resolution,
    from a quarter of the image's on. Its decoder fuses the levels from the coarsest to the finest (Ranftl et al. 2019,
    arXiv:1907.01341, version 2.1 of the authors' code). It takes neither the time nor conditions. With `adapter`, the
    convolutions that PPAP adapts have a low-rank adapter each.
    """

    kind: Literal["map_predictor"]
    stem: Size = Field(32, description="channels of the first convolution, which halves the resolution")
    stages: tuple[Stage, ...] = Field(
        min_length=1,
        max_length=64,
        description="stages of the encoder; a level ends before each one that halves the "
        "resolution, except the first of these",
    )
    features: int = Field(
        64,
        gt=1,
        le=4_096,
        multiple_of=2,
        description="channels of the decoder's finest level, doubled at each coarser one",
    )
    head: Size = Field(32, description="channels before the last convolution")
    channels: Size = Field(1, description="channels of the map (F)")
    positive: bool = Field(True, description="the map is at least 0 (a ReLU)")
    adapter: LowRank | None = Field(None, description="low-rank adapters of convolutions; null: none")
    normalise: bool = Field(
        False,
        description="first convert x from [-1, 1] to ImageNet's mean and standard deviation, as pretrained "
        "weights expect",
    )
    image: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size to which images are first resized, bilinearly (PPAP: 256); the map has this size. null: not "
        "resized",
    )
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it looks at images alone")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"see", "see_noisy"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "map_predictor",
        "stem": 4,
        "stages": [{"channels": 4, "ratio": 1}, {"channels": 6, "blocks": 2, "kernel": 5, "ratio": 2, "halve": True}],
        "features": 4,
        "head": 4,
        "adapter": {"rank": 2, "alpha": 2.0},
    }

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """The indices of the stages of each level, from the finest."""
        found: list[list[int]] = [[]]
        halved = False
        for i, stage in enumerate(self.stages):
            if stage.halve and halved:
                found.append([])
            halved = halved or stage.halve
            found[-1].append(i)
        return tuple(map(tuple, found))

    def sides(self, spec: Spec) -> tuple[int, ...]:
        """(H, W) of what it sees."""
        assert spec.data.shape is not None
        return tuple(spec.data.shape[1:]) if self.image is None else (self.image, self.image)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
            return
        if self.normalise and spec.data.shape[0] != len(MEAN):
            message = f"ImageNet's mean has 3 channels, but the data has {spec.data.shape[0]}"
            yield Problem(("normalise",), message, "leave `normalise` out")
        if not any(stage.halve for stage in self.stages):
            yield Problem(("stages",), "no stage halves the resolution", "set `halve: true` in the second stage")
            return
        factor = 2 ** (1 + len(self.levels))
        if any(side % factor for side in self.sides(spec)):
            message = f"`stages` need sides that are multiples of {factor}, not {list(self.sides(spec))}"
            yield Problem(("stages",), message, f"set `image` to a multiple of {factor}")

    def features_seen(self, spec: Spec) -> int:
        return self.channels

    def map_seen(self, spec: Spec) -> tuple[int, ...] | None:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            return None
        return (self.channels, *self.sides(spec))

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {"stem": self.stem, "features": self.features, "head": self.head, "channels": self.channels}
        for i, stage in enumerate(self.stages):
            static |= {f"channels_{i}": stage.channels, f"blocks_{i}": stage.blocks, f"ratio_{i}": stage.ratio}
        static |= {} if self.adapter is None else {"rank": self.adapter.rank}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        see = add_method(mb, name, "see", _network(self), ports, static)
        return Network(name, {"see": see}, self.PROVIDES)


@cache
def _network(config: MapPredictor) -> BlockBody:
    @module_class("MapPredictor", "see", x="B C H W")
    def forward(b: Builder, x: Var, *, stem: int, features: int, head: int, channels: int, **static: Any) -> Var:
        """The map that x shows."""
        if config.image is not None:
            x = b.resize(x, size=config.image, mode="bilinear", out="x")
        if config.normalise:
            x = standardised(b, x)
        adapted = {} if config.adapter is None else {"rank": static["rank"]}
        x = _relu6(b, _norm(b, "bn1", _conv(b, config, "conv_stem", x, stem, 3, 2)))
        seen = []
        for level in config.levels:
            for i in level:
                stage, wide = config.stages[i], static[f"channels_{i}"]
                for j, name in enumerate(items(f"stage_{i}", static[f"blocks_{i}"])):
                    halve = stage.halve and j == 0
                    keeps = not halve and int(x.shape[1]) == int(wide)
                    sizes = {"channels": x.shape[1], "features": wide, **adapted}
                    sizes |= {"ratio": static[f"ratio_{i}"]} if stage.ratio > 1 else {}
                    x = b.sub(name, _residual(config, stage.kernel, stage.ratio > 1, halve, keeps), x, out="x", **sizes)
            seen.append(x)
        for i in reversed(range(len(seen))):
            width = features * 2**i
            own = _conv(b, config, f"level_{i + 1}_conv", seen[i], width, 3, 1, adapted, init="linear_default")
            fused = (own,) if i == len(seen) - 1 else (x, own)
            sizes = {"channels": width, "features": features * 2 ** max(i - 1, 0), **adapted}
            x = b.sub(f"fuse_{i + 1}", _fuse(config, len(fused) == 2), *fused, out="x", **sizes)
        x = _biased(b, config, "head_conv1", x, features // 2, 3)
        size = tuple(2 * int(side) for side in x.shape[2:])
        x = b.resize(x, size=size, mode="bilinear", out="x")
        x = b.relu(_biased(b, config, "head_conv2", x, head, 3), out="x")
        x = _biased(b, config, "head_conv3", x, channels, 1)
        return b.relu(x, out="map") if config.positive else x

    return forward


@cache
def _residual(config: MapPredictor, kernel: int, expands: bool, halve: bool, keeps: bool) -> BlockBody:
    name = "InvertedResidual" if expands else "SeparableConv"
    name = f"Down{name}" if halve else name if keeps else f"Wide{name}"

    @module_class(f"{name}{kernel}x{kernel}", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, ratio: int = 1, **adapted: Any) -> Var:
        """Depthwise and 1 x 1 convolutions with batch norms."""
        h, hidden = x, channels
        if expands:
            hidden = ratio * channels
            h = _relu6(b, _norm(b, "bn1", _conv(b, config, "conv_pw", h, hidden, 1, 1, adapted)))
        h = _conv(b, config, "conv_dw", h, hidden, kernel, 2 if halve else 1, depthwise=True)
        h = _relu6(b, _norm(b, "bn2" if expands else "bn1", h))
        if expands:
            h = _norm(b, "bn3", _conv(b, config, "conv_pwl", h, features, 1, 1))
        else:
            h = _norm(b, "bn2", _conv(b, config, "conv_pw", h, features, 1, 1, adapted))
        return b.add(h, x, out="x") if keeps else h

    return forward


@cache
def _fuse(config: MapPredictor, both: bool) -> BlockBody:
    def fused(b: Builder, x: Var, features: Any, adapted: dict[str, Any]) -> Var:
        x = b.sub("refine", _refine(config), x, out="x", channels=x.shape[1], **adapted)
        size = tuple(2 * int(side) for side in x.shape[2:])
        x = b.resize(x, size=size, mode="aligned", out="x")
        return _biased(b, config, "out_conv", x, features, 1, adapted)

    if not both:

        @module_class("Enlarge", x="B channels H W")
        def enlarge(b: Builder, x: Var, *, channels: int, features: int, **adapted: Any) -> Var:
            """The coarsest level at twice its resolution."""
            return fused(b, x, features, adapted)

        return enlarge

    @module_class("Fuse", x="B channels H W", level="B channels H W")
    def forward(b: Builder, x: Var, level: Var, *, channels: int, features: int, **adapted: Any) -> Var:
        """x, from the coarser levels, and a level of the encoder, at twice their resolution."""
        level = b.sub("level", _refine(config), level, out="level", channels=channels, **adapted)
        return fused(b, b.add(x, level, out="x"), features, adapted)

    return forward


@cache
def _refine(config: MapPredictor) -> BlockBody:
    @module_class("Refine", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, **adapted: Any) -> Var:
        """A residual of two convolutions."""
        h = _biased(b, config, "conv1", b.relu(x), channels, 3, adapted)
        h = _biased(b, config, "conv2", b.relu(h), channels, 3, adapted)
        return b.add(h, x, out="x")

    return forward


def _relu6(b: Builder, x: Var) -> Var:
    return b.clamp(x, low=0.0, high=6.0, out="h")


def _norm(b: Builder, name: str, x: Var) -> Var:
    return batch_norm(b, name, x, True, EPS, MOMENTUM, out="h")


def _biased(
    b: Builder,
    config: MapPredictor,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    adapted: dict[str, Any] | None = None,
) -> Var:
    """A convolution with a bias, both initialised as PyTorch does."""
    bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=x.shape[1] * kernel**2)
    return _conv(b, config, name, x, features, kernel, 1, adapted, bias, "linear_default")


def _conv(
    b: Builder,
    config: MapPredictor,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    stride: int,
    adapted: dict[str, Any] | None = None,
    bias: Var | None = None,
    init: str = "kaiming_normal",
    depthwise: bool = False,
) -> Var:
    """A convolution, depthwise or not; its kernel may have an adapter, `NAME.lora_A` and `NAME.lora_B`.

    Of an even side, a stride of 2 needs one pixel less of border before it than after it ("same" in TensorFlow).
    """
    channels = 1 if depthwise else x.shape[1]
    # Of a depthwise kernel, the fan out of one channel is the fan in.
    args = (
        {"fan_in": channels * kernel**2} if init == "linear_default" else {"mode": "fan_in" if depthwise else "fan_out"}
    )
    weight = b.param(f"{name}.weight", f32(features, channels, kernel, kernel), init, **args)
    if config.adapter is not None and adapted:
        weight = config.adapter.adapted(b, name, weight, adapted["rank"])
    if stride == 2:
        for axis in (2, 3):
            x = b.pad(x, axis=axis, before=kernel // 2 - 1, after=kernel // 2, value=0.0, out="padded")
    operands = (x, weight) if bias is None else (x, weight, bias)
    groups = {"groups": x.shape[1]} if depthwise else {}
    padding = 0 if stride == 2 else kernel // 2
    return b.conv(*operands, stride=stride, padding=padding, **groups, out="h")
