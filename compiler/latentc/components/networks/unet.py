"""U-Nets that denoise: DDPM, DDPM++, NCSN++ and ADM by their options.

Symbols: B batch, C channels, E size of the embedding of time and conditions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.unet.layers import SHAPES, conv, resampled, strided_conv
from latentc.components.condition import Entry, TimeFeatures
from latentc.components.contract import Capability, Network
from latentc.components.networks._unet import Parts, Unet, scaled
from latentc.components.parts import Problem
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, items, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class UnetDenoiser(Unet):
    """A U-Net with a skip from every block on the way down to one on the way up (Ho et al. 2020).

    Its options are those by which Karras et al. 2022 (arXiv:2206.00364) compare DDPM++ and NCSN++ (Song et al. 2021)
    and ADM (Dhariwal and Nichol 2021). Takes x f32[B, C, ...] with one to three spatial axes, t f32[B] and its
    conditions; returns f32[B, C_out, ...].
    """

    kind: Literal["unet"]
    decoder_attention: Literal["all", "last"] = Field(
        "all", description="which blocks of a level attend on the way up, if the level has attention"
    )
    encoder: Literal["standard", "skip", "residual"] = Field(
        "standard", description="how the input enters further levels: not, added to x, or added by a residual branch"
    )
    decoder: Literal["standard", "skip"] = Field(
        "standard", description="how levels contribute to the output: the last alone, or the sum of all"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "unet",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [1],
        "block": {"groups": 4, "head_channels": 8},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        found = list(super().problems(spec))
        yield from found
        if not found:
            yield from self._problems_of_skips()

    def _problems_of_skips(self) -> Iterator[Problem]:
        """Blocks on the way up normalise their own channels together with those of a skip."""
        features = [int(self.features(self.width, level)) for level in range(len(self.multipliers))]
        skips = [int(scaled(self.width, self.stem))]
        for level, channels in enumerate(features):
            skips += [*features[level - 1 : level], *[channels] * self.blocks]
        below = features[-1]
        for level in range(len(features) - 1, -1, -1):
            for _ in range(self.blocks + 1):
                channels = below + skips.pop()
                groups = self.groups_that_do_not_fit(channels)
                if groups is not None:
                    message = f"{groups} groups do not divide the {channels} channels of level {level} and a skip"
                    yield Problem(("multipliers", level), message, "choose another `width`, or `block.groups`")
                    return
                below = features[level]

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeFeatures)
        static = {**self.static(spec), "out_channels": out_channels}
        ports = self.ports(spec)
        body = _network(self, spec.time, self.entries(spec), ports[0].type.rank - 2)
        return Network(
            name,
            {"forward": add_method(mb, name, "forward", body, ports, static)},
            self.PROVIDES,
            sizes=self.sizes(spec),
        )


@cache
def _network(config: UnetDenoiser, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
    @module_class("UNet", x=SHAPES[axes])
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        blocks: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t under the conditions."""
        parts = _Denoiser(b, config, time, entries, x, t, conditions, width, blocks, static)
        x, skips = parts.down()
        return parts.up(parts.middle(x), skips, out_channels)

    return forward


class _Denoiser(Parts):
    """The parts of a U-Net with the way up."""

    config: UnetDenoiser

    def _halved(self, level: int, x: Var, aux: Var) -> tuple[Var, Var]:
        b, block = self.b, self.config.block
        x, _ = super()._halved(level, x, aux)
        if self.config.encoder == "skip":
            aux = resampled(b, aux, "down", block.resample, out="aux")
            x = b.add(x, conv(b, f"aux_{level}", aux, x.shape[1], 1, block.weights), out="x")
        elif self.config.encoder == "residual":
            aux = strided_conv(b, f"aux_{level}", aux, x.shape[1], block.resample, block.weights)
            x = aux = b.mul(x + aux, math.sqrt(0.5), out="x")
        return x, aux

    def up(self, x: Var, skips: list[Var], out_channels: Any) -> Var:
        """The way up, which takes the skips from the end, and the output."""
        b, config, last = self.b, self.config, len(self.config.multipliers) - 1
        out: Var | None = None
        for level in range(last, -1, -1):
            if level < last:
                x = self._doubled(level, x)
            features = config.features(self.width, level)
            for i, name in enumerate(items(f"dec_{level}", self.blocks + 1)):
                attends = config.attends(level) and (config.decoder_attention == "all" or i == config.blocks)
                x = self.block(name, b.concat(x, skips.pop(), axis=1, out="x"), features, attends)
            if config.decoder == "skip" or level == 0:
                h = b.silu(config.block.norm(b, f"out_norm_{level}" if level else "out_norm", x), out="h")
                suffix = f"_{level}" if level else ""
                own = conv(b, f"out_conv{suffix}", h, out_channels, 3, config.block.weights, "last", out="out")
                out = own if out is None else b.add(resampled(b, out, "up", config.block.resample), own, out="out")
        assert out is not None
        return out

    def _doubled(self, level: int, x: Var) -> Var:
        b, config = self.b, self.config
        if config.resampling == "block":
            return self.block(f"up_{level}", x, x.shape[1], way="up")
        x = b.upsample_nearest(x, factor=2, out="x")
        return conv(b, f"up_{level}", x, x.shape[1], 3, config.block.weights, out="x")


__all__ = ["UnetDenoiser"]
