"""U-Nets that denoise: DDPM, DDPM++, NCSN++ and ADM by their options.

Symbols: B batch, C channels, E size of the embedding of time and conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method, asks
from latentc.components.blocks.unet.layers import (
    Place,
    conv,
    doubling_conv,
    halving_conv,
    resampled,
    strided_conv,
    taps_of,
)
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeFeatures, ports_of
from latentc.components.contract import Network, Sizes
from latentc.components.networks._levels import LevelsDenoiser, denoising, scaled
from latentc.components.networks._unet import Parts, Unet, embedding_of
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.sde import Ve
from latentc.components.samplers.base import ArraySampler
from latentc.ir.builder import BlockBody, ModuleBuilder, Var


class UnetDenoiser(Unet, LevelsDenoiser):
    """A U-Net with a skip connection from every downward block to an upward one (Ho et al. 2020).

    Its options are those in which Karras et al. 2022 (arXiv:2206.00364) compare DDPM++ and NCSN++ (Song et al. 2021)
    and ADM (Dhariwal and Nichol 2021). Takes x f32[B, C, ...] with one to three spatial axes, t f32[B] and its
    conditions; returns f32[B, C_out, ...].
    """

    kind: Literal["unet"]
    decoder_attention: Literal["all", "last"] = Field(
        "all", description="which blocks of a level have attention on the upward path, if the level has attention"
    )
    decoder_heads: int | None = Field(
        None, gt=0, le=1_024, description="attention heads on the upward path; null: as set in `block`"
    )
    encoder: Literal["standard", "skip", "skip_concat", "residual", "padded_residual"] = Field(
        "standard",
        description="how the input enters further levels: not at all, added to x, concatenated to x, or through a "
        "residual branch, whose convolutions have the filter of `block.resample` or pad only at the end",
    )
    decoder: Literal["standard", "skip", "residual"] = Field(
        "standard",
        description="which levels contribute to the output: only the last, the sum of all, or all through a residual "
        "branch",
    )
    recentre: bool = Field(False, description="the network's input is 2 x - 1, for data in [0, 1] (Song et al. 2021)")
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
        for level in () if found else self.attention:
            channels = int(self.features(self.width, level))
            if self.decoder_heads is not None and channels % self.decoder_heads:
                message = f"{self.decoder_heads} heads do not divide the {channels} channels of level {level}"
                yield Problem(("decoder_heads",), message)
        if self.decoder == "residual" and len(self.multipliers) == 1:
            yield Problem(
                ("decoder",), "the residual branch of the output joins levels, but there is only one", "use `standard`"
            )
        elif not found:
            yield from self._problems_of_skips()

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        network = super().build(mb, name, spec, out_channels)
        vectors = tuple(entry for entry in self.entries(spec) if entry.form == "vector")
        if not vectors or not asks(spec, name, "embed_conditions"):
            return network
        assert isinstance(spec.time, TimeFeatures)
        static = {k: v for k, v in self.static(spec).items() if k not in ("channels", "blocks")}
        embed = add_method(mb, name, "embed", embedding_of(self, vectors), ports_of(vectors), static)
        return replace(network, methods={**network.methods, "embed": embed})

    def provides(self, spec: Spec) -> frozenset[Capability]:
        embeds = any(entry.form == "vector" for entry in self.entries(spec))
        return super().provides(spec) | (frozenset({"embed_conditions"}) if embeds else frozenset())

    def attends_up(self, level: int, block: int) -> bool:
        return self.attends(level) and (self.decoder_attention == "all" or block == self.blocks)

    @property
    def pads_at_end(self) -> bool:
        return super().pads_at_end or "padded" in self.encoder

    def _problems_of_skips(self) -> Iterator[Problem]:
        """Blocks on the way up that do not convolve first normalise their channels together with those of a skip."""
        if self.block.order == "conv_first":
            return
        features = [int(self.features(self.width, level)) for level in range(len(self.multipliers))]
        skips = [int(scaled(self.width, self.stem))]
        beside = 2 if self.encoder == "skip_concat" else 1
        for level, channels in enumerate(features):
            skips += [*(beside * n for n in features[level - 1 : level]), *[channels] * self.blocks]
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

    def sizes(self, spec: Spec) -> Sizes:
        """Also where modules stand in a flat list of all, as Song et al. have them.

        `stem_at` is the first convolution; `down_at`, `up_at` and `out_at` are the first block of each level on the way
        down, on the way up, and what follows the latter; `mid_at` is the first middle block, `read_at` the norm before
        the output of each level. `joint_at` and `conv_at` are what halves the resolution after a level, and
        `joint_up_at` and `conv_up_at` what doubles it: a block or a convolution, 0 for the one that there is not.
        `by_blocks`, `filtered` and `time_embedding` are 1 if it is blocks, if a filtered residual branch joins the
        input, and if blocks take the time, else 0. `taps` are the weights of the resampling filter along an axis,
        `noise_levels` those that buffers of the authors' code list, falling, and `discrete` is 1 if the process has a
        discrete schedule of them.
        """
        assert isinstance(spec.time, TimeFeatures)
        last, own = len(self.multipliers) - 1, super().sizes(spec)
        attends = [int(self.attends(level)) for level in range(last + 1)]
        stem = spec.time.DRAWN + 2 * self.time_embedding
        at = stem + 1
        joint = 1 if self.encoder == "standard" else 2
        down, up, out, read = ([0] * (last + 1) for _ in range(4))
        for level in range(last + 1):
            down[level] = at
            at += self.blocks * (1 + attends[level]) + (joint if level < last else 0)
        middle, at = at, at + 3
        for level in range(last, -1, -1):
            up[level], at = at, at + self.blocks + 1 + attends[level]
            out[level], read[level] = at, at
            at += {"standard": 0, "skip": 2, "residual": 1 + (level == last)}[self.decoder]
            at += level > 0
        if self.decoder != "skip":
            read = [at, *[0] * (last - 1), *[read[last] * (self.decoder == "residual")] * (last > 0)]
        halves = [0 if level == last else down[level] + self.blocks * (1 + attends[level]) for level in range(last + 1)]
        doubles = [0 if level == last else up[level] - 1 for level in range(last + 1)]
        none, by_blocks = (0,) * (last + 1), self.resampling == "block"
        joints = {"joint_at": tuple(halves), "joint_up_at": tuple(doubles)}
        convs = {"conv_at": tuple(halves), "conv_up_at": tuple(doubles)}
        places: dict[str, float | tuple[float, ...]] = {"stem_at": stem, "mid_at": middle}
        places |= {"down_at": tuple(down), "up_at": tuple(up), "out_at": tuple(out), "read_at": tuple(read)}
        places |= {name: value if by_blocks else none for name, value in joints.items()}
        places |= {name: none if by_blocks else value for name, value in convs.items()}
        places |= {"by_blocks": int(by_blocks), "filtered": int(self.encoder == "residual")}
        places |= {"time_embedding": int(self.time_embedding)}
        taps = (1.0, 1.0) if self.block.resample in ("box", "planes") else taps_of(self.block.resample)
        return {**own, **places, "taps": tuple(tap / sum(taps) for tap in taps), **_noise_levels(spec)}

    def body(self, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
        return denoising("UNet", _Denoiser, self, time, entries, axes)


def _noise_levels(spec: Spec) -> Sizes:
    """Levels of the process, falling; without any, those that Song et al.'s configurations list for all processes."""
    target = spec.objective.parameterization() if isinstance(spec.objective, Objective) else None
    process = None if target is None else target.process
    if process is not None and process.WHOLE:
        every = np.arange(min(process.first, process.last), max(process.first, process.last) + 1)
        levels = tuple(sorted(map(float, process.point(every).level), reverse=True))
        return {"noise_levels": levels, "discrete": int(isinstance(process, Discrete))}
    ends, steps = (50.0, 0.01), 1000
    if isinstance(process, Ve):  # their sampler has a step for each level
        ends = process.sigma_max, process.sigma_min
        steps = spec.sampler.steps if isinstance(spec.sampler, ArraySampler) else steps
    return {"noise_levels": tuple(map(float, np.geomspace(*ends, steps))), "discrete": 0}


