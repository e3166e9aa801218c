"""A residual network that classifies, as torchvision has it.

It stands beside `unet_encoder` as pretrained classifiers differ from it: no time input, with running statistics.
Symbols: B batch, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import MEAN, batch_norm, standardised
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, TensorType

MOMENTUM, EPS = 0.1, 1e-5


class ResnetClassifier(Backbone):
    """torchvision's ResNet (He et al. 2015, arXiv:1512.03385): logits f32[B, K] of x f32[B, C, H, W]."""

    kind: Literal["resnet_classifier"]
    layers: tuple[Size, Size, Size, Size] = Field((2, 2, 2, 2), description="blocks per level")
    width: int = Field(64, gt=0, le=4_096, description="channels of the first level; doubled at each further level")
    bottleneck: bool = Field(False, description="bottleneck blocks of three convolutions, as in ResNet-50")
    normalise: bool = Field(
        False,
        description="first convert x from [-1, 1] to ImageNet's mean and standard deviation, as pretrained "
        "weights expect",
    )
    image: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size to which images are first resized, in pixels, bilinear and antialiased (MaskBit: 224); "
        "null: not resized",
    )
    conditions: tuple[str, ...] | None = Field((), description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify", "see"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "resnet_classifier", "layers": [1, 1, 1, 1], "width": 4}

    def param(self, b: Builder, name: str, type: TensorType, init: str, **args: Any) -> Var:
        """A weight of a convolution or of the last layer."""
        return b.param(name, type, init, **args)

    def kernel(self, b: Builder, name: str, weight: Var, sizes: Mapping[str, Any]) -> Var:
        """The kernel f32[F, C, k, k] that convolution `name` applies, from its weight.

        It is called for the stem and the first two convolutions of every block.
        """
        return weight

    def sizes_of_blocks(self) -> dict[str, Any]:
        """Further sizes that blocks are constructed with."""
        return {}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
        elif self.normalise and spec.data.shape[0] != len(MEAN):
            message = f"ImageNet's mean has 3 channels, but the data has {spec.data.shape[0]}"
            yield Problem(("normalise",), message, "leave `normalise` out")
        yield from problems_of_labels(self.kind, spec)

    def features_seen(self, spec: Spec) -> int:
        return self.width * 8 * (4 if self.bottleneck else 1)

    def map_seen(self, spec: Spec) -> tuple[int, ...]:
        sides = spec.data.shape[1:] if spec.data.shape is not None and self.image is None else (self.image or 1,) * 2
        return self.features_seen(spec), *(-(-side // 32) for side in sides)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {"width": self.width, **{f"layers_{i}": n for i, n in enumerate(self.layers, 1)}}
        static |= {"classes": classes_of(spec), **self.sizes_of_blocks()}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self), ports, static, ("logits",))
        see = add_method(mb, name, "see", _network(self, sees=True), ports, static)
        return Network(name, {"forward": forward, "see": see}, self.PROVIDES, sizes={"layers": self.layers})


def classes_of(spec: Spec) -> int:
    """K, of the field `y`; 0 without one."""
    field = spec.data.fields.get("y")
    return (field.classes or 0) if field is not None else 0


def problems_of_labels(kind: str, spec: Spec) -> Iterator[Problem]:
    """A classifier of that kind for data without labels."""
    if not classes_of(spec):
        yield Problem((), f"a {kind} predicts labels, but the data has none", "add `data.classes`")


@cache
def _network(config: ResnetClassifier, sees: bool = False) -> BlockBody:
    @module_class("ResNet", "see" if sees else "forward", x="B C H W")
    def forward(b: Builder, x: Var, *, width: int, classes: int, **static: Any) -> Var:
        """Logits of the classes of x, or the features of its last level."""
        if config.image is not None:
            x = b.resize(x, size=config.image, mode="antialiased", out="x")
        if config.normalise:
            x = standardised(b, x)
        own = {name: static[name] for name in config.sizes_of_blocks()}
        x = _conv(b, config, "conv1", x, width, 7, 2, own)
        x = b.relu(batch_norm(b, "bn1", x, True, EPS, MOMENTUM), out="x")
        x = b.sub("pool", max_pool, x, out="x")
        for level in range(1, 5):
            features = width * 2 ** (level - 1)
            count = static[f"layers_{level}"]
            for i, name in enumerate(items(f"layer{level}", count)):
                stride = 2 if level > 1 and i == 0 else 1
                out = features * (4 if config.bottleneck else 1)
                shortcut = stride != 1 or int(x.shape[1]) != int(out)
                sizes = {"channels": x.shape[1], "features": features, **own}
                x = b.sub(name, _block(config, stride, shortcut), x, out="x", **sizes)
        if sees:
            return x
        x = b.mean(x, axes=(2, 3), keepdims=False, out="x")
        weight = config.param(b, "fc.weight", f32(classes, x.shape[1]), "linear_default", fan_in=x.shape[1])
        bias = config.param(b, "fc.bias", f32(classes), "linear_default", fan_in=x.shape[1])
        return b.linear(x, weight, bias, out="logits")

    return forward


@cache
def _block(config: ResnetClassifier, stride: int, shortcut: bool) -> BlockBody:
    name = "Bottleneck" if config.bottleneck else "BasicBlock"
    name = f"Down{name}" if stride > 1 else f"Wide{name}" if shortcut else name

    @module_class(name, x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, **own: Any) -> Var:
        """Convolutions with batch norms and a shortcut."""

        def normed(name: str, h: Var) -> Var:
            return batch_norm(b, name, h, True, EPS, MOMENTUM, out="h")

        if config.bottleneck:
            h = b.relu(normed("bn1", _conv(b, config, "conv1", x, features, 1, 1, own)))
            h = b.relu(normed("bn2", _conv(b, config, "conv2", h, features, 3, stride, own)))
            h = normed("bn3", _conv(b, config, "conv3", h, 4 * features, 1, 1))
        else:
            h = b.relu(normed("bn1", _conv(b, config, "conv1", x, features, 3, stride, own)))
            h = normed("bn2", _conv(b, config, "conv2", h, features, 3, 1, own))
        if shortcut:
            x = _conv(b, config, "downsample_conv", x, h.shape[1], 1, stride)
            x = batch_norm(b, "downsample_norm", x, True, EPS, MOMENTUM, out="x")
        return b.relu(b.add(h, x, out="x"), out="x")

    return forward


def _conv(
    b: Builder,
    config: ResnetClassifier,
    name: str,
    x: Var,
    features: Any,
    kernel: int,
    stride: int,
    sizes: Mapping[str, Any] | None = None,
) -> Var:
    """A convolution without a bias. With `sizes`, its weight passes through `config.kernel`."""
    channels = x.shape[1]
    shape = f32(features, channels, kernel, kernel)
    weight = config.param(b, f"{name}.weight", shape, "kaiming_normal", mode="fan_out")
    weight = weight if sizes is None else config.kernel(b, name, weight, sizes)
    return b.conv(x, weight, stride=stride, padding=kernel // 2, out="h")


@module_class("MaxPool")
def max_pool(b: Builder, x: Var) -> Var:
    """The maximum of windows of 3 by 3 with stride 2 and a border of one, of x [B, C, H, W] that is not negative."""
    for axis in (2, 3):
        size = int(x.shape[axis])
        count = (size + 1) // 2
        padded = b.pad(x, axis=axis, before=1, after=2 * count + 1 - size, value=0.0, out="padded")
        shape = [*padded.shape[:axis], count + 1, 2, *padded.shape[axis + 1 :]]
        pairs = b.reshape(padded, shape=tuple(shape), out="pairs")
        # A window consists of one pair of neighbours and the first pixel of the next pair.
        two = b.slice(pairs, axis=axis, start=0, stop=count, out="two")
        two = b.max(two, axes=(axis + 1,), keepdims=False, out="two")
        third = b.slice(pairs, axis=axis, start=1, stop=count + 1, out="third")
        third = b.slice(third, axis=axis + 1, start=0, stop=1, out="third")
        x = b.maximum(two, b.reshape(third, shape=two.shape, out="third"), out="x")
    return x
