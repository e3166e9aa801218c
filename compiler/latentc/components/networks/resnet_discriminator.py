"""Convolutional discriminators of residual blocks, as SNGAN, WGAN-GP, BigGAN and ADC-GAN have them.

Symbols: B batch, C channels of the image, K classes, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.gan_blocks import discriminator_block
from latentc.components.blocks.self_attention_2d import self_attention_2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Condition, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import (
    SLICED,
    ConditionKind,
    augmentation_heads,
    predicted_augmentations,
    problems_of_class,
    sliced,
    with_averages,
)
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

Head = Literal["discriminative", "classes", "twin_classes", "classes_and_fake"]


class ResnetDiscriminator(Backbone):
    """Scores how realistic an image is, and optionally classifies it (BigGAN, Brock et al. 2019, arXiv:1809.11096).

    Takes x f32[B, C, S, S] and, with `projection`, y i64[B], a vector f32[B, D], or both, half of the features each
    (IC-GAN, Casanova et al. 2021, arXiv:2109.05070). Returns `score` f32[B, 1], linear in the pooled last feature map,
    and `sliced` f32[B, 1] if asked to (SAN), then the logits of each head, linear in the same features:
    `discriminative` f32[B, 2 K] (ADC-GAN, Hou et al. 2022, arXiv:2107.10060), `classes` and `twin_classes` f32[B, K],
    `classes_and_fake` f32[B, K + 1]; then the pooled `features` f32[B, D], if the objective reads them.
    """

    kind: Literal["resnet_discriminator"]
    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `channel_multipliers` (BigGAN: 96)")
    channel_multipliers: tuple[Size, ...] = Field(
        max_length=16, min_length=1, description="output channels of each level, as a multiple of `width`"
    )
    downsample_levels: int = Field(ge=0, le=64, description="number of leading levels that downsample by 2")
    attention: tuple[Size, ...] = Field(
        (), max_length=64, description="sides of feature maps followed by self-attention"
    )
    pooling: Literal["sum", "mean"] = Field("sum", description="pooling of the last feature map")
    projection: bool = Field(
        True, description="add the projection of the pooled features onto the embedded class (Miyato and Koyama 2018)"
    )
    heads: tuple[Head, ...] = Field(
        (), description="additional outputs: logits of auxiliary classifiers, in this order"
    )
    sliced: bool = Field(False, description=SLICED)
    spectral_norm: bool = Field(True, description="spectral norm: divide all weights by their largest singular value")
    weights: Literal["orthogonal", "normal", "xavier"] = Field(
        "orthogonal", description="initialisation; normal: std 0.02; xavier: as in WGAN-GP"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "resnet_discriminator",
        "width": 16,
        "channel_multipliers": [1, 2],
        "downsample_levels": 1,
        "attention": [4],
    }

    def takes(self, spec: Spec) -> dict[str, Condition]:
        return super().takes(spec) if self.projection else {}

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        features = ("features",) if predicted_augmentations(spec) else ()
        return ("score", *(("sliced",) if self.sliced else ()), *self.heads, *features)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
            return
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec, vectors=1)
        yield from self._problems_of_classes(spec)
        levels = len(self.channel_multipliers)
        _, side, columns = spec.data.shape
        if side != columns:
            yield Problem((), f"a {self.kind} takes square inputs, not {side} by {columns}")
        elif self.downsample_levels > levels:
            message = f"`downsample_levels: {self.downsample_levels}` exceeds the {levels} levels"
            yield Problem(("downsample_levels",), message)
        elif side % 2**self.downsample_levels:
            most = max(n for n in range(self.downsample_levels) if side % 2**n == 0)
            message = f"a side of {side} cannot be halved {self.downsample_levels} times"
            yield Problem(("downsample_levels",), message, f"{most} times is most")
        else:
            yield from self._problems_of_attention(self.sides(side))

    def _problems_of_classes(self, spec: Spec) -> Iterator[Problem]:
        if len(set(self.heads)) < len(self.heads):
            yield Problem(("heads",), "a head is listed twice")
        if self.heads and not classes_of(spec):
            yield Problem(("heads",), "heads classify, but the data has no classes", "add `data.classes`")
        if self.projection and not self.takes(spec):
            message = "a projection needs a class or a vector, but the network takes none"
            yield Problem((), message, "add `conditioning.class: {kind: label, dropout: 0}` or set `projection: false`")
        if len(self.takes(spec)) > 1 and self.width * self.channel_multipliers[-1] % 2:
            message = "half of the features are projected onto the class and half onto the vector, but they are odd"
            yield Problem(("width",), message, "use an even number")

    def _problems_of_attention(self, sides: list[int]) -> Iterator[Problem]:
        for i, wanted in enumerate(self.attention):
            widths = [m * self.width for m, s in zip(self.channel_multipliers, sides, strict=True) if s == wanted]
            if not widths:
                message = f"no level has feature maps of {wanted} by {wanted}"
                yield Problem(("attention", i), message, f"their sides are {', '.join(map(str, dict.fromkeys(sides)))}")
            elif wanted % 2:
                yield Problem(
                    ("attention", i), f"self-attention pools 2 by 2 pixels, which do not tile a side of {wanted}"
                )
            elif any(width % 8 for width in widths):
                yield Problem(
                    ("attention", i), "self-attention needs channels divisible by 8", "choose another `width`"
                )

    def sides(self, side: int) -> list[int]:
        """Sides of the feature maps of each level for images of this side."""
        return [side >> min(i + 1, self.downsample_levels) for i in range(len(self.channel_multipliers))]

    def per_level(self) -> int:
        """Blocks per level, of which the first one downsamples."""
        return 1

    def block(self, first: bool, downsamples: bool) -> BlockBody:
        """A residual block; `first`: the first of all."""
        return discriminator_block(first, downsamples, self.weights, self.spectral_norm)

    def enter(self, b: Builder, x: Var, width: Any) -> Var:
        """The input f32[B, C, S, S] of the first block."""
        return x

    def forwards(self) -> Mapping[str, Callable[[str], str]]:
        """The methods that score images, each with the path of a parameter by its name in `forward`."""
        return {"forward": str}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        static = {"channels": channels, "width": self.width, **self.condition_sizes(spec)}
        if self.heads:
            static["classes"] = classes_of(spec)
        entries = self.entries(spec)
        names = tuple("class" if entry.name == "class" else "vector" for entry in entries)
        ports = (Port("x", f32(B, channels, side, side), "state"), *ports_of(entries))
        roles: list[Role] = ["output" for _ in self.outputs(spec)]
        compared = predicted_augmentations(spec)
        made = {
            method: add_method(
                mb, name, method, _network(self, side, names, bool(compared), method, path), ports, static, roles
            )
            for method, path in self.forwards().items()
        }
        forward = made["forward"]
        methods = made | with_averages(mb, name, spec, "Discriminator", forward, static)
        if compared:
            how = {"multiplier": self.channel_multipliers[-1], "init": self.weights, "spectral": self.spectral_norm}
            heads = augmentation_heads(mb, name, "Discriminator", compared, forward.outputs[-1], static, **how)
            methods["augmentations"] = heads
        sizes = {"levels": len(self.channel_multipliers), "per_level": self.per_level()}
        sizes |= {"projects": int("class" in self.takes(spec))}  # in name maps: the class is embedded
        return Network(name, methods, self.PROVIDES, sizes)


@cache
def _network(
    config: ResnetDiscriminator,
    side: int,
    names: tuple[ConditionKind, ...],
    shows: bool,
    method: str,
    path: Callable[[str], str],
) -> BlockBody:
    init, spectral, per_level = config.weights, config.spectral_norm, config.per_level()
    attention, sides = self_attention_2d(init, spectral), config.sides(side)

    def embedded(b: Builder, given: tuple[Var, ...], features: int, classes: Any) -> Var | None:
        """The embedding [B, features] of what the image is judged by, or None."""
        cond, parts = dict(zip(names, given, strict=True)), []
        size = features // len(cond) if cond else 0
        if "class" in cond:
            parts.append(
                layers.embedding(
                    b, path("embed"), cond["class"], classes, size, init, spectral=spectral, out="embedded"
                )
            )
        if "vector" in cond:
            parts.append(
                layers.linear(b, path("embed_vector"), cond["vector"], size, init, spectral=spectral, out="embedded")
            )
        return b.concat(*parts, axis=1, out="embedded") if len(parts) > 1 else parts[0] if parts else None

    def judged(b: Builder, h: Var, given: tuple[Var, ...], classes: Any) -> tuple[Var, ...]:
        """The score [B, 1] of pooled features, and with `sliced` what trains its direction."""
        if config.sliced:
            weight, bias = layers.linear_params(b, path("linear"), h.shape[1], 1, init, spectral)
            c = embedded(b, given, h.shape[1], classes)
            return sliced(b, h, weight if c is None else c + weight, bias)
        score = layers.linear(
            b, path("linear"), h, 1, init, spectral=spectral, out="unconditional" if given else "score"
        )
        c = embedded(b, given, h.shape[1], classes)
        if c is not None:
            score = b.add(score, b.sum(c * h, axes=(1,), keepdims=True, out="projection"), out="score")
        return (score,)

    @module_class("Discriminator", method, x="B channels H W")
    def forward(b: Builder, x: Var, *given: Var, channels: int, width: int, classes: int = 0) -> Any:
        """Scores how much images x look like data."""
        x = config.enter(b, x, width)
        for level, multiplier in enumerate(config.channel_multipliers):
            features = multiplier * width
            for place in range(per_level):
                first, downsamples = level == place == 0, place == 0 and level < config.downsample_levels
                name = f"blocks.{level * per_level + place}"
                x = b.sub(path(name), config.block(first, downsamples), x, channels=x.shape[1], features=features)
            if sides[level] in config.attention:
                x = b.sub(path(name.replace("blocks", "attention")), attention, x, channels=features)
        pool = b.mean if config.pooling == "mean" else b.sum
        h = pool(b.relu(x), axes=(2, 3), keepdims=False, out="features" if shows else "h")
        scores = judged(b, h, given, classes)
        sizes = {"discriminative": 2 * classes, "classes_and_fake": classes + 1}
        heads = [
            layers.linear(b, path(n), h, sizes.get(n, classes), init, spectral=spectral, out=n) for n in config.heads
        ]
        found = (*scores, *heads, *([h] if shows else []))
        return found if len(found) > 1 else found[0]

    return forward
