"""Bytes of a file or of standard input → the text of a spec."""

from __future__ import annotations

from pathlib import Path

from latentc.diagnostics import DiagnosticError, Span, add_source

MAX_BYTES = 1 << 20


def read_text(path: Path, file: str | None = None) -> str:
    """The text of a spec file; DiagnosticError if it is missing, unreadable, too large or not UTF-8."""
    file = file or str(path)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "was not found" if not path.exists() else "is not a regular file"
            code = "E0402" if path.exists() else "E0401"
            mend = "give the path of a YAML file"
            if (path / "manifest.json").is_file():
                mend = f"it is a bundle: its spec is `{file.rstrip('/')}/spec.yaml`"
            raise DiagnosticError.of(code, f"`{file}` {what}", help=mend)
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DiagnosticError.of("E0402", f"`{file}` cannot be read: {reason}") from None
    return text_from_bytes(content, file)


def text_from_bytes(content: bytes, file: str) -> str:
    """The text of a spec read from `file`; DiagnosticError if it is too large or not UTF-8."""
    if len(content) > MAX_BYTES:
        message = f"`{file}` is larger than the {MAX_BYTES >> 10} KiB a spec may have"
        raise DiagnosticError.of("E0105", message, help="give the path of a spec")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        add_source(file, content.decode("utf-8", errors="replace"))
        span = Span(file, line, column, line, column + 1)
        message = f"byte 0x{content[error.start]:02x} is not valid UTF-8"
        raise DiagnosticError.of("E0101", message, span, help="save the file as UTF-8") from None
