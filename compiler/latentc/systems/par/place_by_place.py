"""The first token of each region one by one, then the tokens at each place of all regions at once: PAR's sampler.

Symbols: B batch, T tokens of a sample, m tokens of a place, P = T / m places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, guided_call
from latentc.components.kit.orders import row_by_row
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import TokenSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Source


class PlaceByPlace(TokenSampler):
    """Draws the first tokens of all regions in turn, then the tokens of a place at once, independently of each other
    (PAR, Wang et al. 2024, arXiv:2412.15119).
    """

    kind: Literal["place_by_place"]
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    NEEDS = "next_places"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "place_by_place", "guidance": {"scale": 2.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))
        if self.guidance is not None and self.guidance.interval != (0.0, 1.0):
            message = f"`{self.kind}` guides all tokens or none"
            yield Problem(("guidance", "interval"), message, "leave it out")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: the conditions, scale f32[B] with guidance, and unless greedy u f32[m, B] for the
        first tokens and u_places f32[P - 1, B, m] -> i64[B, T].
        """
        network, conditions = networks["main"], Conditions(spec, networks)
        length = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        together = int(network.methods["decode_place"].input("token").type.shape[1])  # type: ignore[arg-type]
        places = length // together
        entry = f"sample.{together + places - 1}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(together, B)) if self.temperature else None
        u_places = b.input("u_places", f32(places - 1, B, together)) if self.temperature else None
        null = cond if scale is None else conditions.null(b, cond)
        kept = () if scale is None else (scale,)
        names = " ".join("cache" if port.role == "cache" else "logits" for port in network.methods["prefill"].outputs)
        logits, *caches = guided_call(b, network, "prefill", cond, null, scale, out=names)
        token = self.pick(b, logits, _row(b, u, 0, (B,)))

        def one(
            b: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            position = b.op("add", i, 1, out="position")
            operands: dict[str, Any] = {"token": state[0], "position": position, "cache": list(state[1:])}
            logits, *grown = guided_call(b, network, "decode", {}, {}, kept[0] if kept else None, out=names, **operands)
            token = self.pick(b, logits, rows[0] if rows else None)
            return (token, *grown), (token,)

        def place(
            b: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            position = b.op("add", b.op("mul", i, together), 2 * together, out="position")
            operands: dict[str, Any] = {"token": state[0], "position": position, "cache": list(state[1:])}
            own = _spread(b, kept[0], together) if kept else None
            logits, *grown = guided_call(b, network, "decode_place", {}, {}, own, out=names, **operands)
            tokens = self._place(b, logits, rows[0] if rows else None, together)
            return (tokens, *grown), (tokens,)

        rows = [] if u is None else [b.slice(u, axis=0, start=1, stop=together, out="u_rest")]
        carried = [token, *caches]
        outs = b.loop(f"{entry}.first", together - 1, one, invariants=kept, carried=carried, tables=rows)
        first = [b.reshape(token, shape=(B, 1)), b.transpose(outs[-1], perm=(1, 0))]
        operands: dict[str, Any] = {"token": outs[0], "cache": list(outs[1:-1])}
        own = None if scale is None else _spread(b, scale, together)
        logits, *caches = guided_call(b, network, "enter", {}, {}, own, out=names, **operands)
        tokens = self._place(b, logits, _row(b, u_places, 0, (B, together)), together)
        rows = [] if u_places is None else [b.slice(u_places, axis=0, start=1, stop=places - 1, out="u_rest")]
        carried = [tokens, *caches]
        outs = b.loop(f"{entry}.place", places - 2, place, invariants=kept, carried=carried, tables=rows)
        rest = b.transpose(outs[-1], perm=(1, 0, 2))
        rest = b.reshape(rest, shape=(B, (places - 2) * together), out="rest")
        drawn = b.concat(*first, tokens, rest, axis=1, out="tokens")
        b.output(row_by_row(b, network, drawn))
        mb.entries[entry] = b.finish(doc=f"Draws {together} tokens in turn, then {together} at once, {length} in all.")
        if u is not None:
            sources["u"] = RandomSource("uniform", "token", together)
            sources["u_places"] = RandomSource("uniform", "place", places - 1)
        steps = together + places - 1
        return Program(entry, self.kind, steps, steps, sources, settings, outputs=(OutputField("samples", "tokens"),))

    def _place(self, b: Builder, logits: Var, u: Var | None, together: int) -> Var:
        """i64[B, m]: tokens of logits f32[B m, V], by u f32[B, m] unless greedy."""
        flat = None if u is None else b.reshape(u, shape=(B * together,), out="u")
        return b.reshape(self.pick(b, logits, flat), shape=(B, together), out="tokens")


def _row(b: Builder, u: Var | None, row: int, shape: tuple[Any, ...]) -> Var | None:
    """One row of u f32[N, ...], without that axis."""
    if u is None:
        return None
    return b.reshape(b.slice(u, axis=0, start=row, stop=row + 1), shape=shape, out="u_first")


def _spread(b: Builder, scale: Var, together: int) -> Var:
    """The scale f32[B] for each token of a place, f32[B m]."""
    wide = b.broadcast_to(b.reshape(scale, shape=(B, 1)), scale, shape=(B, together))
    return b.reshape(wide, shape=(B * together,), out="scale")
