"""AdaLN-Zero with a gate per branch of the mixer.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.decoding import Given
from latentc.components.parts import BlockParts, Mix, Mixer, Refusal
from latentc.ir.builder import Builder, Var
from latentc.systems.iwin.interleaved_windows import InterleavedWindows


class GatedBranches(AdalnZero):
    """AdaLN whose gates start at one, with separate gates of windows and convolution (FlashDiT, Huo and Li 2025)."""

    kind: Literal["gated_branches"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gated_branches"}

    def modulations(self, mixer: Mixer) -> tuple[str, ...]:
        return (*super().modulations(mixer), "gate_branch")

    def gate(self, value: Var) -> Var:
        return value + 1.0

    def mixed(
        self, b: Builder, h: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Iterator[tuple[str, Var]]:
        mixer = parts.mixer
        if not isinstance(mixer, InterleavedWindows) or mixer.mixer.further(given):
            message = f"`{self.kind}` gates windows and convolution, but a `{mixer.kind}` has one branch"
            raise Refusal(
                message, "use the mixer `interleaved_windows`, or the condition `{kind: adaln_zero}`", part=self
            )
        branches = mixer.branches(b, "attn", h, parts.init, given, dim=dim, **mixer.own(dim, static))
        # A window that covers all tokens has no convolution, whose gate then is not used.
        yield from zip(("gate_msa", "gate_branch"), branches, strict=False)
