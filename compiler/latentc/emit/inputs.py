"""The functions of `sampler.py` that compute the inputs of programs from a request: conditions, settings and noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latentc.emit.text import Text, call, commas, identifier, layout, literal
from latentc_runtime.sources import ConditionSource, Input, RandomSource

_NOISE = {"normal": "normals", "uniform": "uniforms", "integers": "integers"}
"""{distribution: function of noise.py}; the others have functions of their names in rare_distributions.py."""


def inputs_function(program: str, inputs: Sequence[Input], settable: bool) -> str:
    """The text of `PROGRAM_inputs`, which takes the rows of per-step inputs if a schedule decides them (`settable`).

    Normals of each step are the number of rows and a function of the row's index, so that one row after another can be
    drawn; inputs of other distributions are arrays of all rows.
    """
    counts = {entry.rows for entry in inputs if entry.rows is not None}
    rows = "rows" if settable and len(counts) == 1 else ""
    arguments = ["given: Given", *([f"rows: int = {counts.pop()}"] if rows else [])]
    parts = [f"{literal(identifier(entry.name)).code}: {_value(entry, rows)}" for entry in inputs]
    lines = [
        *layout("", f"def {program}_inputs({commas(arguments)}) -> dict[str, Any]:"),
        f'    """The inputs of {program}."""',
        *layout("    ", f"return {{{commas(parts)}}}"),
    ]
    return "\n".join(lines) + "\n"


def draw_imports(inputs: Iterable[Input]) -> dict[str, set[str]]:
    """{module: functions} that the functions of these inputs call."""
    found: dict[str, set[str]] = {}
    for entry in inputs:
        if isinstance(entry.source, RandomSource):
            module, function = _drawing(entry.source)
            found.setdefault(module, set()).add(function)
    return found


def _drawing(source: RandomSource) -> tuple[str, str]:
    """(module, function) that draws from a source."""
    own = _NOISE.get(source.distribution)
    return ("noise", own) if own else ("rare_distributions", source.distribution)


def _value(entry: Input, rows: str) -> str:
    source = entry.source
    if isinstance(source, ConditionSource):
        group = "conditions" if source.part == "value" else "masks"
        return f"given.{group}[{literal(source.condition).code}]"
    if not isinstance(source, RandomSource):
        return f"given.settings[{literal(source.setting).code}]"
    words = {name: literal(value) for name, value in source.parameters.items()}
    words |= {name: Text(f"given.settings[{literal(setting).code}]") for name, setting in source.settings.items()}
    count = rows or str(source.rows)
    by_row = source.distribution == "normal" and source.rows is not None
    index = "row" if by_row else "0" if source.rows is None else f"range({count})"
    module, function = _drawing(source)
    place = [] if index == "0" and module == "noise" and not words else [index]
    drawn = call(function, ["given.seeds", literal(source.stream), literal(entry.sample_shape), *place], **words).code
    return f"({count}, lambda row: {drawn})" if by_row else drawn
