"""Masked diffusion of blocks of tokens, given the blocks before them.

Symbols: B batch, T tokens of a sample, S tokens of a block, K = T / S blocks, R rounds of draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network
from latentc.components.kit import Operands, call
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, Named, TensorType
from latentc.systems.mdlm.masked_diffusion_tokens import MaskedDiffusionLoss


class BlockDiffusionLoss(MaskedDiffusionLoss):
    """Cross-entropy of the masked tokens of each block over its time, given the clean blocks before it (Arriola et al.
    2025, arXiv:2503.09573): an upper bound of the negative log-likelihood in nats per token.

    Each block has its own time t, uniform in [`least`, `greatest`]; its tokens are masked with probability t. Blocks
    whose masked share leaves that interval are drawn again.
    """

    kind: Literal["block_diffusion_tokens"]  # type: ignore[assignment]
    block: int = Field(4, gt=0, le=1_048_576, description="tokens of a block (S), a divisor of those of a sample")
    most: Literal[1] = Field(1, description="probability that a token is masked at time 1")  # type: ignore[assignment]
    greatest: Fraction = Field(1.0, description="greatest time; below 1, the loss has less variance but is no bound")
    rounds: int = Field(
        1,
        gt=0,
        le=64,
        description="rounds of draws (R): a block takes the first whose masked share is in the interval, or the last",
    )
    keeps_first: bool = Field(False, description="the first token of a sample is never masked: it begins every text")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "block_diffusion_tokens", "block": 2}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "unmask_blocks", asks={"block": self.block}),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        tokens = spec.data.tokens
        if tokens is not None and tokens.length % self.block:
            message = f"blocks of {self.block} do not divide {tokens.length} tokens"
            yield Problem(("block",), message, "use a divisor")
        if self.greatest <= self.least:
            yield Problem(("greatest",), f"`greatest` ({self.greatest}) is not above `least` ({self.least})")

    def draws(self, length: int) -> dict[str, tuple[TensorType, Draw]]:
        count = length // self.block
        rounds = () if self.rounds == 1 else (self.rounds,)
        return {
            "u": (f32(B, Named(count, "K")), Draw("u", "uniform")),
            "v": (f32(B, *rounds, Named(length, "T")), Draw("v", "uniform")),
        }

    def masked(self, b: Builder, drawn: Mapping[str, Var]) -> tuple[Var, Var]:
        u, v = drawn["u"], drawn["v"]
        count = u.shape[1]
        length = v.shape[-1]
        size = length // count
        every = B * count
        spread = self.spread(b, b.reshape(u, shape=(every,), out="u"))
        t = b.add(spread * (self.greatest - self.least), self.least, out="t")
        t = b.reshape(t, shape=(B, 1, count, 1), out="t")
        rounds = self.rounds
        chosen = b.less(b.reshape(v, shape=(B, rounds, count, size)), t, out="chosen")
        if rounds > 1:
            chosen = self._within(b, chosen, rounds)
        masked = b.reshape(chosen, shape=(B, length), out="masked")
        times = b.reshape(
            b.broadcast_to(b.reshape(t, shape=(B, count, 1)), masked, shape=(B, count, size)),
            shape=(B, length),
            out="t",
        )
        if self.keeps_first:
            later = b.reshape(b.greater(b.arange(length), 0), shape=(1, length), out="later")
            masked = b.logical_and(masked, later, out="masked")
        return masked, times

    def _within(self, b: Builder, chosen: Var, rounds: int) -> Var:
        """bool[B, K, S]: of bool[B, R, K, S] the first round in which the masked share is in the interval."""
        share = b.mean(b.cast(chosen, to="f32"), axes=(3,), keepdims=False, out="share")
        outside = b.logical_or(b.less(share, self.least), b.greater(share, self.greatest), out="outside")
        # The number of rounds up to each that are all outside: that of the first inside, R if there is none.
        tried = b.cast(outside, to="f32")
        failed = [b.slice(tried, axis=1, start=0, stop=1, out="failed")]
        for i in range(1, rounds - 1):
            failed.append(b.mul(failed[-1], b.slice(tried, axis=1, start=i, stop=i + 1), out="failed"))
        first = failed[0] if len(failed) == 1 else b.concat(*failed, axis=1, out="failed")
        first = b.cast(b.sum(first, axes=(1,), keepdims=True), to="i64", out="first")
        index = b.reshape(first, shape=(*first.shape, 1))
        index = b.broadcast_to(index, chosen, shape=(B, 1, chosen.shape[2], chosen.shape[3]), out="index")
        taken = b.take_along(b.cast(chosen, to="i64"), index, axis=1, out="taken")
        return b.greater(taken, 0, out="chosen")

    def evaluated(self, b: Builder, network: Network, cond: Operands, seen: Var, tokens: Var, t: Var) -> Var:
        logits: Var = call(b, network, "train_forward", cond, state=seen, token=tokens, out="logits")
        return logits
