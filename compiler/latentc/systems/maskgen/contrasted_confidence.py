"""MaskGen's sampler: TiTok's with more guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from latentc.components.guidance.guidance import scale_at
from latentc.components.samplers._masked import Run
from latentc.ir.builder import Builder, Var
from latentc.systems.titok.annealed_confidence import AnnealedConfidence


class ContrastedConfidence(AnnealedConfidence):
    """An annealed_confidence whose guided logits are c + s (c - u) of those with and without the condition, c and u,
    at the scale s of the step: guidance that others call 1 + s (MaskGen, Kim et al. 2025, arXiv:2501.07730).

    The progress of the guidance in step i of N is (i + 1) / N.
    """

    kind: Literal["contrasted_confidence"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "contrasted_confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def guided_progress(self) -> np.ndarray:
        return self._progress()

    def step(self, b: Builder, run: Run, tokens: Var) -> Var:
        fixed, tables = dict(run.fixed), dict(run.tables)
        if "scale" in fixed:
            weight = tables.pop("weight", None)
            scale = fixed["scale"] if weight is None else scale_at(b, fixed["scale"], weight)
            fixed["scale"] = b.add(scale, 1.0, out="scale")
        return super().step(b, replace(run, fixed=fixed, tables=tables), tokens)
