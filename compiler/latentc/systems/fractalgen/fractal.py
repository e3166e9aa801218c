"""FractalGen's sampler: loops within loops over the patches of each level, down to the colours of a pixel.

Symbols: B batch of images, M patches generated at once, R rows of the networks (2 M with guidance, those without a
class second), C channels, T patches of a level, K patches drawn in a step, n vectors that condition a patch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import ScheduledGuidance, asked_scale, scale_at, token_guidance_problems
from latentc.components.kit import Conditions, call
from latentc.components.kit.patches import unpatchify
from latentc.components.kit.tokens import draw
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.components.samplers.masked_autoregressive import along, hidden_counts
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple, f32
from latentc.ir.types import B
from latentc.systems.fractalgen.fractal_transformer import FractalTransformer, levels_of
from latentc.systems.fractalgen.values import of_range, read
from latentc_runtime.sources import RandomSource, Source

Count = Annotated[int, Field(gt=0, le=65_536)]


class Fractal(Sampler):
    """Draws the patches of each level and, within each, those of the next (FractalGen, Li et al. 2025,
    arXiv:2502.17437).

    Guidance mixes the logits of colours; in the first level it grows with the share of known patches. As in the
    authors' code, logits are multiplied by `sharpness`, and what is unlikelier than `least` with the class is made
    unlikely without it, too.
    """

    kind: Literal["fractal"]
    steps: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="steps of the first level, if it is masked, at most as many as its patches; null: one per patch. "
        "Autoregressive levels always take one per patch",
    )
    inner_steps: tuple[Count, ...] | None = Field(
        None, max_length=7, description="steps of the other masked levels; null: one per patch"
    )
    sharpness: float = Field(1.0, gt=0, le=100, description="factor of the logits (the authors' `temperature`)")
    least: float = Field(1e-4, ge=0, lt=1, description="with guidance: the least likely colours of a class")
    guidance: ScheduledGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "fractal"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "fractal", "steps": 2, "guidance": {"scale": 2.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if isinstance(main, FractalTransformer):
            if main.causal and (self.steps is not None or self.inner_steps is not None):
                name = "inner_steps" if self.steps is None else "steps"
                yield Problem((name,), "autoregressive levels take one step per patch", f"leave `{name}` out")
            elif self.inner_steps is not None and len(self.inner_steps) != len(main.levels) - 1:
                message = (
                    f"{len(self.inner_steps)} numbers of steps, but {len(main.levels) - 1} levels follow the first"
                )
                yield Problem(("inner_steps",), message, "give one for each")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample`: the conditions, scale f32[B] with guidance, u f32[B, N] -> f32[B, C, H, H]."""
        main, conditions = networks["main"], Conditions(spec, networks)
        assert spec.data.shape is not None
        grids, sides = levels_of(main)
        causal = not main.methods["level_0"].inputs_of("mask")
        counts = tuple(grid**2 for grid in grids)
        inner = counts[1:] if causal or self.inner_steps is None else self.inner_steps
        steps = (counts[0] if causal or self.steps is None else min(self.steps, counts[0]), *inner)
        left = [
            None if causal else hidden_counts("cosine", min(n, count), count)
            for n, count in zip(steps, counts, strict=True)
        ]
        entry = f"sample.{steps[0]}"
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        levels = Levels(self, main, spec.data.shape[0], grids, sides, left, entry)
        u = b.input("u", f32(B, levels.numbers(0)))
        sources["u"] = RandomSource("uniform", "u")
        z = call(b, main, "embed", operands, out="z")
        if scale is not None:
            null = call(b, main, "embed", conditions.null(b, operands), out="null_z")
            z = b.concat(z, null, axis=0, out="z")
        x = levels.drawn(b, 0, z, u, scale)
        b.output(of_range(b, x, spec.data.shape[0], spec))
        mb.entries[entry] = b.finish(doc="Draws the patches of each level, and pixels value by value.")
        evaluations = levels.evaluations(0)
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, steps[0], evaluations, sources, settings, "sample", outputs)


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of a network, and how many patches each hides before and after each step; None: one per step."""

    sampler: Fractal
    main: Network
    channels: int
    grids: tuple[int, ...]
    sides: tuple[int, ...]
    left: list[list[int] | None]
    entry: str

    def most(self, level: int) -> int:
        """Patches that a step of a level draws at most (K)."""
        left = self.left[level]
        return 1 if left is None else max(before - after for before, after in pairwise(left))

    def steps(self, level: int) -> int:
        left = self.left[level]
        return self.grids[level] ** 2 if left is None else len(left) - 1

    def numbers(self, level: int) -> int:
        """Random numbers that a patch of the level above takes."""
        if level == len(self.grids):
            return self.channels
        order = 0 if self.left[level] is None else self.grids[level] ** 2
        return order + self.steps(level) * self.most(level) * self.numbers(level + 1)

    def evaluations(self, level: int) -> int:
        """Evaluations of networks per patch of the level above."""
        if level == len(self.grids):
            return self.channels
        return self.steps(level) * (1 + self.evaluations(level + 1))

    def drawn(self, b: Builder, level: int, z: Var, u: Var, scale: Var | None) -> Var:
        """Patches f32[M, C, s, s] of the level above, as the levels read them, conditioned on z f32[R, n, D]; u f32[M,
        N] and scale f32[M]."""
        if level == len(self.grids):
            return self.pixels(b, z, u, scale)
        size = self.grids[level] * self.sides[level]
        patches = (
            self.in_order(b, level, z, u, scale) if self.left[level] is None else self.masked(b, level, z, u, scale)
        )
        return unpatchify(b, patches, (self.channels, size, size), patch=self.sides[level])

    def tables(self, b: Builder, level: int, u: Var, known: np.ndarray) -> dict[str, Var]:
        """Rows for each step of a level: random numbers f32[M, K N], and the weight of guidance in the first level."""
        rows = b.reshape(u, shape=(u.shape[0], self.steps(level), self.most(level) * self.numbers(level + 1)))
        tables = {"u": b.transpose(rows, perm=(1, 0, 2), out="u")}
        if level == 0 and self.sampler.guidance is not None:
            tables["weight"] = b.constant(self.sampler.guidance.weights(list(known)), "f32", out="weight")
        return tables

    def both(self, b: Builder, x: Var, scale: Var | None) -> Var:
        """Values [M, …] as rows [R, …]."""
        return x if scale is None else b.concat(x, x, axis=0, out="both")

    def in_order(self, b: Builder, level: int, z: Var, u: Var, scale: Var | None) -> Var:
        """Patches f32[M, T, P] one after the other."""
        count, side = self.grids[level] ** 2, self.sides[level]
        size, method = self.channels * side**2, self.main.methods[f"next_{level}"]
        tables = self.tables(b, level, u, np.arange(1, count + 1) / count)
        before = b.full(u, shape=(size,), value=0.0, dtype="f32", out="before")
        caches = [
            b.full(z, shape=p.type.shape[1:], value=0.0, dtype="f32", out="cache") for p in method.inputs_of("cache")
        ]
        fixed = {"z": z} | ({} if scale is None else {"scale": scale})

        def body(b: Builder, i: Var, invariants: Any, state: Any, rows: Any) -> Any:
            at = dict(zip(fixed, invariants, strict=True)) | dict(zip(tables, rows, strict=True))
            x, *kept = state
            given = {"state": self.both(b, x, at.get("scale")), "position": i, "features": at["z"], "cache": kept}
            names = " ".join(["z", *("cache" for _ in kept)])
            own, *grown = as_tuple(call(b, self.main, f"next_{level}", {}, out=names, **given))
            own = b.reshape(own, shape=(own.shape[0], *own.shape[2:]), out="z")
            made = self.drawn(b, level + 1, own, at["u"], self.scale(b, at))
            made = b.reshape(made, shape=(x.shape[0], size), out="made")
            return (made, *grown), (made,)

        named = ["before", *("cache" for _ in caches), *tables]
        *_, patches = b.loop(
            f"{self.entry}.level_{level}",
            count,
            body,
            invariants=[*fixed.values()],
            carried=[before, *caches],
            tables=[*tables.values()],
            names=named,
        )
        return b.transpose(patches, perm=(1, 0, 2), out="patches")

    def masked(self, b: Builder, level: int, z: Var, u: Var, scale: Var | None) -> Var:
        """Patches f32[M, T, P], some in each step."""
        count, side, most = self.grids[level] ** 2, self.sides[level], self.most(level)
        size, left, batch = self.channels * side**2, self.left[level], u.shape[0]
        assert left is not None
        first, rest = b.split(u, axis=1, sizes=(count, int(u.shape[1]) - count), out="first rest")
        order = b.argsort(first, out="order")
        known = np.array([(count - max(after, 1)) / count for after in left[1:]])
        columns = {"hidden_before": np.array(left[:-1]), "hidden_after": np.array(left[1:])}
        tables = self.tables(b, level, rest, known) | {k: b.constant(v, out=k) for k, v in columns.items()}
        patches = b.full(u, shape=(count, size), value=0.0, dtype="f32", out="patches")
        fixed = {"z": z, "order": order, "ranks": b.argsort(order, out="ranks")}
        fixed |= {} if scale is None else {"scale": scale}

        def body(b: Builder, i: Var, invariants: Any, state: Any, rows: Any) -> Any:
            at = dict(zip(fixed, invariants, strict=True)) | dict(zip(tables, rows, strict=True))
            (x,), ranks = state, at["ranks"]
            hidden = b.less(ranks, at["hidden_before"], out="hidden")
            mask = self.both(b, b.cast(hidden, to="f32", out="mask"), at.get("scale"))
            roles = {"state": self.both(b, x, at.get("scale")), "mask": mask, "features": at["z"]}
            own = call(b, self.main, f"level_{level}", {}, out="z", **roles)
            places = b.minimum(b.add(at["hidden_after"], b.arange(most)), count - 1, out="places")
            chosen = b.take(at["order"], places, axis=1, out="chosen")
            own = along(b, own, self.both(b, chosen, at.get("scale")), "own")
            own = b.reshape(own, shape=(own.shape[0] * most, *own.shape[2:]), out="own")
            drawn = b.reshape(at["u"], shape=(batch * most, self.numbers(level + 1)), out="drawn")
            now = self.scale(b, at)
            if now is not None:
                wide = b.reshape(now, shape=(batch, 1))
                now = b.reshape(b.broadcast_to(wide, wide, shape=(batch, most)), shape=(batch * most,), out="scale")
            made = b.reshape(self.drawn(b, level + 1, own, drawn, now), shape=(batch, most, size), out="made")
            place = b.clamp(b.op("sub", ranks, at["hidden_after"]), low=0, high=most - 1, out="place")
            mine = b.logical_and(hidden, b.less_equal(at["hidden_after"], ranks), out="mine")
            column = b.reshape(mine, shape=(batch, count, 1))
            return (b.where(column, along(b, made, place), x, out="patches"),), ()

        (patches,) = b.loop(
            f"{self.entry}.level_{level}",
            len(left) - 1,
            body,
            invariants=[*fixed.values()],
            carried=[patches],
            tables=[*tables.values()],
            names=["patches", *tables],
        )
        return patches

    @staticmethod
    def scale(b: Builder, at: Mapping[str, Var]) -> Var | None:
        """The scale of the guidance f32[M] in a step."""
        if "scale" not in at or "weight" not in at:
            return at.get("scale")
        return scale_at(b, at["scale"], at["weight"])

    def pixels(self, b: Builder, z: Var, u: Var, scale: Var | None) -> Var:
        """Pixels f32[M, C, 1, 1], value by value, of their own vectors, which are the first of z [R, n, D]."""
        batch, count = u.shape[0], self.channels
        own = b.reshape(b.slice(z, axis=1, start=0, stop=1), shape=(z.shape[0], z.shape[2]), out="own")
        values = int(self.main.methods["pixels"].output("logits").type.shape[2])  # type: ignore[arg-type]
        numbers = [
            b.reshape(v, shape=(batch, 1)) for v in (b.split(u, axis=1, sizes=(1,) * count) if count > 1 else [u])
        ]
        unknown = b.full(u, shape=(1,), value=0, dtype="i64", out="unknown")
        drawn: list[Var] = []
        for c in range(count):
            given = [*drawn, *[unknown] * (count - c)]
            token = self.both(b, b.concat(*given, axis=1) if count > 1 else given[0], scale)
            logits = call(b, self.main, "pixels", {}, token=token, features=own, out="logits")
            logits = b.reshape(b.slice(logits, axis=1, start=c, stop=c + 1), shape=(z.shape[0], values), out="logits")
            logits = b.mul(logits, self.sampler.sharpness, out="logits") if self.sampler.sharpness != 1 else logits
            if scale is not None:
                logits = self.guided(b, logits, scale)
            token = draw(b, b.reshape(logits, shape=(batch, 1, values)), numbers[c], out="value")
            drawn.append(token)
        token = b.concat(*drawn, axis=1) if count > 1 else drawn[0]
        share = b.mul(b.cast(token, to="f32"), 1 / (values - 1), out="share")
        return b.reshape(read(b, share, count), shape=(batch, count, 1, 1), out="pixel")

    def guided(self, b: Builder, logits: Var, scale: Var) -> Var:
        """Logits f32[M, V] under guidance, of logits f32[2 M, V] with the class and without it."""
        batch = scale.shape[0]
        values = logits.shape[1]
        halves = b.split(b.reshape(logits, shape=(2, batch, values)), axis=0, sizes=(1, 1), out="with_class without")
        cond, null = (b.reshape(v, shape=(batch, values), out=n) for v, n in zip(halves, ("cond", "null"), strict=True))
        if self.sampler.least:
            highest = [b.max(v, axes=(1,), keepdims=True) for v in (cond, null)]
            likely = b.maximum(null, cond - highest[0] + highest[1], out="likely")
            least = b.less(b.softmax(cond, axis=1), self.sampler.least, out="unlikely")
            null = b.where(least, likely, null, out="null")
        apart = b.op("sub", cond, null, out="apart")
        return b.add(null, apart * b.reshape(scale, shape=(batch, 1)), out="logits")
