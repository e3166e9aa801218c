"""The verbs of latentc as functions: what the command line does, without the printing.

A spec is named as everywhere: a path, a shipped spec's name, or `-` for standard input; `variant` is one of its
variants and `overrides` are texts as `--set` takes them. All raise DiagnosticError for what a caller can mend.
Heavy packages are imported by the functions that need them, so that `check` does not wait for an engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc import resources
from latentc.diagnostics import CODES, Diagnostic, DiagnosticError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc.components.contract import Lowered
    from latentc.spec import Spec

Source = str | Path
Backend = Literal["oracle", "torch", "onnx"]


# ---- specs


def specs() -> dict[str, tuple[str, ...]]:
    """The specs that ship with latentc, each with the names of its variants."""
    from latentc.spec import variant_names

    return {name: variant_names(name) for name in resources.shipped_specs()}


def check(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> Spec:
    """The spec, read, resolved, checked and lowered once; DiagnosticError with everything that is wrong with it."""
    return _lowered(source, variant, overrides)[0]


def resolved(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The spec as YAML with every default written out."""
    from latentc.spec import resolved_yaml

    return resolved_yaml(check(source, variant, overrides))


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, for editors and validators."""
    from latentc.spec import json_schema

    return json_schema()


def ir(source: Source, variant: str | None = None, overrides: Sequence[str] = (), full: bool = False) -> str:
    """The lowered spec in the IR's text form; with `full` large constants are written out, so that it parses back."""
    from latentc.ir.text import text_from_module

    return text_from_module(_lowered(source, variant, overrides)[1].module, full)


def explain(code: str) -> str:
    """The page of a diagnostic's code (`E0204`), in Markdown. DiagnosticError E0707."""
    page = resources.explain_page(code.upper())
    if page is None:
        close = nearest(code.upper(), CODES)
        mend = f"did you mean {close}?" if close else "codes stand in brackets: error[E0204]"
        raise DiagnosticError(Diagnostic("E0707", f"there is no code `{code}`", help=mend))
    return page


# ---- networks


def forward(
    source: Source,
    weights: Path | str,
    inputs: Mapping[str, ArrayLike],
    backend: Backend = "oracle",
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
) -> np.ndarray:
    """One run of the spec's main network on `inputs`, arrays by the names of its inputs (`x`, `t`, `y`).

    `backend`: "oracle" (numpy, f64), "torch" (the emitted model) or "onnx" (ONNX Runtime), both f32. `names` is a name
    map of the spec (`official`), `key` picks one state dict of a checkpoint (`ema`).
    """
    from latentc.checkpoint import network_weights
    from latentc.measure.forward import run_network

    spec, lowered = _lowered(source, variant, overrides)
    main = "main" if "main" in lowered.networks else next(iter(lowered.networks))
    tensors = network_weights(spec, lowered, weights, names, key)[main]
    return run_network(lowered, tensors, inputs, backend, main)


def forward_file(source: Source, weights: Path | str, inputs: Path | str, output: Path | str, *args: Any) -> None:
    """`forward` from an .npz file to an .npz file with the array `out`; further arguments as `forward` takes them."""
    from latentc.files import read_arrays, write_arrays

    write_arrays(output, {"out": forward(source, weights, read_arrays(inputs), *args)})


def convert_weights(
    source: Source,
    weights: Path | str,
    to: Path | str,
    names: str | None = None,
    to_names: str | None = None,
    key: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Write a checkpoint as one safetensors file under other names; returns the number of tensors.

    `names` is the name map the file follows, `to_names` the one to write by; None is latentc's own names, which the
    emitted project loads.
    """
    from latentc.checkpoint import network_weights, write_weights

    spec, lowered = _lowered(source, variant, overrides)
    tensors = network_weights(spec, lowered, weights, names, key)
    return write_weights(spec, lowered, tensors, to, to_names, {"format": "pt", "spec": spec.name})


# ---- helpers of the command line that scripts may want as well


def classes_from_text(text: str, known: int) -> list[int]:
    """Classes as the command line writes them: `3`, `0-9`, `1,4,7-9` or `all`, of `known`. DiagnosticError E0704."""
    found: list[int] = []
    last = known - 1
    for part in (f"0-{last}" if text.strip() == "all" else text).split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        numbers = [low, high] if dash else [low]
        if not all(n.isascii() and n.isdigit() and len(n) < 10 for n in numbers):
            message = f"`{part.strip()}` is neither a class nor a range of classes"
            raise DiagnosticError(Diagnostic("E0704", message, help="write `3`, `0-9`, `1,4,7-9` or `all`"))
        first, final = int(numbers[0]), int(numbers[-1])
        if final < first or final > last:
            message = f"there is no class {final}" if final > last else f"the range `{part.strip()}` is empty"
            raise DiagnosticError(Diagnostic("E0704", message, help=f"classes are 0 to {last}"))
        found += range(first, final + 1)
    return found


def data_from_diagnostics(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """Diagnostics as plain data, for JSON."""
    return [dataclasses.asdict(diagnostic) for diagnostic in diagnostics]


def internal_error(error: BaseException, debug: bool = False) -> Diagnostic:
    """What to tell a user of a fault of latentc."""
    first, *rest = f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()
    mend = "please report it with the spec, the command and this message"
    notes = ("\n".join(rest[:12]),) if rest else ()
    return Diagnostic("E0901", first, notes=notes, help=mend if debug else f"{mend}; `--debug` shows the traceback")


def _lowered(
    source: Source, variant: str | None, overrides: Sequence[str], steps: Sequence[int] = ()
) -> tuple[Spec, Lowered]:
    from latentc.lower import lower
    from latentc.spec import load_spec

    spec = load_spec(source, variant, overrides)
    return spec, lower(spec, steps)


__all__ = [
    "check",
    "classes_from_text",
    "convert_weights",
    "data_from_diagnostics",
    "explain",
    "forward",
    "forward_file",
    "internal_error",
    "ir",
    "resolved",
    "schema",
    "specs",
]
