"""EDM2's U-Net, whose layers preserve magnitudes; its blocks and embedding differ from those of `unet` throughout.

Symbols: B batch, C channels, E size of the embedding of time and conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.unet.layers import Way
from latentc.components.condition import Entry, TimeFeatures, with_operands
from latentc.components.layers import mp_linear
from latentc.components.networks._levels import LevelsDenoiser, Path, denoising, scaled, whole
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.edm2.magnitude import MagnitudeBlock, mp_conv


class MagnitudePreservingUnet(LevelsDenoiser):
    """The U-Net of EDM2 (Karras et al. 2024, arXiv:2312.02696), which preserves the magnitudes of activations and
    weights. Takes x f32[B, C, ...] with one to three spatial axes, t f32[B] and its conditions; returns f32[B,
    C_out, ...]. Vector conditions should have `weights: magnitude_preserving`.
    """

    kind: Literal["mp_unet"]
    embedding: float | None = Field(
        None, gt=0, le=1_024, description="size of the embedding as a multiple of `width`; null: the largest multiplier"
    )
    label_balance: Fraction = Field(0.5, description="weight of each condition in its sum with the embedding so far")
    concat_balance: Fraction = Field(
        0.5, description="weight of a skip relative to the feature map it is concatenated with"
    )
    block: MagnitudeBlock = Field(MagnitudeBlock(), description="the residual block")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mp_unet",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [1],
        "block": {"head_channels": 8},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.embedding is not None and not whole(self.width, self.embedding):
            yield Problem(("embedding",), f"{self.embedding} * {self.width} is not a positive integer")

    def heads_of_level(self, channels: int) -> int:
        return max(1, channels // self.block.head_channels)

    def body(self, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
        return denoising("MPUNet", _Parts, self, time, entries, axes)


class _Parts(Path):
    """The parts of the U-Net while its method is built: the embedding c, and blocks by name."""

    config: MagnitudePreservingUnet

    def start(self, time: TimeFeatures, x: Var, t: Var, static: Mapping[str, Any]) -> None:
        b, config, width = self.b, self.config, self.width
        maps = [entry.map(b, operands, static, x.shape[-1]) for entry, operands in self.conditions("map")]
        one = b.full(x, shape=(1, *x.shape[2:]), value=1.0, dtype="f32", out="one")
        self.x: Var = b.concat(x, *maps, one, axis=1, out="x")
        cond = self.conditions("vector")
        vectors = [operand for _, operands in cond for operand in operands]
        size = scaled(width, max(config.multipliers) if config.embedding is None else config.embedding)
        embedder = _embedder(config.label_balance, time, tuple(entry for entry, _ in cond))
        self.c: Var = b.sub("embedder", embedder, t, *vectors, embedding=size, out="c", **static)

    def enter(self) -> Var:
        return mp_conv(self.b, "in_conv", self.x, self.config.features(self.width, 0), 3, out="x")

    def block(self, name: str, x: Var, features: Any, attends: bool = False, way: Way = "same") -> Var:
        down = name.startswith(("enc.", "down."))
        return self.config.block.apply(self.b, name, x, self.c, features, attends, way, normalizes=down)

    def joined(self, x: Var, skip: Var) -> Var:
        return self.b.mp_concat(x, skip, axis=1, balance=self.config.concat_balance, out="x")

    def read(self, x: Var) -> Var:
        x = mp_conv(self.b, "out_conv", x, self.out_channels, 3, out="x")
        return self.b.mul(x, self.b.param("out_gain", f32(1), "zeros"))


@cache
def _embedder(balance: float, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *operands: Var, embedding: int, **static: Any) -> Var:
        """Embeds time and conditions."""
        x = time.features(b, t, **{k: static[k] for k in time.static()})
        c = mp_linear(b, "linear", x, embedding, out="c", size=time.count(static["frequencies"]))
        for entry, own in with_operands(entries, operands):
            cond = entry.vector(b, entry.prefix, own, embedding, static)
            c = b.mp_sum(c, cond, balance=balance, out="c")
        return b.mp_silu(c, out="c")

    return embedder
