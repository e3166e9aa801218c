"""What the verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from latentc.components.contract import Lowered
    from latentc.spec import Spec

Source = str | Path
Backend = Literal["oracle", "torch", "onnx", "openvino"]


def lowered_spec(
    source: Source, variant: str | None, overrides: Sequence[str], steps: Sequence[int] = ()
) -> tuple[Spec, Lowered]:
    """The spec, read and checked, and what it lowers to, for these step counts. DiagnosticError."""
    from latentc.lower import lower
    from latentc.spec import load_spec

    spec = load_spec(source, variant, overrides)
    return spec, lower(spec, steps)
