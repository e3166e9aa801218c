"""The memory that a network carries from evaluation to evaluation, under guidance one per branch.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from latentc.components.contract import Network
from latentc.components.kit import Operands, call
from latentc.ir.builder import Builder, Var


def empty_memory(b: Builder, x: Var, network: Network) -> list[Var]:
    """The first memory of a network: zeros."""
    types = [port.type for port in network.methods["forward"].inputs_of("memory")]
    return [b.full(x, shape=type.shape[1:], value=0.0, dtype=type.dtype, out="memory") for type in types]


def per_branch(b: Builder, memory: list[Var], guided: bool, x: Var) -> list[Var]:
    """Memory [B, ...], or if the next evaluations are guided [2 B, ...], one per branch."""
    if not memory or guided == (memory[0].shape[0] != x.shape[0]):
        return memory
    return [twice(b, m) if guided else first_half(b, m) for m in memory]


@contextmanager
def branched(b: Builder, memory: list[Var], guided: bool, doubled: bool) -> Iterator[list[Var]]:
    """The part of `memory` that an evaluation takes; afterwards `memory` is what the evaluation left.

    An evaluation without guidance in a step that is guided elsewhere (`doubled`) has one memory for both branches.
    """
    apart = doubled and not guided
    own = [first_half(b, m) for m in memory] if apart else list(memory)
    yield own
    memory[:] = [twice(b, m) for m in own] if apart else own


class Branches:
    """The memory of the branch with conditions and of the one without, in an evaluation that calls each by itself.

    ValueError (of `call`): another network, another method, or conditions left out otherwise than in that branch.
    """

    def __init__(self, b: Builder, network: Network, memory: list[Var]) -> None:
        self.b, self.network = b, network
        half = memory[0].shape[0] // 2
        halves = [b.split(m, axis=0, sizes=(half, half), out="memory null_memory") for m in memory]
        self.known: dict[frozenset[str], list[Var]] = {}
        self.given = {which: [pair[which] for pair in halves] for which in (False, True)}

    def call(
        self,
        network: Network,
        method: str,
        operands: Operands,
        absent: frozenset[str],
        forgets: bool,
        out: str,
        by_role: Mapping[str, Any],
    ) -> tuple[Var, ...]:
        """The results of a call but the memory, which the branch keeps unless the call `forgets` it."""
        apart = [left_out for left_out in self.known if left_out and left_out != absent]
        if network is not self.network or method != "forward" or (absent and apart):
            raise ValueError(
                f"network {network.name} keeps a memory between steps, but this guidance needs a memory of its own"
            )
        memory = self.given[bool(absent)]
        if forgets:
            memory = [self.b.mul(m, 0.0, out="empty") for m in memory]
        output, *made = call(self.b, network, method, operands, memory=memory, out=out, **by_role)
        if not forgets:
            self.known[absent] = made
        return (output,)

    def left(self) -> list[Var]:
        """The memory [2 B, ...] after the evaluation; a branch without a call of its own has the other's."""
        own = self.known[frozenset()]
        null = next((made for absent, made in self.known.items() if absent), own)
        return [self.b.concat(m, n, axis=0, out="memory") for m, n in zip(own, null, strict=True)]


def twice(b: Builder, memory: Var) -> Var:
    """The same memory for both branches of guidance."""
    return b.concat(memory, memory, axis=0, out="memory")  # type: ignore[no-any-return]


def first_half(b: Builder, memory: Var) -> Var:
    """The memory of the branch with conditions."""
    half = memory.shape[0] // 2
    return b.split(memory, axis=0, sizes=(half, half), out="memory null_memory")[0]  # type: ignore[no-any-return]


def names(output: str, memory: list[Var] | None) -> str:
    """Names of the results of a call: the prediction, then the memory."""
    return " ".join([output, *["memory"] * len(memory or ())])


def remembered(made: Any, memory: list[Var] | None) -> Var:
    """The prediction among the results of a call; `memory` becomes the others."""
    if not memory:
        return made  # type: ignore[no-any-return]
    output, *memory[:] = made
    return output  # type: ignore[no-any-return]


__all__ = ["Branches", "branched", "empty_memory", "first_half", "names", "per_branch", "remembered", "twice"]
