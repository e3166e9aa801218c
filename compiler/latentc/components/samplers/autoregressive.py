"""Token after token: prefill with the class, then a loop of decoding steps over key-value caches.

Symbols: B batch, T tokens of a sample, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.guidance.guidance import Guidance, asked_scale, token_guidance_problems
from latentc.components.kit import Conditions, Operands, call, guided_call
from latentc.components.kit.orders import in_reading_order, row_by_row
from latentc.components.kit.repetition import History
from latentc.components.kit.texts import joined
from latentc.components.networks._class_names import named, rows_of
from latentc.components.networks.language_model import LanguageModel
from latentc.components.networks.token_transformer import TokenTransformer
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import ScoringSampler, TokenSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc_runtime.sources import RandomSource, Source


def window_problems(spec: Spec) -> Iterator[Problem]:
    """Refuses a network over a window of the tokens, which keeps no keys and values for the next one."""
    main = spec.networks.get("main")
    if isinstance(main, TokenTransformer) and main.window is not None:
        message = "the network sees only a window of the tokens, so it has no cache to continue from"
        yield Problem((), message, "use a sampler that slides the window")


class Autoregressive(TokenSampler, ScoringSampler):
    """Draws each token from the network's distribution by inverse CDF, from one uniform variate per token."""

    kind: Literal["autoregressive"]
    guidance: Guidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    repetition_penalty: float = Field(
        1.0,
        ge=1,
        description="repetition penalty: logits are divided by it once per previous occurrence of their token; 1: none",
    )
    penalty_scale: float = Field(
        10.0,
        ge=0,
        description="largest logit, before and after that penalty; 0: logits are multiplied by the penalty instead",
    )
    penalize_prompt: bool = Field(
        True,
        description="tokens of the texts that the network reads, such as prompts, and of the name of the class count "
        "as previous occurrences",
    )
    NEEDS = "next_token"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoregressive", "top_k": 8, "guidance": {"scale": 2.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from window_problems(spec)
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))
        if self.guidance is not None and self.guidance.interval[0] > 0:
            message = "guidance of tokens must start at the first token, because its cache is built from there"
            yield Problem(("guidance", "interval"), message, "set `interval` to start at 0")
        yield from self._problems_of_penalty()

    def _problems_of_penalty(self) -> Iterator[Problem]:
        for name, usual in (("penalty_scale", 10.0), ("penalize_prompt", True)):
            if self.repetition_penalty == 1 and getattr(self, name) != usual:
                message = f"`{name}` has no effect without a repetition penalty"
                yield Problem((name,), message, "set `repetition_penalty` above 1, or leave it out")

    def problems_of_scores(self) -> Iterator[Problem]:
        if not self.temperature:
            yield Problem(
                ("temperature",), "at temperature 0 all rollouts of a condition are the same", "use `temperature: 1.0`"
            )
        for name, all_of_them in (("top_k", 0), ("top_p", 1.0), ("repetition_penalty", 1.0)):
            if getattr(self, name) != all_of_them:
                message = (
                    f"with `{name}: {getattr(self, name)}` rollouts are drawn from another "
                    "distribution than the loss evaluates"
                )
                yield Problem(
                    (name,),
                    message,
                    f"use `{name}: {all_of_them}` for training; bundles can be compiled with another value",
                )

    def token_log_prob(self, b: Builder, network: Network, cond: Operands, null: Operands | None, tokens: Var) -> Var:
        tokens = in_reading_order(b, network, tokens)
        batch, length = tokens.shape[0], int(tokens.shape[1])
        seen = b.slice(tokens, axis=1, start=0, stop=length - 1, out="seen")
        if null is None or self.guidance is None or self.guidance.scale == 1.0:
            logits = call(b, network, "forward", cond, state=seen, out="logits")
        else:
            doubled = {name: b.concat(x, null[name], axis=0) for name, x in cond.items()}
            both = call(b, network, "forward", doubled, state=b.concat(seen, seen, axis=0), out="both")
            given, without = b.split(both, axis=0, sizes=(batch, batch), out="given without")
            scales = (1 + (self.guidance.scale - 1) * self.strengths(length)).astype(np.float32)
            constant = bool((scales == scales[0]).all())
            scale = float(scales[0]) if constant else b.constant(scales[:, None], out="scale")
            logits = b.add(without, b.op("sub", given, without) * scale, out="logits")
        if self.temperature != 1.0:
            logits = b.op("mul", logits, 1 / self.temperature, out="logits")
        index = b.reshape(tokens, shape=(*tokens.shape, 1))
        own = b.take_along(b.log_softmax(logits, axis=2), index, axis=2, out="own")
        return b.reshape(own, shape=tokens.shape, out="log_p")

    def strengths(self, length: int) -> NDArray[np.float64]:
        """f64[T]: the fraction of scale - 1 with which each of `length` tokens is guided."""
        return (np.arange(length) < self.guided_tokens(length)).astype(np.float64)

    def scale_of(self, b: Builder, scale: Var | None, position: Var | int, length: int) -> Var | None:
        """The guidance scale f32[B] of the token at `position` of `length`, one of those that are guided."""
        return scale

    def guided_tokens(self, length: int) -> int:
        """How many of the first tokens are guided: token i is i / (length - 1) of the way."""
        if self.guidance is None:
            return length
        return sum(self.guidance.acts(i / max(length - 1, 1)) for i in range(length))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: y i64[B], scale f32[B] with guidance, u f32[T, B] unless greedy -> i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        length = int(network.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        entry = f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        scale, settings = asked_scale(b, self.guidance, sources)
        u = b.input("u", f32(length, B)) if self.temperature else None
        null = cond if scale is None else conditions.null(b, cond)
        names = " ".join(port.role if port.role == "cache" else "logits" for port in network.methods["prefill"].outputs)
        first_scale = self.scale_of(b, scale, 0, length)
        logits, *caches = guided_call(b, network, "prefill", cond, null, first_scale, out=names)
        came = self._came(b, network, cond, logits, length, spec)
        first = b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B,), out="u_0") if u else None
        token, *came = self._picked(b, logits, came, first)
        tokens = [b.reshape(token, shape=(B, 1), out="tokens")]
        # Guidance applies to the first tokens; after those, the unconditional half of the caches is dropped.
        guided = self.guided_tokens(length)
        for start, stop in ((1, guided), (guided, length)):
            if start >= stop:
                continue
            if start == guided and scale is not None:
                caches = [b.split(c, axis=0, sizes=(B, B), out="cache other")[0] for c in caches]
                scale = None
            rows = [b.slice(u, axis=0, start=start, stop=stop, out="u_rest")] if u else []
            shown = _shown(network, cond, cond if scale is None else null)
            body = partial(self._step, network, length, start, tuple(shown), len(came))
            invariants = [*shown.values(), *([scale] if scale is not None else [])]
            carried = [token, *came, *caches]
            outs = b.loop(f"{entry}.decode", stop - start, body, invariants=invariants, carried=carried, tables=rows)
            token, *rest = outs[:-1]
            came, caches = rest[: len(came)], rest[len(came) :]
            tokens.append(b.transpose(outs[-1], perm=(1, 0), out="tokens"))
        drawn = b.concat(*tokens, axis=1, out="tokens") if len(tokens) > 1 else tokens[0]
        b.output(row_by_row(b, network, drawn))
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens one after the other.")
        if u:
            sources["u"] = RandomSource("uniform", "token", length)
        return Program(entry, self.kind, length, length, sources, settings)

    def _step(
        self,
        network: Network,
        length: int,
        start: int,
        shown: tuple[str, ...],
        history: int,
        b: Builder,
        i: Var,
        kept: tuple[Var, ...],
        state: tuple[Var, ...],
        rows: tuple[Var, ...],
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        """One token: (token, history, caches) -> (next token, history with it, grown caches), and the token to keep."""
        token, *rest = state
        came, caches = rest[:history], rest[history:]
        position = b.op("add", i, start, out="position")
        names = " ".join(["logits", *["cache"] * len(caches)])
        operands: dict[str, Any] = {"token": token, "position": position, "cache": caches}
        cond = dict(zip(shown, kept, strict=False))
        null = {name: cond.get(f"null_{name}", x) for name, x in cond.items()}
        scale = self.scale_of(b, kept[-1] if len(kept) > len(shown) else None, position, length)
        logits, *caches = guided_call(b, network, "decode", cond, null, scale, out=names, **operands)
        token, *came = self._picked(b, logits, came, rows[0] if rows else None)
        return (token, *came, *caches), (token,)

    def _came(
        self, b: Builder, network: Network, cond: Operands, logits: Var, length: int, spec: Spec
    ) -> Sequence[Var]:
        """The history of the texts that the network goes on from, with places for `length` tokens; none is kept
        without a penalty."""
        if self.repetition_penalty == 1:
            return ()
        texts = []
        for name in (port.name for port in network.methods["prefill"].inputs if self.penalize_prompt):
            x = cond.get(name)
            model = spec.networks[network.name]
            rows = rows_of(model.class_tokens if isinstance(model, LanguageModel) else None)
            if x is not None and f"{name}_mask" in cond and x.type.dtype == "i64":
                texts.append((x, cond[f"{name}_mask"]))
            elif x is not None and name == "y" and rows is not None:
                code, counts = named(b, rows, x)
                counts = b.full(code, shape=code.shape[1:], value=1.0, dtype="f32") if counts is None else counts
                texts.append((code, b.greater(counts, 0.5, out="code_mask")))
        history = History.of(b, logits, joined(b, texts) if texts else None, length)
        return history.came, history.last

    def _picked(self, b: Builder, logits: Var, came: Sequence[Var], u: Var | None) -> list[Var]:
        """The next token i64[B], and the history with it."""
        if not came:
            return [self.pick(b, logits, u)]
        history = History(*came)
        token = self.pick(b, history.penalised(b, logits, self.repetition_penalty, self.penalty_scale), u)
        history = history.with_token(b, token)
        return [token, history.came, history.last]


def _shown(network: Network, cond: Operands, null: Operands) -> dict[str, Var]:
    """Operands of the conditions in decoding steps by port name; with the prefix `null_` if the null value differs."""
    names = [port.name for port in network.methods["decode"].inputs_of("condition")]
    differing = {f"null_{name}": null[name] for name in names if null[name] is not cond[name]}
    return {name: cond[name] for name in names} | differing
