"""PixelCNN++: a network that gives the distribution of each pixel, from those above and to the left.

Symbols: B batch, C channels, H and W sides, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, with_operands
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class
from latentc.systems.pixelcnn.pixel_streams import (
    embedded,
    log_prob_of,
    pixel_methods,
    pointwise,
    shifted_conv,
    weights,
)
from latentc.systems.pixelcnn.pixels import LogisticMixture
from latentc.systems.pixelcnn_pp.pixel_draw import Drawing, upsizing
from latentc.systems.pixelcnn_pp.pixel_levels import length, map_level, skips_of


class PixelCnnPp(Backbone):
    """Gated convolutions in two streams at three resolutions (Salimans et al. 2017, arXiv:1701.05517).

    `forward`: x f32[B, C, H, W] from -1 to 1, conditions -> parameters of each pixel's distribution given the previous
    ones, f32[B, F, H, W]; see `kit/pixels.py`. `log_prob`: x, conditions -> log-probability in nats f32[B]. `draw`:
    uniform variates f32[B, H, W, N], conditions -> x, pixel by pixel.
    """

    kind: Literal["pixelcnn_pp"]
    width: int = Field(gt=0, le=8_192, description="channels of the feature maps (D)")
    blocks: int = Field(gt=0, le=64, description="gated blocks per stream and level of the downward path")
    levels: int = Field(3, gt=0, le=6, description="number of resolutions, each half the previous")
    mixture: int = Field(10, gt=0, le=1_024, description="number of logistic components per pixel")
    values: int = Field(256, gt=1, le=65_536, description="number of levels of the data from -1 to 1")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout inside the blocks, in training")
    weight_norm: bool = Field(
        True, description="weight normalisation, with data-dependent initialisation of lengths and biases"
    )
    upsampling_norm: Literal["inputs", "outputs"] = Field(
        "inputs",
        description="axis of weight normalisation in transposed convolutions: `inputs` as in PyTorch, or `outputs`, "
        "as in other layers and with data-dependent initialisation",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "pixelcnn_pp",
        "width": 4,
        "blocks": 1,
        "levels": 2,
        "mixture": 2,
        "dropout": 0.0,
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"pixels"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels", "width", "mixture")

    @property
    def distribution(self) -> LogisticMixture:
        return LogisticMixture(self.mixture, self.values)

    @property
    def upsized(self) -> Literal["inputs", "outputs"] | None:
        """The parts whose transposed convolutions have a length each."""
        return self.upsampling_norm if self.weight_norm else None

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            channels, *sides = spec.data.shape
            period = 2 ** (self.levels - 1)
            if channels not in (1, 3):
                yield Problem((), f"a {self.kind} takes pixels of 1 or 3 channels, but these have {channels}")
            for side in sides:
                if side % period:
                    message = f"a side of {side} cannot be halved {self.levels - 1} times"
                    yield Problem(("levels",), message, f"use fewer levels than {self.levels}")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels = spec.data.shape[0]
        static: dict[str, Any] = {
            "channels": channels,
            "width": self.width,
            "mixture": self.mixture,
            **self.condition_sizes(spec),
        }
        entries = self.entries(spec)
        bodies = _forward(self, entries), _log_prob(self, entries), _draw(self, entries)
        sizes = {"blocks": self.blocks, "levels": self.levels}
        methods = pixel_methods(mb, name, spec, entries, static, self.distribution, bodies)
        return Network(name, methods, self.PROVIDES, sizes=sizes)


def _params(config: PixelCnnPp, b: Builder, x: Var, c: tuple[Var, ...], channels: Any, width: Any, mixture: Any) -> Var:
    """f32[B, F, H, W]: the parameters of the distribution of every pixel."""
    blocks, levels, style = config.blocks, config.levels, (bool(c), config.weight_norm, config.dropout)
    normed = config.weight_norm
    ones = b.fill_like(b.slice(x, axis=1, start=0, stop=1), 1.0)
    h = b.concat(x, ones, axis=1, out="h")  # ones mark the inside of the image, zeros the outside
    u = _shifted(b, shifted_conv(b, "u_init.conv", h, width, "u", normed), 2)
    weight, bias = weights(b, "ul_init.0.conv", width, h.shape[1], (1, 3), normed)
    above = _shifted(b, b.conv(h, weight, bias, padding=(0, 1)), 2)
    weight, bias = weights(b, "ul_init.1.conv", width, h.shape[1], (2, 1), normed)
    before = _shifted(b, b.conv(b.pad(h, axis=2, before=1, after=0, value=0.0), weight, bias), 3)
    ul = b.add(above, before, out="ul")
    entered, ups = [], []
    for level in range(levels):
        if level:
            u = shifted_conv(b, f"downsize_u_stream.{level - 1}.conv", u, width, "u", normed, stride=2)
            ul = shifted_conv(b, f"downsize_ul_stream.{level - 1}.conv", ul, width, "ul", normed, stride=2)
        entered.append((u, ul))
        names = " ".join(["u"] * blocks + ["ul"] * blocks)
        outs = b.sub(f"up_layers.{level}", map_level(blocks, True, *style), u, ul, *c, out=names, width=width)
        ups.append((list(outs[:blocks]), list(outs[blocks:])))
        u, ul = outs[blocks - 1], outs[-1]
    for level in reversed(range(levels)):
        top = level == levels - 1
        skips = [skips_of(e, outs, top) for e, outs in zip(entered[level], ups[level], strict=True)]
        body = map_level(length(blocks, top), False, *style)
        name = f"down_layers.{levels - 1 - level}"
        u, ul = b.sub(name, body, u, ul, *skips[0], *skips[1], *c, out="u ul", width=width)
        if level:
            index = levels - 1 - level
            weight, bias = upsizing(b, f"upsize_u_stream.{index}.deconv", width, "u", config.upsized)
            u = b.conv_transpose(u, weight, bias, stride=2, padding=(0, 1), output_padding=(0, 1), out="u")
            weight, bias = upsizing(b, f"upsize_ul_stream.{index}.deconv", width, "ul", config.upsized)
            ul = b.conv_transpose(ul, weight, bias, stride=2, out="ul")
    return pointwise(b, "nin_out.lin_a", b.elu(ul, out="ul"), LogisticMixture(mixture).features(channels), normed)


def _shifted(b: Builder, x: Var, axis: int) -> Var:
    """x moved by one along an axis, zeros in its first place."""
    x = b.slice(x, axis=axis, start=0, stop=x.shape[axis] - 1)
    return b.pad(x, axis=axis, before=1, after=0, value=0.0, out="h")


@cache
def _forward(config: PixelCnnPp, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnnPp", x="B channels H W")
    def forward(b: Builder, x: Var, *conditions: Var, channels: int, width: int, mixture: int, **static: Any) -> Var:
        """Parameters of the distribution of each pixel of x given those before it."""
        c = embedded(b, with_operands(entries, conditions), width, static)
        return _params(config, b, x, c, channels, width, mixture)

    return forward


@cache
def _log_prob(config: PixelCnnPp, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnnPp", "log_prob", x="B channels H W")
    def log_prob(b: Builder, x: Var, *conditions: Var, channels: int, width: int, mixture: int, **static: Any) -> Var:
        """The log-probability of x in nats."""
        c = embedded(b, with_operands(entries, conditions), width, static)
        params = _params(config, b, x, c, channels, width, mixture)
        return log_prob_of(b, config.distribution, params, x)

    return log_prob


@cache
def _draw(config: PixelCnnPp, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnnPp", "draw")
    def draw(b: Builder, u: Var, *conditions: Var, channels: int, width: int, mixture: int, **static: Any) -> Var:
        """Draws pixel after pixel."""
        c = embedded(b, with_operands(entries, conditions), width, static)
        height, wide = int(u.shape[1]), int(u.shape[2])
        sizes = (width, config.blocks, config.levels, int(channels), height, wide)
        return Drawing(*sizes, config.distribution, config.weight_norm, config.upsized, c).run(b, u)

    return draw
