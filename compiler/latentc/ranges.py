"""Numbers on the command line: `50,250`, `0-9`, `all`."""

from __future__ import annotations

from latentc.diagnostics import Diagnostic, DiagnosticError


def numbers_from_text(text: str) -> list[int]:
    """Positive integers separated by commas, "50,250"; [] for an empty text. DiagnosticError E0701."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(_whole(part) and int(part) > 0 for part in parts):
        raise DiagnosticError(
            Diagnostic("E0701", f"`{text}` is not a list of positive integers", help="write `50` or `50,250`")
        )
    return [int(part) for part in parts]


def classes_from_text(text: str, known: int) -> list[int]:
    """Classes `3`, `0-9`, `1,4,7-9` or `all`, out of `known` classes numbered from 0. DiagnosticError E0704."""
    found: list[int] = []
    last = known - 1
    for part in (f"0-{last}" if text.strip() == "all" else text).split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        numbers = [low, high] if dash else [low]
        if not all(map(_whole, numbers)):
            message = f"`{part.strip()}` is neither a class nor a range of classes"
            raise DiagnosticError(Diagnostic("E0704", message, help="write `3`, `0-9`, `1,4,7-9` or `all`"))
        first, final = int(numbers[0]), int(numbers[-1])
        if final > last or final < first:
            message = f"class {final} is out of range" if final > last else f"the range `{part.strip()}` is empty"
            raise DiagnosticError(Diagnostic("E0704", message, help=f"classes are 0 to {last}"))
        found += range(first, final + 1)
    return found


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
