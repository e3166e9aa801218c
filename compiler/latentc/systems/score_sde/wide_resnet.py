"""A wide residual network that tells the classes of noisy images: Score SDEs' classifier.

It stands beside `resnet_classifier` and `unet_encoder`: blocks normalise first, take the noise level between their
convolutions, and shortcuts have no weights. Symbols: B batch, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeFeatures
from latentc.components.contract import Network, Port
from latentc.components.layers import conv, group_norm, halving_conv
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

Deviation = Annotated[float, Field(gt=0)]
GROUPS, EPS, INIT = 32, 1e-5, "kaiming_fan_out"
LEVELS = 3


class WideResnet(Backbone):
    """Wide ResNet (Zagoruyko and Komodakis 2016, arXiv:1605.07146) conditioned on the noise level (Song et al. 2021).

    Takes x f32[B, C, H, W] and t f32[B]; returns logits f32[B, K]. Three levels of blocks, each with half the
    resolution and twice the channels of the previous one. Every image is first normalised to mean 0 and standard
    deviation 1.
    """

    kind: Literal["wide_resnet"]
    blocks: int = Field(4, gt=0, le=512, description="blocks per level; WRN-28: 4")
    width: int = Field(16, gt=0, le=65_536, description="channels of the first convolution")
    multiplier: int = Field(
        10, gt=0, le=1_024, description="channels of the first level as a multiple of `width`; WRN-28-10: 10"
    )
    embedding: int = Field(512, gt=0, le=65_536, description="channels of the embedded time")
    frequencies: int | None = Field(
        None,
        gt=0,
        le=65_536,
        multiple_of=2,
        description="size of the timestep features; null: as in `conditioning.time`",
    )
    mean: tuple[float, ...] | None = Field(
        None, max_length=1_024, description="mean of the data per channel, subtracted first; null: none"
    )
    deviation: tuple[Deviation, ...] | None = Field(
        None, max_length=1_024, description="standard deviation of the data per channel, a divisor; null: none"
    )
    conditions: tuple[str, ...] | None = Field((), description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "wide_resnet",
        "blocks": 1,
        "width": 4,
        "multiplier": 1,
        "embedding": 8,
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("multiplier", "embedding")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
        else:
            for side in shape[1:]:
                if side % 2 ** (LEVELS - 1):
                    yield Problem((), f"a side of {side} cannot be halved {LEVELS - 1} times")
            for name, values in (("mean", self.mean), ("deviation", self.deviation)):
                if values is not None and len(values) != shape[0]:
                    yield Problem((name,), f"{len(values)} numbers, but the data has {shape[0]} channels")
        for channels in self._channels():
            groups = min(channels // 4, GROUPS)
            if not groups or channels % groups:
                message = f"{groups} groups do not divide {channels} channels"
                yield Problem(
                    ("width",),
                    message,
                    f"choose a `width` with channels divisible by 4, and by {GROUPS} from {4 * GROUPS} on",
                )
                break
        yield from problems_of_labels(self.kind, spec)
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)

    def _channels(self) -> list[int]:
        """Those of the first convolution and of each level."""
        return [self.width, *(self.width * self.multiplier * 2**level for level in range(LEVELS))]

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        own = {} if self.frequencies is None else {"frequencies": self.frequencies}
        static = {"width": self.width, "multiplier": self.multiplier, "embedding": self.embedding}
        static |= {"blocks": self.blocks, "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"))
        body = _network(self, spec.time.model_copy(update=own))
        forward = add_method(mb, name, "forward", body, ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"blocks": self.blocks})


@cache
def _network(config: WideResnet, time: TimeFeatures) -> BlockBody:
    @module_class("WideResNet", x="B C H W")
    def forward(
        b: Builder, x: Var, t: Var, *, width: int, multiplier: int, embedding: int, blocks: int, classes: int
    ) -> Var:
        """Logits of the classes of noisy x at time t."""
        c = b.silu(time.vector(b, "t_embedder", t, embedding), out="c")
        x = conv(b, "init_conv", _standardised(b, config, x), width, 3, INIT, bias=False, out="h")
        for level in range(LEVELS):
            features = width * multiplier * 2**level
            for i, name in enumerate(items(f"level{level + 1}", blocks)):
                kind = "first" if i == 0 and level == 0 else "down" if i == 0 else "same"
                x = b.sub(name, _block(kind), x, c, channels=x.shape[1], features=features, out="x")
        x = b.mean(_normed(b, "norm", x), axes=(2, 3), keepdims=False, out="x")
        weight = b.param("out.weight", f32(classes, x.shape[1]), "uniform", bound=int(classes) ** -0.5)
        return b.linear(x, weight, b.param("out.bias", f32(classes), "zeros"), out="logits")

    return forward


def _standardised(b: Builder, config: WideResnet, x: Var) -> Var:
    """x less the data's mean, over its deviation; then every image less its mean, over its deviation."""
    if config.mean is not None:
        x = b.op("sub", x, b.constant([[[m]] for m in config.mean], out="mean"), out="x")
    if config.deviation is not None:
        x = b.mul(x, b.constant([[[1 / s]] for s in config.deviation], out="scale"), out="x")
    axes = (1, 2, 3)
    centred = b.op("sub", x, b.mean(x, axes=axes, keepdims=True, out="mean"), out="centred")
    variance = b.mean(centred * centred, axes=axes, keepdims=True, out="variance")
    count = int(x.shape[1]) * int(x.shape[2]) * int(x.shape[3])
    return b.div(centred, b.sqrt(b.maximum(variance, 1 / count)), out="x")


def _normed(b: Builder, name: str, x: Var) -> Var:
    groups = min(int(x.shape[1]) // 4, GROUPS)
    return b.relu(group_norm(b, name, x, groups, EPS), out="h")


@cache
def _block(kind: Literal["first", "down", "same"]) -> BlockBody:
    halve = kind == "down"

    @module_class({"first": "FirstBlock", "down": "DownBlock", "same": "WideBlock"}[kind], x="B channels H W")
    def forward(b: Builder, x: Var, c: Var, *, channels: int, features: int) -> Var:
        """Two convolutions, with the embedded time c [B, E] added between them, and a shortcut without weights."""
        h = _normed(b, "norm1", x)
        x = h if kind == "first" else x
        if halve:
            h = halving_conv(b, "conv1", h, features, INIT, bias=False, out="h")
        else:
            h = conv(b, "conv1", h, features, 3, INIT, bias=False, out="h")
        cond = dense(b, "embed", c, features, True, "xavier", out="embedding")
        h = b.add(h, b.reshape(cond, shape=(c.shape[0], features, 1, 1)), out="h")
        h = conv(b, "conv2", _normed(b, "norm2", h), features, 3, INIT, bias=False, out="h")
        x = b.avg_pool(x, size=2, out="x") if halve else x
        if int(features) != int(channels):
            x = b.pad(x, axis=1, before=0, after=features - channels, value=0.0, out="x")
        return b.add(h, x, out="x")

    return forward
