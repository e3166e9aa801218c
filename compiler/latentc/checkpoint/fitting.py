"""Suggestions for weights that do not fit: the name map or variant of the spec that they do fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.load import variant_names
from latentc.spec.schema import Spec
from latentc.weights import Expr
from latentc.weights.state_dicts import Reading

Fitted = Callable[[Spec, Lowered, str, Mapping[str, Expr], str | None], Any]
_MOST_SHOWN = 3


def with_suggestion(
    error: DiagnosticError, spec: Spec, network: str, names: str | None, readings: Sequence[Reading], fitted: Fitted
) -> DiagnosticError:
    """`error` with help: the command-line options under which one of the readings fits the network, if there are any.

    `fitted` returns the network's tensors from those of a reading, or raises DiagnosticError.
    """
    found = list(_options(spec, network, names, readings, fitted))
    if not found:
        return error
    other = f", or with {' or '.join(found[1:_MOST_SHOWN])}" if found[1:] else ""
    more = f" ({len(found)} possibilities in all)" if len(found) > _MOST_SHOWN else ""
    help = f"the file fits with {found[0]}{other}{more}"
    return DiagnosticError(*(replace(diagnostic, help=help) for diagnostic in error.diagnostics))


def _options(spec: Spec, network: str, names: str | None, readings: Sequence[Reading], fitted: Fitted) -> Iterator[str]:
    """Command-line options that fit; those for other variants only if none fits for the chosen one."""
    if spec._origin is None:
        return
    source, variant, overrides = spec._origin
    kept = False
    for other in (variant, *(name for name in (None, *variant_names(source)) if name != variant)):
        if kept:
            return
        try:
            changed = load_spec(source, other, overrides)
            lowered = lower(changed)
        except DiagnosticError:
            continue
        for map_name in (names, *(name for name in (None, *changed.weights) if name != names)):
            if (other, map_name) == (variant, names) or network not in lowered.networks:
                continue
            for reading in readings:
                try:
                    fitted(changed, lowered, network, reading.tensors, map_name)
                except DiagnosticError:
                    continue
                options = [f"--variant {other}"] if other is not None and other != variant else []
                options += [f"--names {map_name}"] if map_name is not None else []
                missing = [] if other is not None or variant is None else ["without --variant"]
                missing += [] if map_name is not None or names is None else ["without --names"]
                yield " ".join(options + missing)
                kept = kept or other == variant
                break
