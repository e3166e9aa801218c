"""Lists on the command line: numbers (`50,250`) and classes (`0-9,tabby`, `all`)."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.diagnostics import DiagnosticError

DIGITS = 9
"""Most digits of a number in a list."""


def numbers_from_text(text: str) -> list[int]:
    """Positive integers separated by commas, "50,250"; [] for an empty text. DiagnosticError E0701."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not (part.isascii() and part.isdigit() and part.strip("0")):
            message = f"`{text}` is not a list of positive integers"
            raise DiagnosticError.of("E0701", message, help="write `50` or `50,250`")
        if len(part) > DIGITS:
            message = f"{part} is too large: numbers have at most {DIGITS} digits here"
            raise DiagnosticError.of("E0701", message, help="write a smaller one")
        if parts.count(part) > 1:
            raise DiagnosticError.of("E0701", f"`{text}` lists {part} twice", help="list each number once")
    return [int(part) for part in parts]


def classes_from_text(text: str, known: int, names: Sequence[str] = ()) -> list[int]:
    """Classes that a text lists, out of `known` numbered from 0, as in `latentc_runtime.class_names`.

    DiagnosticError E0704.
    """
    from latentc_runtime.class_names import classes_from_text as listed
    from latentc_runtime.sources import RequestError

    try:
        return listed(text, known, names)
    except RequestError as error:
        raise DiagnosticError.of("E0704", error.message, help=error.help) from None
