"""The time and trained Fourier features of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.conditions.fourier import Fourier
from latentc.ir.builder import Builder, Var


class LearnedFourier(Fourier):
    """t, and cosines and sines of it at frequencies that are trained, starting from random ones."""

    kind: Literal["learned_fourier"]  # type: ignore[assignment]
    DRAWN: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "learned_fourier"}

    def count(self, frequencies: Any) -> Any:
        return frequencies + 1

    def features(self, b: Builder, t: Var, **static: Any) -> Var:
        waves = super().features(b, t, **static)
        return b.concat(b.reshape(t, shape=(t.shape[0], 1)), waves, axis=1, out="x")
