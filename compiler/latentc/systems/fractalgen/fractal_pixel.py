"""FractalGen's loss: the cross-entropy of the pixels that every level has to generate.

Symbols: B batch, C channels, T patches of a level, N pixels of an image, V values of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.kit.patches import patchify
from latentc.components.objective import Objective
from latentc.components.objectives._common import mean_of_counted, publish, token_losses
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.ir.types import B
from latentc.systems.fractalgen.fractal_transformer import levels_of
from latentc.systems.fractalgen.values import numbers, read, shares

DEVIATION = 0.25
"""Standard deviation of the share of hidden patches, which is normal with mean 1, truncated to [0, 1]."""


class FractalPixel(Objective):
    """Cross-entropy of the values of a pixel's channels (FractalGen, Li et al. 2025, arXiv:2502.17437).

    Masked levels hide a share of the patches of each patch, and a pixel counts if every level hides it; autoregressive
    ones predict all.
    """

    kind: Literal["fractal_pixel"]
    first: float = Field(1.0, gt=0, le=1_000, description="weight of the first channel; the others have 1")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "fractal_pixel", "first": 5.0}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "fractal"),)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, conditions = networks["main"], Conditions(spec, networks)
        grids, sides = levels_of(main)
        assert spec.data.shape is not None
        channels = spec.data.shape[0]
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, *spec.data.shape))
        given = conditions.inputs(b, by_field=True)
        draws: list[Draw] = []
        masked = bool(main.methods["level_0"].inputs_of("mask"))
        hidden: list[Var] = []
        rows = 1
        for i, grid in enumerate(grids if masked else ()):
            hidden.append(_hidden(b, i, rows, grid**2))
            draws += [
                Draw(f"fraction_{i}", "truncated_normal", {"bound": 1 / DEVIATION}),
                Draw(f"order_{i}", "uniform"),
            ]
            rows *= grid**2
        operands = conditions.dropped(b, conditions.operands(b, given))
        z, rows = call(b, main, "embed", operands, out="z"), 1
        share = shares(b, x, spec)
        values = int(main.methods["pixels"].output("logits").type.shape[2])  # type: ignore[arg-type]
        image, tokens = read(b, share, channels), numbers(b, share, values)
        counts: Var | None = None
        for i, (grid, side) in enumerate(zip(grids, sides, strict=True)):
            count = grid**2
            patches = patchify(b, image, side, "patches")
            kept = b.cast(patchify(b, b.cast(tokens, to="f32"), side), to="i64", out="values")
            roles: dict[str, Any] = {"state": patches, "features": z}
            if masked:
                mask = b.reshape(hidden[i], shape=(B * rows, count), out="mask")
                roles["mask"] = mask
                each = b.reshape(mask, shape=(B * rows * count, 1))
                counts = each if counts is None else b.mul(_repeated(b, counts, count), each, out="counts")
            z = call(b, main, f"level_{i}", {}, out="z", **roles)
            rows *= count
            z = b.reshape(z, shape=(B * rows, *z.shape[2:]), out="z")
            image = b.reshape(patches, shape=(B * rows, channels, side, side), out="image")
            tokens = b.reshape(kept, shape=(B * rows, channels, side, side), out="tokens")
        tokens = b.reshape(tokens, shape=(B * rows, channels), out="tokens")
        own = b.slice(z, axis=1, start=0, stop=1)
        own = b.reshape(own, shape=(B * rows, z.shape[2]), out="own")
        logits = call(b, main, "pixels", {}, token=tokens, features=own, out="logits")
        losses = token_losses(b, logits, tokens)
        weights = [self.first, *(1.0 for _ in range(channels - 1))]
        weighted = losses * b.constant([w / sum(weights) for w in weights], "f32", out="weights")
        losses = b.reshape(b.sum(weighted, axes=(1,), keepdims=False), shape=(B, rows), out="losses")
        if counts is None:
            b.output(b.mean(losses, axes=(1,), keepdims=False, out="loss"))
        else:
            b.output(mean_of_counted(b, losses, b.reshape(counts, shape=(B, rows), out="counts")))
        b.finish("The cross-entropy of the generated pixels in nats per value, one number per sample.")
        all_draws = (*draws, *conditions.draws())
        return publish(mb, ("loss",), ("x", *conditions.fields), all_draws, self.trained(spec))


def _hidden(b: Builder, i: int, rows: int, count: int) -> Var:
    """f32[B, rows, T]: 1 for the patches that level i hides, drawn for each of `rows` patches of the level above."""
    z, u = b.input(f"fraction_{i}", f32(B, rows)), b.input(f"order_{i}", f32(B, rows, count))
    rank = b.argsort(b.reshape(u, shape=(B * rows, count)), out="rank")
    most = b.op("sub", 1.0, b.abs(z) * DEVIATION, out="fraction") * float(count)
    less = b.less(b.cast(rank, to="f32"), b.reshape(most, shape=(B * rows, 1)), out="hidden")
    return b.reshape(b.cast(less, to="f32"), shape=(B, rows, count), out="hidden")


def _repeated(b: Builder, counts: Var, times: int) -> Var:
    """f32[M times, 1]: each of f32[M, 1] as often."""
    wide = b.broadcast_to(counts, counts, shape=(counts.shape[0], times))
    return b.reshape(wide, shape=(counts.shape[0] * times, 1), out="counts")
