"""Blocks of tokens from left to right, in each the most confident tokens first.

Symbols: B batch, T tokens of a sample, V vocabulary, N steps, S tokens of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.guidance.guidance import scale_at
from latentc.components.kit import call
from latentc.components.kit.tokens import draw, filtered, rank
from latentc.components.parts import Problem, Spec
from latentc.components.samplers._masked import MaskedSampler, Run, Values, drawable, mask_of
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource

NEVER = -1e30  # confidence of tokens that must not be chosen


class SemiAutoregressive(MaskedSampler):
    """Fills blocks of S tokens from left to right; every step keeps an equal number of the block's tokens, those with
    the highest probability, and masks the others again (LLaDA, Nie et al. 2025, arXiv:2502.09992).

    Program `inpaint` goes on from a prompt: tokens in front that a request gives. Its guidance also masks them in the
    prediction without conditions.
    """

    kind: Literal["semi_autoregressive"]
    steps: int = Field(128, gt=0, le=100_000, description="evaluations of the network, a multiple of the blocks")
    schedule: Literal["linear"] = Field("linear", description="every step of a block keeps as many tokens")
    block: int | None = Field(None, gt=0, le=1_048_576, description="tokens of a block (S); null: all")
    prompt: int = Field(
        0, ge=0, le=1_048_576, description="number of tokens in front that prompts have, after which blocks begin"
    )
    temperature: float = Field(0.0, ge=0, le=100, description="temperature of the logits; 0: the likeliest tokens")
    remasking: Literal["low_confidence", "random"] = Field(
        "low_confidence", description="tokens that are masked again: the least probable ones, or random ones"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "semi_autoregressive", "steps": 4, "temperature": 0.5}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if spec.data.tokens is None:
            return
        length = spec.data.tokens.length - self.prompt
        if length <= 0:
            message = f"a prompt of {self.prompt} tokens leaves none of {spec.data.tokens.length} to draw"
            yield Problem(("prompt",), message, "use fewer")
        elif length % (size := self.block or length):
            message = f"blocks of {size} do not divide the {length} tokens after the prompt"
            yield Problem(("block",), message, "use a divisor")
        elif self.steps % (blocks := length // size):
            message = f"{self.steps} steps are not the same number for each of {blocks} blocks"
            yield Problem(("steps",), message, f"use a multiple of {blocks}")

    def _blocks(self, length: int) -> tuple[int, int]:
        """(S, number of blocks) of samples of `length` tokens."""
        size = self.block or length - self.prompt
        return size, (length - self.prompt) // size

    def guided_progress(self) -> np.ndarray:
        return np.arange(self.steps) / self.steps

    def counts(self, length: int) -> np.ndarray:
        """Number of each step in its block."""
        return np.arange(self.steps) % (self.steps // self._blocks(length)[1])

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        return {"block": np.arange(self.steps) // (self.steps // self._blocks(length)[1])}

    def sharpness_of_steps(self) -> np.ndarray:
        return np.full(self.steps, 1 / (self.temperature or 1.0))

    def draws(self, length: int) -> dict[str, RandomSource]:
        return {} if self.remasking == "low_confidence" else {"r": RandomSource("uniform", "confidence", self.steps)}

    def step(self, b: Builder, run: Run, tokens: Var) -> Var:
        at = {**run.fixed, **run.tables}
        predicted = drawable(b, run.network, self._evaluated(b, run, at, tokens))
        logits = b.mul(predicted, at["sharpness"], out="logits") if "sharpness" in at else predicted
        if self.temperature:
            drawn = draw(b, filtered(b, logits, self.top_k, 1.0), at["u"], out="drawn")
        else:
            drawn = b.argmax(logits, axis=2, out="drawn")
        chosen = self.choose(b, mask_of(run.network), tokens, drawn, logits, predicted, at)
        return b.where(chosen, drawn, tokens, out="tokens")

    def _evaluated(self, b: Builder, run: Run, at: Values, tokens: Var) -> Var:
        """All logits; with guidance, those without conditions are of a text without its prompt."""
        if "kept" not in at or "scale" not in at:
            return run.evaluated(b, "forward", at, state=tokens)[0]
        unknown = b.where(at["kept"], b.scalar(mask_of(run.network), tokens), tokens, out="unknown")
        null = {**run.operands, **run.conditions.null(b, run.operands)}
        cond = call(b, run.network, "forward", run.operands, state=tokens, out="cond")
        free = call(b, run.network, "forward", null, state=unknown, out="free")
        scale = scale_at(b, at["scale"], at["weight"]) if "weight" in at else at["scale"]
        return b.add(free, b.reshape(scale, shape=(tokens.shape[0], 1, 1)) * (cond - free), out="logits")

    def choose(self, b: Builder, mask: int, tokens: Var, drawn: Var, logits: Var, predicted: Var, at: Values) -> Var:
        length = int(tokens.shape[1])
        size, blocks = self._blocks(length)
        place = b.maximum(b.div(b.maximum(b.arange(length) - self.prompt, 0), size), 0, out="place")
        inside = b.reshape(b.equal(place, at["block"]), shape=(1, length), out="inside")
        hidden = b.logical_and(b.equal(tokens, mask), inside, out="hidden")
        if self.remasking == "random":
            confidence = at["r"]
        else:
            index = b.reshape(drawn, shape=(*drawn.shape, 1))
            confidence = b.take_along(b.log_softmax(predicted, axis=2), index, axis=2)
            confidence = b.reshape(confidence, shape=drawn.shape, out="confidence")
        confidence = b.where(hidden, confidence, b.scalar(NEVER, confidence), out="confidence")
        first = b.less(rank(b, b.neg(confidence)), self._kept(b, inside, at, tokens, self.steps // blocks), out="first")
        return b.logical_and(hidden, first, out="chosen")

    @staticmethod
    def _kept(b: Builder, inside: Var, at: Values, tokens: Var, steps: int) -> Var:
        """i64[B, 1]: how many tokens the step keeps, the free ones of the block over its `steps`, the rest in front."""
        free = b.where(inside, b.add(tokens * 0, 1), b.scalar(0, tokens), out="free")
        if "kept" in at:
            free = b.where(at["kept"], b.scalar(0, tokens), free, out="free")
        count = b.sum(free, axes=(1,), keepdims=True, out="free_count")
        each = b.div(count, steps, out="each")
        more = b.less(b.add(each * 0, at["count"]), count - each * steps, out="more")
        return b.add(each, b.cast(more, to="i64"), out="keeps")
