"""Consistency distillation of clips of any length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network
from latentc.ir.builder import Builder, Var
from latentc.systems.consistency.consistency_distillation import ConsistencyDistillation
from latentc.systems.llia.clip_length import within_clip


class ClipConsistency(ConsistencyDistillation):
    """Consistency distillation of video in which frames after the clip (condition `length`) count as equal."""

    kind: Literal["clip_consistency"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "clip_consistency", "steps": 8}

    def compared(self, b: Builder, networks: Mapping[str, Network], f: Var, wanted: Var) -> Var:
        return super().compared(b, networks, within_clip(b, f, wanted), wanted)
