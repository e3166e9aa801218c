"""Diagnostics: user errors as data, and their rendering next to the user's own lines.

Every error a user can cause is raised as a `DiagnosticError` with one or more `Diagnostic`s; only the command line
prints them. The layout follows rustc's: place, source line, carets, then notes and help.
"""

from __future__ import annotations

import difflib
import errno
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """A range of a source text: 1-based lines and columns in characters, end column exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True)
class Label:
    """A text shown under a span. A label on the diagnostic's own span is shown next to its carets."""

    span: Span
    text: str


@dataclass(frozen=True)
class Diagnostic:
    """One error: a code, a message, its place, further places, notes and a remedy.

    templates/explain/CODE.md explains the error, with an example and how to fix it.
    """

    code: str
    message: str
    span: Span | None = None
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None


class DiagnosticError(Exception):
    """One or more user errors; the command line renders them and exits with 1."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics

    @classmethod
    def of(
        cls,
        code: str,
        message: str,
        span: Span | None = None,
        labels: tuple[Label, ...] = (),
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> DiagnosticError:
        """The error of one diagnostic, with the fields of `Diagnostic`."""
        return cls(Diagnostic(code, message, span, labels, notes, help))

    def __str__(self) -> str:
        return render(self.diagnostics)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word`, or None where nothing is close; case is ignored."""
    by_folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.61)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str], otherwise: str) -> str:
    """The remedy for an unknown word: the choice most like it, or `otherwise`."""
    close = nearest(word, choices)
    return f"did you mean `{close}`?" if close else otherwise


# Texts that are not files: given by --set, on standard input or by a caller. The text of a parsed file is kept as well,
# so that the line shown is the line that was read even if the file has changed since.
_SOURCES: dict[str, str] = {}
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # the line breaks PyYAML counts


def add_source(file: str, text: str) -> None:
    """Remember the text of a span's `file`, so that `render` can show its lines."""
    _SOURCES[file] = text


def source_line(file: str, line: int) -> str | None:
    """Line `line` (1-based) of a remembered text or of a readable file, else None."""
    text = _SOURCES.get(file)
    if text is None:
        path = Path(file)
        try:
            if not path.is_file() or path.stat().st_size > 1 << 24:
                return None
            text = path.read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            return None
    lines = _LINE_BREAK.split(text.removeprefix("\ufeff"))
    return lines[line - 1] if 1 <= line <= len(lines) else None


def render(diagnostics: Sequence[Diagnostic], color: bool = False) -> str:
    """The text of the diagnostics, one after the other with a blank line between; ends with a line break.

    Control characters of the user's text are shown escaped, so that a spec cannot drive the terminal.
    """
    return "\n".join(_Renderer(color).diagnostic(diagnostic) for diagnostic in diagnostics)


_RED, _BLUE, _BOLD, _RESET = "\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"
_WIDEST = 120  # columns of a user's line that are shown


class _Renderer:
    def __init__(self, color: bool) -> None:
        self.color = color

    def paint(self, text: str, style: str) -> str:
        return f"{style}{text}{_RESET}" if self.color and text else text

    def diagnostic(self, diagnostic: Diagnostic) -> str:
        code = f"error[{diagnostic.code}]" if diagnostic.code else "error"
        out = [self.paint(code, _RED) + self.paint(f": {printable(diagnostic.message)}", _BOLD)]
        marks = _marks(diagnostic)
        gutter = max((len(str(span.line)) for span, _, _ in marks), default=1)
        bar = " " * gutter + " " + self.paint("|", _BLUE)
        for number, file in enumerate(dict.fromkeys(span.file for span, _, _ in marks)):
            here = [mark for mark in marks if mark[0].file == file]
            first = here[0][0]
            arrow = " " * gutter + self.paint(":::" if number else "-->", _BLUE)
            out += [f"{arrow} {printable(file)}:{first.line}:{first.column}", bar]
            out += self.snippet(here, gutter, bar)
        for kind, texts in (("note", diagnostic.notes), ("help", (diagnostic.help,))):
            for text in filter(None, texts):
                head = " " * gutter + self.paint(" = ", _BLUE) + self.paint(kind, _BOLD) + ": "
                indent = "\n" + " " * (gutter + len(kind) + 5)
                out.append(head + indent.join(printable(line) for line in text.split("\n")))
        return "\n".join(out) + "\n"

    def snippet(self, marks: list[tuple[Span, str, bool]], gutter: int, bar: str) -> list[str]:
        """The user's lines of one file in order, each with the carets and texts that belong to it."""
        out: list[str] = []
        previous = None
        for line in sorted({span.line for span, _, _ in marks}):
            text = source_line(marks[0][0].file, line)
            if text is None:
                out += [f"{bar} {printable(label)}" for span, label, _ in marks if span.line == line and label]
                continue
            if previous is not None and line > previous + 1:
                out.append(self.paint("...", _BLUE))
            on_line = sorted((m for m in marks if m[0].line == line), key=lambda mark: not mark[2])
            shown, offset = _window(text, on_line[0][0])
            body = _expanded(shown).rstrip()
            out.append(self.paint(f"{line:>{gutter}} |", _BLUE) + (f" {body}" if body else ""))
            for span, label, primary in on_line:
                start, width = _underline(shown, span, offset, len(text))
                carets = self.paint(("^" if primary else "-") * width, _RED if primary else _BLUE)
                out.append(f"{bar} {' ' * start}{carets} {printable(label)}".rstrip())
            previous = line
        return [*out, bar]


def _marks(diagnostic: Diagnostic) -> list[tuple[Span, str, bool]]:
    """(span, text, whether it is the diagnostic's own place), the own place first."""
    if diagnostic.span is None:
        return [(label.span, label.text, False) for label in diagnostic.labels]
    own = " ".join(label.text for label in diagnostic.labels if label.span == diagnostic.span)
    others = [(label.span, label.text, False) for label in diagnostic.labels if label.span != diagnostic.span]
    return [(diagnostic.span, own, True), *others]


def _window(text: str, span: Span) -> tuple[str, int]:
    """The part of a long line around the span, and how many characters were left out before it."""
    if len(text) <= _WIDEST:
        return text, 0
    offset = min(max(0, span.column - 1 - _WIDEST // 3), len(text) - _WIDEST)
    return text[offset : offset + _WIDEST], offset


def _underline(shown: str, span: Span, offset: int, length: int) -> tuple[int, int]:
    """(columns before the carets, number of carets) under the shown part of a line."""
    begin = min(max(span.column - 1 - offset, 0), len(shown))
    end = span.end_column - 1 if span.end_line == span.line else length
    end = min(max(end - offset, begin), max(len(shown.rstrip()), begin))
    return len_shown(_expanded(shown[:begin])), max(1, len_shown(_expanded(shown[begin:end])))


def len_shown(text: str) -> int:
    """Terminal columns a text takes: wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _expanded(text: str) -> str:
    return printable(text.replace("\t", "    "))


def printable(text: str, kept: str = "") -> str:
    """The text with characters that could drive a terminal written as escapes, but for those in `kept`."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system if a disk, a quota or a limit is full."""


def mend_of_writing(error: OSError) -> str:
    """The remedy for an error of the system while something was written."""
    return "free some space, then run again" if error.errno in NO_ROOM else "choose another place, or make it writable"
