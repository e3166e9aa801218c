"""EfficientNet-lite as a classifier, whose features projected discriminators read.

Symbols: B batch, C channels, K classes, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.stylegan_xl.efficient_features import CAP, EPS, LITE0, Stage, features, read_stages


class EfficientClassifier(Backbone):
    """EfficientNet-lite (Tan and Le 2019, arXiv:1905.11946): logits f32[B, K] of x f32[B, C, S, S] in [-1, 1].

    The defaults are EfficientNet-lite0, as timm has it from TensorFlow. `features` are trained too.
    """

    kind: Literal["efficient_classifier"]
    stem: int = Field(32, gt=0, le=65_536, description="channels of the first convolution")
    stem_stride: Literal[1, 2] = Field(2, description="stride of the first convolution")
    stages: tuple[Stage, ...] = Field(LITE0, min_length=1, max_length=16, description="stages of blocks")
    head: int = Field(1280, gt=0, le=65_536, description="channels before the mean over places")
    image: int | None = Field(
        None, gt=0, le=65_536, description="side to which images are first resized, bilinear; null: not resized"
    )
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "efficient_classifier",
        "stem": 4,
        "stem_stride": 1,
        "stages": [{"width": 3, "expansion": 1}, {"width": 4, "stride": 2, "expansion": 2}],
        "head": 6,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
        yield from problems_of_labels(self.kind, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {"channels": spec.data.shape[0], "stem": self.stem, "head": self.head, "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _forward(self), ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward(config: EfficientClassifier) -> BlockBody:
    @module_class("EfficientClassifier", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, stem: int, head: int, classes: int) -> Var:
        """Logits of the classes of images x."""
        if config.image is not None and int(x.shape[2]) != config.image:
            x = b.resize(x, size=(config.image, config.image), mode="bilinear", out="x")
        body = features(config.stages, config.stem_stride, False)
        names = " ".join(f"map_{i}" for i in range(len(read_stages(config.stages))))
        x = b.sub("features", body, x, out=names, channels=channels, stem=stem)
        h = x[-1] if isinstance(x, tuple) else x
        h = layers.conv(b, "conv_head", h, head, 1, "lecun", bias=False, out="h")
        h = b.clamp(layers.batch_norm(b, "bn2", h, affine=True, eps=EPS, out="h"), low=0.0, high=CAP, out="h")
        h = b.mean(h, axes=(2, 3), keepdims=False, out="h")
        return layers.linear(b, "logits", h, classes, "linear_default", out="logits")

    return forward
