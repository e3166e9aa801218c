"""Diffusion of hidden pivots, token by token, and of the hidden dense tokens together given them: Hi-MAR's loss.

Symbols: B batch, N pivots, T dense tokens, C channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.kit.patches import patch_side, patchify
from latentc.components.objective import not_frozen
from latentc.components.objectives._common import Concentration, publish, risen
from latentc.components.objectives.denoising import Noised, noised
from latentc.components.objectives.diffusion import DiffusionLoss
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.himar.hierarchical_autoencoder import PHASES, HierarchicalAutoencoder


class PivotedDiffusion(DiffusionLoss):
    """Losses of `pivot_head` on hidden pivots and of `head` on hidden dense tokens (Hi-MAR, Zheng et al. 2025, ICML).

    The hidden fraction is r for the pivots, with r normal with mean 1, truncated to [`least_hidden`, 1], and cos(pi u /
    2) for the dense tokens, with u uniform; or both are beta distributed. Dense tokens get the features of the hidden
    pivots, without a gradient. Conditions are dropped independently for pivots and for dense tokens. Pivot errors are
    averaged over the hidden ones; dense token errors are summed over the hidden ones and divided by the total number.
    """

    kind: Literal["pivoted_diffusion"]
    pivots: str | None = Field(
        None, description="data field of the pivots [C, side, side]; null: block means of the sample"
    )
    least_hidden: float = Field(0.7, gt=0, lt=1, description="minimum hidden fraction of the pivots")
    deviation: float = Field(0.25, gt=0, description="standard deviation of the hidden fraction")
    beta: tuple[Concentration, Concentration] | None = Field(
        None, description="parameters of the beta distribution of hidden fractions; null: the distribution above"
    )
    pivot_dropout: float = Field(0.5, ge=0, le=1, description="fraction of samples without pivots in the dense phase")
    pivot_warmup: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="training steps over which that fraction decreases linearly from 1; the authors decrease it per "
        "epoch",
    )
    weights: tuple[float, float] = Field((0.4, 0.6), description="weights of the loss of pivots and of dense tokens")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "pivoted_diffusion",
        "process": {"kind": "discrete", "schedule": "cosine", "steps": 100},
        "variance": "learned_range",
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return PHASES

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.parameterization().noise_problems(spec, f"objective `{self.kind}`")
        main, shape = spec.networks.get("main"), spec.data.shape
        if self.pivots is None or not isinstance(main, HierarchicalAutoencoder) or shape is None:
            return
        field, wanted = spec.data.fields.get(self.pivots), (shape[0], main.side, main.side)
        if field is None:
            yield Problem(("pivots",), f"no data field `{self.pivots}`", "declare it under `data.fields`")
        elif tuple(field.shape) != wanted:
            message = f"pivots have shape {list(wanted)}, but field `{self.pivots}` has {list(field.shape)}"
            yield Problem(("pivots",), message)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, "pivot_head", "head"))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, conditions = networks["main"], Conditions(spec, networks)
        state = main.methods["forward"].input("state").type
        length, size = Named(int(state.shape[1]), "T"), int(state.shape[2])  # type: ignore[arg-type]
        count = int(main.methods["pivots"].input("state").type.shape[1])  # type: ignore[arg-type]
        assert spec.data.shape is not None
        b = mb.function("loss.terms")
        x = b.input("x", f32(B, *spec.data.shape))
        own = None if self.pivots is None else b.input(self.pivots, f32(B, *spec.data.fields[self.pivots].shape))
        given = conditions.inputs(b, by_field=True)
        patch = patch_side(size, spec.data.shape[0])
        tokens = patchify(b, x, patch)
        pivots = _averaged(b, tokens, count) if own is None else patchify(b, own, patch, "pivots")
        shares = self._shares()
        draws = [Draw("fraction", *shares[0])]
        share, order = b.input("fraction", f32(B)), b.input("pivot_order", i64(B, count))
        dense_share, dense_order = b.input("dense_share", f32(B)), b.input("order", i64(B, length))
        draws += [Draw("pivot_order", "permutation"), Draw("dense_share", *shares[1]), Draw("order", "permutation")]
        without = b.input("without", f32(B))
        draws.append(Draw("without", "uniform"))
        time = self.parameterization().process.draw()
        integers = time.distribution == "integers"
        drawn = [
            (b.input(f"{prefix}{time.name}", i64(*shape) if integers else f32(*shape)), b.input(f"{prefix}noise", full))
            for prefix, shape, full in (
                ("pivot_", (B, count), f32(B, count, size)),
                ("", (B,), f32(B, length, size)),
            )
        ]
        draws += [
            Draw(f"pivot_{time.name}", time.distribution, time.parameters),
            Draw("pivot_noise", "normal"),
            time,
            Draw("noise", "normal"),
        ]
        operands = conditions.operands(b, given)
        cond = conditions.dropped(b, operands)
        # In guidance, the branch without a class gets the features of pivots that were drawn with it.
        dense_cond = conditions.dropped(b, operands, "dense_")

        if self.beta is None:
            share = b.op("sub", 1.0, b.mul(b.abs(share), self.deviation), out="fraction")
            dense_share = b.cos(b.mul(dense_share, math.pi / 2), out="dense_fraction")
        hidden = _hidden(b, order, share, count, "hidden_pivots")
        z = call(b, main, "pivots", cond, state=pivots, mask=hidden, out="z")
        z = b.slice(z, axis=1, start=0, stop=count, out="pivot_features")
        rows = B * count
        flat = [b.reshape(v, shape=(rows, *v.shape[2:])) for v in (pivots, z, *drawn[0])]
        loss = self.loss(*self._predicted(b, networks["pivot_head"], flat[0], flat[1], (flat[2], flat[3])))["loss"]
        weight = b.div(hidden, b.sum(hidden, axes=(1,), keepdims=True), out="weight")
        of_pivots = b.sum(b.reshape(loss, shape=(B, count)) * weight, axes=(1,), keepdims=False, out="of_pivots")

        hidden_dense = _hidden(b, dense_order, dense_share, int(length), "hidden")
        gone = b.cast(b.less(without, self._dropout(b)), to="f32")
        gone = b.reshape(gone, shape=(B, 1), out="gone")
        left_out = b.maximum(b.op("sub", 1.0, hidden), gone, out="left_out")
        masks = [hidden_dense, left_out]
        z = call(b, main, "forward", dense_cond, state=tokens, mask=masks, features=b.stop_gradient(z), out="z")
        z = b.slice(z, axis=1, start=count, stop=count + int(length), out="dense_features")
        shown = b.reshape(hidden_dense, shape=(B, length, 1), out="shown")
        at, out = self._predicted(b, networks["head"], tokens, z, drawn[1])
        error = b.mul(at.error(out), shown, out="error")
        of_dense = per_sample_mean(b, self.cost(b, error), out="of_dense")
        weights = [b.mul(v, float(w)) for v, w in zip((of_pivots, of_dense), self.weights, strict=True)]
        b.output(b.add(*weights, out="loss"), of_pivots, of_dense)
        b.finish("The diffusion losses of the hidden pivots and of the dense tokens, one value per sample each.")
        draws = [*draws, *conditions.draws(), *conditions.draws("dense_")]
        batch = ("x", *([] if self.pivots is None else [self.pivots]), *conditions.fields)
        return publish(mb, ("loss", "pivots", "dense"), batch, tuple(draws), self.trained(spec))

    def _shares(self) -> tuple[tuple[str, Mapping[str, float]], ...]:
        """Distributions of what tells the hidden fraction of pivots, and of dense tokens."""
        if self.beta is not None:
            return (("beta", dict(zip("ab", self.beta, strict=True))),) * 2
        return ("truncated_normal", {"bound": (1 - self.least_hidden) / self.deviation}), ("uniform", {})

    def _dropout(self, b: Builder) -> float | Var:
        """The share of samples without pivots, now."""
        if not self.pivot_warmup:
            return self.pivot_dropout
        share = risen(b, self.pivot_warmup)
        return b.op("sub", 1.0, b.mul(share, 1 - self.pivot_dropout), out="dropout")

    def _predicted(self, b: Builder, head: Network, x0: Var, z: Var, drawn: tuple[Var, Var]) -> tuple[Noised, Var]:
        """Noised tokens x0 and the prediction of a head, given features z."""
        at = noised(b, self.parameterization(), x0, drawn)
        return at, call(b, head, "forward", {"z": z}, state=at.scaled, time=at.network_time, out="prediction")


def _hidden(b: Builder, order: Var, fraction: Var, count: int, out: str) -> Var:
    """f32[B, count]: 1 for the tokens of that fraction f32[B], rounded up, that come first in the order."""
    most = b.reshape(b.mul(fraction, float(count)), shape=(B, 1), out="most")
    return b.cast(b.less(b.cast(b.argsort(order, out="rank"), to="f32"), most), to="f32", out=out)


def _averaged(b: Builder, tokens: Var, count: int) -> Var:
    """f32[B, N, C]: means over squares of dense tokens f32[B, T, C]."""
    side, grid = round(count**0.5), round(int(tokens.shape[1]) ** 0.5)
    x = b.reshape(tokens, shape=(B, side, grid // side, side, grid // side, tokens.shape[2]))
    return b.reshape(b.mean(x, axes=(2, 4), keepdims=False), shape=(B, count, tokens.shape[2]), out="pivots")
