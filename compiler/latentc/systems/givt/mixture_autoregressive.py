"""Continuous token after token from predicted mixtures, with beams or guidance: GIVT's causal sampler.

Symbols: B batch, T tokens of a sample, C channels of a token, K beams, F draws of each, Q proposals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import asked_scale, scale_at
from latentc.components.kit import Conditions, call
from latentc.components.kit.beams import of_beams, repeated
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.givt.adaptors import sample_of
from latentc.systems.givt.mixtures_parts import Mixture
from latentc.systems.givt.mixtures_sampler import MixtureSampler, rows_of
from latentc_runtime.sources import RandomSource, Source


class MixtureAutoregressive(MixtureSampler):
    """Draws each token from its mixture given the previous ones (GIVT, Tschannen et al. 2023, arXiv:2312.02116).

    With beams, each beam draws one first token, then `fans` tokens in every step, of which those with the most likely
    prefixes continue; the most likely sequence is the sample. (The authors' code chooses once more, by a token after
    the last.) `randomness` draws them without replacement instead, by Gumbel noise. (The authors' code counts the
    log-likelihood once per channel unless channels have mixtures of their own: its `rand_top_k_temp` is C times ours.)
    """

    kind: Literal["mixture_autoregressive"]
    beams: int = Field(1, gt=0, le=64, description="number of beams (K)")
    fans: int = Field(1, gt=0, le=256, description="tokens drawn per evaluation (F)")
    randomness: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="temperature at which prefixes are drawn without replacement; 0: the most likely continue",
    )
    NEEDS = "next_mixture"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mixture_autoregressive",
        "temperature": 0.95,
        "guidance": {"scale": 1.4},
        "proposals": 8,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.guidance is not None and self.beams * self.fans > 1:
            yield Problem(
                ("beams",), "beams are compared by their density, which guidance does not give", "leave out one of them"
            )
        if self.randomness > 0 and self.beams * self.fans == 1:
            message = "one token is drawn per step, so there is nothing to choose among"
            yield Problem(("randomness",), message, "set `beams` or `fans`, or leave it out")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: the conditions, scale f32[B] with guidance, u f32[T, B, K F, C or 1] and z
        f32[T, B, K F, C], with guidance q_z and q_u f32[T, B, Q, C], with randomness gumbel f32[T, B, K F] ->
        f32[B, C, H, W].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        main: Any = spec.networks["main"]
        mixture: Mixture = main.mixture
        assert spec.data.shape is not None
        (length, channels), wide = main.sequence(spec.data.shape), self.beams * self.fans
        chooses = wide > 1
        entry = f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        rows = {
            "u": b.input("u", f32(length, B, wide, rows_of(mixture, channels))),
            "z": b.input("z", f32(length, B, wide, channels)),
        }
        sources |= {"u": RandomSource("uniform", "component", length), "z": RandomSource("normal", "token", length)}
        if self.randomness > 0:
            rows["gumbel"] = b.input("gumbel", f32(length, B, wide))
            sources["gumbel"] = RandomSource("gumbel", "beam", length)
        if self.guidance is not None:
            rows["q_z"] = b.input("q_z", f32(length, B, self.proposals, channels))
            rows["q_u"] = b.input("q_u", f32(length, B, self.proposals, channels))
            sources |= {
                "q_z": RandomSource("normal", "proposal", length),
                "q_u": RandomSource("uniform", "accept", length),
            }
        if scale is not None:
            null = conditions.null(b, cond)
            cond = {key: b.concat(value, null[key], axis=0, out=key) for key, value in cond.items()}
        elif self.beams > 1:
            cond = {key: repeated(b, value, self.beams) for key, value in cond.items()}
        names = " ".join(["mixture", *["cache"] * (len(network.methods["prefill"].outputs) - 1)])
        raw, *caches = call(b, network, "prefill", cond, out=names)
        progress = [i / max(length - 1, 1) for i in range(length)]
        weights = np.asarray(self.guidance.weights(progress)) if self.guidance else np.ones(length)

        def pick(
            b: Builder, raw: Var, row: Mapping[str, Var], scale: Var | None, score: Var | None
        ) -> tuple[Var, Var | None, Var | None]:
            return self._pick(b, mixture, raw, channels, row, scale, score)

        def at(i: int) -> dict[str, Var]:
            return {
                key: b.reshape(b.slice(v, axis=0, start=i, stop=i + 1), shape=v.shape[1:]) for key, v in rows.items()
            }

        first_scale = None if scale is None else scale_at(b, scale, b.constant(weights[0]))
        token, score, _ = pick(b, raw, at(0), first_scale, None)
        if length == 1:
            sequence = b.reshape(first_beam(b, token, self.beams), shape=(B, 1, channels))
            b.output(sample_of(b, networks, spec, sequence, main.patch))
            made = None
        else:
            kept = b.reshape(token, shape=(token.shape[0], 1, channels), out="sequence")
            rest = b.full(kept, shape=(length - 1, channels), value=0.0, dtype="f32", out="rest")
            sequence = b.concat(kept, rest, axis=1, out="sequence")
            tables = [b.slice(v, axis=0, start=1, stop=length, out=key) for key, v in rows.items()]
            if scale is not None:
                tables.append(b.constant(weights[1:], out="weight"))

            def body(b: Builder, i: Var, fixed: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]) -> Any:
                token, sequence, *caches = state
                score = caches.pop(0) if chooses else None
                here = dict(zip([*rows, "weight"], row, strict=False))
                position = b.op("add", i, 1, out="position")
                fed = token if not fixed else b.concat(token, token, axis=0, out="fed")
                names = " ".join(["mixture", *["cache"] * len(caches)])
                operands: dict[str, Any] = {"token": fed, "position": position, "cache": caches}
                raw, *caches = call(b, network, "decode", {}, out=names, **operands)
                strength = scale_at(b, fixed[0], here["weight"]) if fixed else None
                token, score, beam = pick(b, raw, here, strength, score)
                if beam is not None:
                    sequence = of_beams(b, sequence, beam, self.beams)
                    caches = [of_beams(b, cache, beam, self.beams) for cache in caches]
                put = b.reshape(token, shape=(token.shape[0], 1, channels))
                sequence = b.update_slice(sequence, put, position, axis=1, out="sequence")
                return (token, sequence, *([] if score is None else [score]), *caches), ()

            invariants = [] if scale is None else [scale]
            made = b.loop(
                f"{entry}.decode",
                length - 1,
                body,
                invariants=invariants,
                carried=[token, sequence, *([] if score is None else [score]), *caches],
                tables=tables,
            )
            b.output(sample_of(b, networks, spec, first_beam(b, made[1], self.beams), main.patch))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens one after the other.")
        outputs = (OutputField("samples", "x"),)
        return Program(entry, self.kind, length, length, sources, settings, outputs=outputs)

    def _pick(
        self,
        b: Builder,
        mixture: Mixture,
        raw: Var,
        channels: int,
        row: Mapping[str, Var],
        scale: Var | None,
        score: Var | None,
    ) -> tuple[Var, Var | None, Var | None]:
        """Tokens f32[B K, C], log-likelihoods of their beginnings f32[B K] if these are chosen among, and the beams
        i64[B, K] that they continue if there are several.

        `score` f32[B K] is that of the beginnings so far; None: there is none, as tokens are the first or not chosen.
        """
        size = int(raw.shape[1])
        fans = 1 if score is None else self.fans
        wide = self.beams * fans
        flat = {}
        for key in ("u", "z"):
            rows = row[key] if fans == self.fans else b.slice(row[key], axis=1, start=0, stop=wide)
            flat[key] = b.reshape(rows, shape=(B * wide, rows.shape[2]), out=key)
        if scale is not None:
            raw, other = b.split(raw, axis=0, sizes=(B, B), out="raw other")
            guided = (other, scale, row["q_z"], row["q_u"])
            return *self.drawn(b, mixture, raw, channels, flat["u"], flat["z"], guided, scored=False), None
        if fans > 1:
            raw = b.reshape(raw, shape=(B * self.beams, 1, size))
            raw = b.broadcast_to(raw, raw, shape=(B * self.beams, fans, size))
            raw = b.reshape(raw, shape=(B * wide, size), out="raw")
        scored = self.beams * self.fans > 1
        token, own = self.drawn(b, mixture, raw, channels, flat["u"], flat["z"], scored=scored)
        if own is None or score is None:
            return token, own, None
        own = b.reshape(own, shape=(B, self.beams, fans), out="own")
        total = b.add(own, b.reshape(score, shape=(B, self.beams, 1)), out="total")
        total = b.reshape(total, shape=(B, wide), out="total")
        if self.randomness > 0:
            noisy = b.add(total, b.mul(row["gumbel"], self.randomness), out="noisy")
            _, index = b.top_k(noisy, k=self.beams, out="noisy index")
            best = b.take_along(total, index, axis=1, out="best")
        else:
            best, index = b.top_k(total, k=self.beams, out="best index")
        tokens = b.reshape(token, shape=(B, wide, channels))
        wide_index = b.broadcast_to(b.reshape(index, shape=(B, self.beams, 1)), tokens, shape=(B, self.beams, channels))
        token = b.reshape(b.take_along(tokens, wide_index, axis=1), shape=(B * self.beams, channels), out="token")
        beam = b.div(index, self.fans, out="beam") if self.beams > 1 else None
        return token, b.reshape(best, shape=(B * self.beams,), out="score"), beam


def first_beam(b: Builder, x: Var, beams: int) -> Var:
    """[B, ...]: the first beam of each sample of x [B K, ...]."""
    if beams == 1:
        return x
    rest = x.shape[1:]
    x = b.slice(b.reshape(x, shape=(B, beams, *rest)), axis=1, start=0, stop=1)
    return b.reshape(x, shape=(B, *rest), out="best")
