"""Class names that a spec gives as a text file with one name per line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.diagnostics import DiagnosticError, Span
from latentc.spec.yaml import HIDDEN

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

MOST_BYTES = 1 << 24


def with_class_names(spec: Spec) -> Spec:
    """The spec with names in place of the files that hold them. DiagnosticError E0101, E0111, E0401, E0402, E0209."""
    data = spec.data
    changes: dict[str, Any] = {}
    if isinstance(data.class_names, str):
        changes["class_names"] = _names_at(spec, data.class_names, ("data", "class_names"))
    fields = {
        name: field.model_copy(
            update={"class_names": _names_at(spec, field.class_names, ("data", "fields", name, "class_names"))}
        )
        for name, field in data.fields_.items()
        if isinstance(field.class_names, str)
    }
    if fields:
        changes["fields_"] = {**data.fields_, **fields}
    if "y" in fields and data.class_names == data.fields_["y"].class_names:  # filled in from there
        changes["class_names"] = fields["y"].class_names
    return spec.model_copy(update={"data": data.model_copy(update=changes)}) if changes else spec


def _names_at(spec: Spec, file: str, place: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the file that the value at `place` names; relative to the spec that says so."""
    span = spec.span(*place)
    return names_from_file(Path(span.file).parent / file if span else Path(file), span)


def names_from_file(path: Path, span: Span | None = None) -> tuple[str, ...]:
    """The lines of a text file in UTF-8. DiagnosticError E0101, E0111, E0209, E0401, E0402."""
    try:
        if not path.is_file():
            code, what = ("E0402", "is not a file") if path.exists() else ("E0401", "was not found")
            raise DiagnosticError.of(code, f"`{path}` {what}", span, help="give a text file with one name per line")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DiagnosticError.of("E0402", f"`{path}` is larger than {MOST_BYTES >> 20} MiB", span)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        code = "E0101" if isinstance(error, UnicodeDecodeError) else "E0402"
        raise DiagnosticError.of(code, f"`{path}` cannot be read: {error}", span, help="save it as UTF-8") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    for number, line in enumerate(lines, 1):
        if (found := HIDDEN.search(line)) is not None:
            message = f"line {number} of `{path}` holds a character that is not shown: U+{ord(found.group()):04X}"
            raise DiagnosticError.of("E0111", message, span, help="leave it out")
        if not line:
            message = f"line {number} of `{path}` is empty"
            raise DiagnosticError.of("E0209", message, span, help="give one name per line, in the order of the classes")
    return tuple(lines)