class _Denoiser(Parts):
    """The parts of a U-Net with the way up. `aux` is the input as it enters further levels, `out` the output so far."""

    config: UnetDenoiser
    aux: Var
    out: Var

    def enter(self) -> Var:
        if self.config.recentre:
            self.x = self.b.add(self.x * 2.0, -1.0, out="x")
        self.aux = self.x
        return super().enter()

    def halved(self, level: int, x: Var) -> Var:
        b, encoder, block = self.b, self.config.encoder, self.config.block
        x, name = super().halved(level, x), f"aux.{level - 1}"
        if encoder == "standard":
            return x
        if encoder == "residual":
            self.aux = strided_conv(b, name, self.aux, x.shape[1], block.resample, block.weights)
        elif encoder == "padded_residual":
            self.aux = halving_conv(b, name, self.aux, x.shape[1], block.weights)
        else:
            self.aux = resampled(b, self.aux, "down", block.resample, out="aux")
            h = conv(b, name, self.aux, x.shape[1], 1, block.weights)
            return b.add(x, h, out="x") if encoder == "skip" else b.concat(h, x, axis=1, out="x")
        x = self.aux = block.joined(b, x, self.aux)
        return x

    def up(self, x: Var, skips: list[Var]) -> Var:
        if self.config.decoder_heads is not None:
            self.residual = self.config.block.model_copy(update={"heads": self.config.decoder_heads})
        return super().up(x, skips)

    def doubled(self, level: int, x: Var) -> Var:
        resampling, block = self.config.resampling, self.config.block
        if resampling == "block":
            return super().doubled(level, x)
        if resampling == "filter":
            return resampled(self.b, x, "up", block.resample, out="x")
        return doubling_conv(self.b, f"up.{level}", x, x.shape[1], block.weights, block.resample, out="x")

    def left(self, level: int, x: Var) -> Var:
        config, last = self.config, level == len(self.config.multipliers) - 1
        if config.decoder == "residual":
            if last:
                self.out = self._read(x, level, x.shape[1], "inner")
            else:
                block = config.block
                out = doubling_conv(self.b, f"out_up.{level}", self.out, x.shape[1], block.weights, block.resample)
                x = self.out = config.block.joined(self.b, out, x)
            if level == 0:
                self.out = self._read(x, 0, self.out_channels)
        elif config.decoder == "skip" or level == 0:
            own = self._read(x, level, self.out_channels)
            if config.decoder == "skip" and not last:
                own = self.b.add(resampled(self.b, self.out, "up", config.block.resample), own, out="out")
            self.out = own
        return x

    def read(self, x: Var) -> Var:
        return self.out

    def _read(self, x: Var, level: int, channels: Any, place: Place = "last") -> Var:
        """A norm, activation and convolution; level 0 has the plain names."""
        b, block, suffix = self.b, self.config.block, f"_{level}" if level else ""
        h = block.activated(b, block.norm(b, f"out_norm{suffix}", x))
        return conv(b, f"out_conv{suffix}", h, channels, 3, block.weights, place, out="out")
