"""A discriminator of the features of a frozen network, which are mixed at random (projected GANs).

Symbols: B batch, C channels, K classes, E dimension of class features, S side, P places of all score maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_class, problems_of_dropping, with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.stylegan2.style_blocks import activated, fully_connected
from latentc.systems.stylegan_xl.efficient_features import LITE0, Stage, features, read_stages, sides

SLOPE, EPS, INIT = 0.2, 1e-5, "linear_default"
CLASS_WIDTH = 64
"""Channels of the score maps that a class weighs."""
WIDTHS = {4: 1.0, 8: 1.0, 16: 0.5, 32: 0.25}
"""Channels of a discriminator's map by its side, as a share of the most; 1 / 8 for larger ones."""


class ProjectedDiscriminator(Backbone):
    """Scores images by a frozen network's features at several scales (Sauer et al. 2021, arXiv:2111.01007).

    Takes x f32[B, C, S, S] in [-1, 1] and y i64[B]; returns `score` f32[B, P]: of each place of a score map per scale.
    Features are mixed across channels and scales by convolutions that keep their random weights. Load `features.*`
    from a file and set `frozen_weights: ["features.*", "mixing.*"]`.
    """

    kind: Literal["projected_discriminator"]
    stem: int = Field(32, gt=0, le=65_536, description="channels of the feature network's first convolution")
    stem_stride: Literal[1, 2] = Field(2, description="stride of that convolution")
    stages: tuple[Stage, ...] = Field(LITE0, min_length=1, max_length=16, description="its stages of blocks")
    image: int | None = Field(
        224, gt=0, le=65_536, description="side to which images are first resized, bilinear; null: not resized"
    )
    mixed: int = Field(
        64, gt=1, le=65_536, description="channels of the finest mixed features; twice as many at each coarser scale"
    )
    width: int = Field(512, gt=7, le=65_536, description="most channels of a discriminator's map")
    last: int = Field(8, ge=4, le=64, description="side of the map that scores are computed from; a power of 2")
    class_features: int = Field(
        320, gt=0, le=65_536, description="dimension of the features of a class (E); EfficientNet-lite0: 320"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "projected_discriminator",
        "stem": 4,
        "stem_stride": 1,
        "stages": [{"width": 3, "expansion": 1}, {"width": 4, "stride": 2, "expansion": 2}],
        "image": None,
        "mixed": 4,
        "width": 8,
        "last": 4,
        "class_features": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square images [C, S, S], but the data has {spec.data.words}")
        elif min(found := self.scales(shape[1])) < self.last:
            message = f"the coarsest mixed features have a side of {min(found)}, less than `last: {self.last}`"
            yield Problem(("last",), message, "resize images to a larger side (`image`), or halve them less often")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)
        yield from problems_of_dropping(self, spec)

    def scales(self, side: int) -> list[int]:
        """Sides of the mixed feature maps, from fine to coarse: twice those of the features."""
        found = sides(self.image or side, self.stages, self.stem_stride)
        return [2 * found[i] for i in read_stages(self.stages)]

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"channels": spec.data.shape[0], "stem": self.stem, **self.condition_sizes(spec)}
        static |= {"class_features": self.class_features} if entries else {}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _forward(self), ports, static)
        methods = with_averages(mb, name, spec, "ProjectedDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, sizes={"scales": len(read_stages(self.stages))})


@cache
def _forward(config: ProjectedDiscriminator) -> BlockBody:
    count = len(read_stages(config.stages))

    @module_class("ProjectedDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *y: Var, channels: int, stem: int, **sizes: Any) -> Var:
        """Scores [B, P] of images x in [-1, 1] at several scales of mixed features."""
        if config.image is not None and int(x.shape[2]) != config.image:
            x = b.resize(x, size=(config.image, config.image), mode="bilinear", out="x")
        body = features(config.stages, config.stem_stride, True)
        names = " ".join(f"map_{i}" for i in range(count))
        maps = b.sub("features", body, x, out=names, channels=channels, stem=stem)
        maps = maps if isinstance(maps, tuple) else (maps,)
        names = " ".join(f"mixed_{i}" for i in range(count))
        maps = b.sub("mixing", _mixing(count), *maps, out=names, width=config.mixed)
        scores = []
        for i, h in enumerate(maps if isinstance(maps, tuple) else (maps,)):
            found = b.sub(f"heads.{i}", head(config.width, config.last, int(h.shape[2]), bool(y)), h, *y, **sizes)
            scores.append(found)
        return scores[0] if len(scores) == 1 else b.concat(*scores, axis=1, out="score")

    return forward


@cache
def _mixing(count: int) -> BlockBody:
    @module_class("RandomMixing")
    def forward(b: Builder, *maps: Var, width: int) -> Any:
        """Features mixed across channels, then from coarse to fine across scales, at twice their resolution.

        Those of a coarser scale are added to the next, then upsampled, and half of the channels are left, but at the
        finest scale.
        """
        found, before = list[Var](), None
        for i in reversed(range(count)):
            own = layers.conv(b, f"channels_{i}", maps[i], 2**i * width, 1, INIT, out="mixed")
            h = own if before is None else b.add(before, own, out="mixed")
            size = 2 * int(h.shape[2])
            h = b.resize(h, size=(size, size), mode="aligned", out="larger")
            before = layers.conv(b, f"scales_{i}", h, 2 ** max(i - 1, 0) * width, 1, INIT, out="fused")
            found.append(before)
        return tuple(reversed(found)) if count > 1 else found[0]

    return forward


@cache
def head(width: int, last: int, side: int, labelled: bool) -> BlockBody:
    """A discriminator of a feature map f32[B, C, S, S] of this side: scores f32[B, places]."""
    side = min((2**k for k in range(2, 11)), key=lambda each: abs(each - side))

    @module_class("ClassHead" if labelled else "Head", x="B C H W")
    def forward(b: Builder, x: Var, *y: Var, **sizes: Any) -> Var:
        """Scores of places of features x, for a class by its features."""
        h, now, depth = x, side, 0
        while now > last:
            now //= 2
            features_of = max(int(WIDTHS.get(now, 0.125) * width), 1)
            h = b.sub(f"blocks.{depth}", _halved, h, out="h", channels=h.shape[1], features=features_of)
            depth += 1
        weighed = CLASS_WIDTH if labelled else 1
        weight = b.param("score.weight", f32(weighed, h.shape[1], 4, 4), INIT, fan_in=h.shape[1] * 16)
        u = b.param("score.u", f32(weighed), "normal", "state")
        h = b.conv(h, b.spectral_norm(weight, u, eps=layers.EPS, out="w"), out="h")
        if labelled:
            known = b.sub("class_weights", _class_weights, y[0], out="weights", **sizes)
            known = b.reshape(known, shape=(x.shape[0], CLASS_WIDTH, 1, 1))
            h = b.mul(b.sum(h * known, axes=(1,), keepdims=True), 1 / math.sqrt(CLASS_WIDTH), out="h")
        places = int(h.shape[2]) * int(h.shape[3])
        return b.reshape(h, shape=(x.shape[0], places), out="score")

    return forward


@module_class("HalvedBlock", x="B channels H W")
def _halved(b: Builder, x: Var, *, channels: int, features: int) -> Var:
    """A convolution of stride 2, a norm by the batch and an activation."""
    weight = b.param("conv.weight", f32(features, channels, 4, 4), INIT, fan_in=channels * 16)
    u = b.param("conv.u", f32(features), "normal", "state")
    bias = b.param("conv.bias", f32(features), INIT, fan_in=channels * 16)
    h = b.conv(x, b.spectral_norm(weight, u, eps=layers.EPS, out="w"), bias, stride=2, padding=1, out="h")
    return b.leaky_relu(layers.batch_norm(b, "norm", h, affine=True, eps=EPS, out="h"), slope=SLOPE, out="h")


@module_class("ClassWeights", y="B")
def _class_weights(b: Builder, y: Var, *, classes: int, class_features: int) -> Var:
    """Weights of score maps by the features of classes."""
    table = b.param("weight", f32(classes, class_features), "normal")
    rows = b.embedding(table, y, out="rows")
    h = b.sub("projection", fully_connected, rows, out="h", in_features=class_features, out_features=CLASS_WIDTH)
    return activated(b, h, "weights")
