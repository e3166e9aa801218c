"""YAML text → a tree of nodes that know where they were written.

YAML 1.2's core schema: `1e-4` is a number, `no` and `on` are text. Merge keys, duplicate keys, several documents and
tags other than `!replace` are errors, so nothing in a file can construct an object; nesting and the expansion of
aliases are bounded.
Built on PyYAML's event stream instead of its composer, which recurses and drops the information on tags.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import yaml

from latentc.diagnostics import Diagnostic, DiagnosticError, Label, Span, add_source

# Control characters, other line separators, marks of writing direction, the byte order mark.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
MAX_DEPTH = 48
MAX_NODES = 50_000  # after aliases are expanded
REPLACE = "!replace"

Scalar = str | int | float | bool | None
PathKey = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """A value of a YAML text, with its place and that of its key.

    `replaces`: a mapping tagged `!replace`, which does not merge with what it overrides. `removes`: a null in place of
    an inherited value.
    """

    value: Scalar | dict[str, Node] | list[Node]
    span: Span
    key: Span | None = None
    replaces: bool = False
    removes: bool = False

    @property
    def fields(self) -> dict[str, Node]:
        """The children by key; empty if the value is not a mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def data(self) -> Any:
        """The plain value: dict, list, str, int, float, bool or None."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Document:
    """A whole text, or several merged: the values and the places of the values and keys, by path."""

    root: Node

    @cached_property
    def data(self) -> Any:
        """The plain value of the whole document."""
        return self.root.data()

    def value(self, path: PathKey) -> Any:
        """The plain value at `path`; KeyError or IndexError where there is none."""
        data = self.data
        for key in path:
            data = data[key]
        return data

    @cached_property
    def spans(self) -> Mapping[PathKey, Span]:
        """Path to the place of the value."""
        return {path: node.span for path, node in self.nodes.items()}

    @cached_property
    def key_spans(self) -> Mapping[PathKey, Span]:
        """Path to the place of the key, where the value has one."""
        return {path: node.key for path, node in self.nodes.items() if node.key is not None}

    def span(self, path: PathKey) -> Span:
        """The place of the value at `path` (of its key if it is a block), or of the nearest value above it."""
        while path not in self.nodes:
            path = path[:-1]
        node = self.nodes[path]
        empty = (node.span.line, node.span.column) == (node.span.end_line, node.span.end_column)
        return node.key if node.key and empty else node.span

    @cached_property
    def nodes(self) -> Mapping[PathKey, Node]:
        """Path to node."""
        found: dict[PathKey, Node] = {}
        pending: list[tuple[PathKey, Node]] = [((), self.root)]
        while pending:
            path, node = pending.pop()
            found[path] = node
            if isinstance(node.value, dict):
                pending += [((*path, key), child) for key, child in node.value.items()]
            elif isinstance(node.value, list):
                pending += [((*path, index), child) for index, child in enumerate(node.value)]
        return found


def load_yaml(text: str, file: str) -> Document:
    """Parse one YAML document; DiagnosticError (E01xx) names the place. An empty text is a null root."""
    text = text.removeprefix("\ufeff")
    add_source(file, text)
    return Document(_composed(text, file))


@lru_cache(maxsize=512)
def _composed(text: str, file: str) -> Node:
    """The nodes of a text, which nobody changes: specs share bases, and a check of all variants reads them often."""
    if _FAST is not None and not _READ_LOOSELY.search(text):
        try:
            return _Composer(file).root(text, _FAST)
        except (DiagnosticError, yaml.YAMLError):
            pass  # PyYAML's own parser gives better messages and places
    return _Composer(file).root(text, yaml.BaseLoader)


_FAST: Any = getattr(yaml, "CBaseLoader", None)  # libyaml's parser, where PyYAML was built with it
_READ_LOOSELY = re.compile("[\t\r?%\x85\u2028\u2029\ufeff]")  # with these it accepts some invalid YAML 1.2
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((f"{sign}.{inf}" for sign in ("", "+") for inf in ("inf", "Inf", "INF")), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


def plain_scalar(text: str) -> Scalar:
    """Value of an unquoted scalar in YAML 1.2's core schema; OverflowError if it does not fit in 64 bits."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        # Python refuses to parse very long numbers; no number of a spec needs more than 64 bits.
        value = int(text, base) if len(text) <= 24 else 1 << 64
        if not -(1 << 63) <= value < 1 << 63:
            raise OverflowError(text)
        return value
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise OverflowError(text)
        return number
    return text


@dataclass
class _Open:
    """A collection whose end has not been read yet."""

    node: Node
    anchor: str | None
    size: int = 1
    height: int = 0
    keyed: tuple[str, Span] | None = None
    # Where each key was written first, for the diagnostic about a duplicate.
    keys: dict[str, Span] = field(default_factory=dict)


class _Composer:
    """Events → nodes, with a stack of its own."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[_Open] = []
        # Anchor → (node, nodes in it, levels in it); None while its collection is still open.
        self.anchors: dict[str, tuple[Node, int, int] | None] = {}
        self.errors: list[Diagnostic] = []
        self.result: Node | None = None
        self.documents = 0
        self.text = ""

    def root(self, text: str, parser: Any) -> Node:
        self.text = text
        self.refuse_unprintable(text)
        loader = parser(text)
        try:
            while loader.check_event():
                self.event(loader.get_event())
        except yaml.MarkedYAMLError as error:
            raise DiagnosticError(*self.errors, self.malformed(error)) from None
        except (ValueError, OverflowError):  # PyYAML's own conversion of an escape or a version
            mark = loader.get_mark()
            place = Span(self.file, mark.line + 1, mark.column + 1, mark.line + 1, mark.column + 2)
            raise self.error("E0102", "malformed YAML: no such character or version", place) from None
        if self.errors:
            raise DiagnosticError(*self.errors)
        return self.result or Node(None, Span(self.file, 1, 1, 1, 2))

    # ---- events

    def event(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                help_text = "a spec is one document: put each into a file of its own"
                raise self.error("E0102", "a second document in one file", self.span(event), help_text)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self.refuse_tag(event)
            self.scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.refuse_tag(event)
            self.open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.close(event)

    def refuse_tag(self, event: Any) -> None:
        if event.tag is None or (event.tag == REPLACE and isinstance(event, yaml.MappingStartEvent)):
            return
        written = re.compile(r"\S*").match(self.text, event.start_mark.index)
        name = written.group() if written else event.tag
        span = self.span(event)
        span = replace(span, end_line=span.line, end_column=span.column + len(name))
        message = f"the tag `{_short(name)}` is not allowed"
        note = (
            f"a spec contains only plain values; its one tag is `{REPLACE}`, before a mapping that is not to be merged"
        )
        help_text = "remove the tag; put quotes around the value if it must be text"
        if event.tag == REPLACE:
            message, note = f"`{REPLACE}` is not before a mapping", "lists and single values are never merged"
            help_text = "remove the tag"
        self.errors.append(Diagnostic("E0104", message, span, notes=(note,), help=help_text))

    def open(self, event: Any) -> None:
        span = self.span(event)
        if self.expects_key():
            raise self.bad_key(span)
        if len(self.stack) >= MAX_DEPTH:
            raise self.too_deep(span)
        value: dict[str, Node] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
        if event.anchor:
            self.anchors[event.anchor] = None
        # A block has no text of its own to underline: its span is empty, at its start.
        span = Span(span.file, span.line, span.column, span.line, span.column)
        self.stack.append(_Open(Node(value, span, replaces=event.tag == REPLACE), event.anchor))

    def close(self, event: Any) -> None:
        done = self.stack.pop()
        start, end = event.start_mark, event.end_mark
        span = done.node.span
        if end.index > start.index:  # flow style: the closing bracket
            span = replace(span, end_line=end.line + 1, end_column=end.column + 1)
        self.add(replace(done.node, span=span), done.size, done.height + 1, done.anchor)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        span = self.span(event)
        if self.expects_key():
            return self.key(event, span)
        value: Scalar = event.value
        if event.implicit[0]:  # plain style: neither quoted nor a block of text
            try:
                value = plain_scalar(event.value)
            except OverflowError:
                note = "integers have 64 bits, other numbers are float64 (up to about 1.8e308)"
                message = f"`{_short(event.value)}` is too large"
                self.errors.append(Diagnostic("E0109", message, span, notes=(note,)))
        elif any("\ud800" <= character <= "\udfff" for character in event.value):
            message = "an escape that is half a character (a surrogate)"
            self.errors.append(Diagnostic("E0101", message, span, help="write the character as \\UXXXXXXXX"))
        self.refuse_hidden(event.value, span)
        self.add(Node(value, span), 1, 0, event.anchor)

    def key(self, event: yaml.ScalarEvent, span: Span) -> None:
        top, name = self.stack[-1], event.value
        self.refuse_hidden(name, span)
        if event.implicit[0] and name in ("", "~", "null", "<<"):
            if name == "<<":
                help_text = "write the keys out, or use `extends:` or `variants:`"
                self.errors.append(Diagnostic("E0110", "`<<` is not supported", span, help=help_text))
            else:
                self.errors.append(self.bad_key(span).diagnostics[0])
        if name in top.keys:
            first = Label(top.keys[name], "first written here")
            message = f"the key `{_short(name)}` is written twice"
            again = Label(span, "and again here")
            self.errors.append(Diagnostic("E0103", message, span, (again, first), help="remove one of the two"))
        top.keys.setdefault(name, span)
        top.keyed = (name, span)

    def refuse_hidden(self, text: str, span: Span) -> None:
        """Text goes into code, tables and file names, where characters that nobody sees do harm."""
        if (found := HIDDEN.search(text)) is not None:
            message = f"the text holds an invisible character: U+{ord(found.group()):04X}"
            self.errors.append(Diagnostic("E0111", message, span, help="leave it out"))

    def alias(self, event: Any) -> None:
        span = self.span(event)
        if self.expects_key():
            raise self.bad_key(span)
        name = _short(event.anchor)
        if event.anchor not in self.anchors:
            help_text = f"write `&{name}` before the value it stands for"
            raise self.error("E0102", f"the alias `*{name}` has no anchor", span, help_text)
        known = self.anchors[event.anchor]
        if known is None:
            raise self.error("E0105", f"`*{name}` contains itself", span, "write the value out")
        node, size, height = known
        if len(self.stack) + height > MAX_DEPTH:
            raise self.too_deep(span)
        self.add(node, size, height, None)

    def add(self, node: Node, size: int, height: int, anchor: str | None) -> None:
        """Put a finished node where it belongs; `size` counts the nodes in it, `height` its levels."""
        if anchor:
            self.anchors[anchor] = (node, size, height)
        if not self.stack:
            self.result = node
            return
        top = self.stack[-1]
        top.size += size
        top.height = max(top.height, height)
        if top.size > MAX_NODES:
            message = f"more than {MAX_NODES} values once aliases are expanded"
            raise self.error("E0105", message, node.span, "use fewer aliases of large values")
        if isinstance(top.node.value, list):
            top.node.value.append(replace(node, key=None))
        elif isinstance(top.node.value, dict) and top.keyed:
            name, key = top.keyed
            top.node.value[name] = replace(node, key=key)
            top.keyed = None

    # ---- places and errors

    def expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].node.value, dict) and not self.stack[-1].keyed

    def span(self, event: Any) -> Span:
        start, end = event.start_mark, event.end_mark
        return Span(self.file, start.line + 1, start.column + 1, end.line + 1, end.column + 1)

    def error(self, code: str, message: str, span: Span, help_text: str | None = None) -> DiagnosticError:
        return DiagnosticError(*self.errors, Diagnostic(code, message, span, help=help_text))

    def bad_key(self, span: Span) -> DiagnosticError:
        return self.error("E0108", "a key must be plain text", span, "write `key: value`; `{{ x }}` is not YAML")

    def too_deep(self, span: Span) -> DiagnosticError:
        return self.error("E0105", f"nested more than {MAX_DEPTH} levels deep", span, "no spec needs keys this deep")

    def refuse_unprintable(self, text: str) -> None:
        """PyYAML refuses control characters without a line; say where they are."""
        found = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if found is None:
            return
        before = text[: found.start()]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        message = f"the control character U+{ord(found.group()):04X} is not allowed in YAML"
        help_text = 'remove it, or write it as an escape in double quotes ("\\x00")'
        raise self.error("E0101", message, Span(self.file, line, column, line, column + 1), help_text)

    def malformed(self, error: yaml.MarkedYAMLError) -> Diagnostic:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        span = Span(self.file, line, column, line, column + 1)
        problem = (error.problem or "").replace("'\\x00'", "the end")
        index = mark.index if mark else 0
        text = self.text
        line_start = text.rfind("\n", 0, index) + 1
        if "\t" in text[line_start : index + 1] and not text[line_start:index].strip(" \t"):
            tab = text.index("\t", line_start) - line_start + 1
            place = replace(span, column=tab, end_column=tab + 1)
            return Diagnostic("E0107", "a tab in the indentation", place, help="indent with spaces")
        if "'\\t'" in problem:
            return Diagnostic("E0107", "a tab between values", span, help="use spaces, or put the tab in quotes")
        labels = [Label(span, problem)]
        opened = error.context_mark
        if opened and error.context and (opened.line, opened.column) != (line - 1, column - 1):
            place = Span(self.file, opened.line + 1, opened.column + 1, opened.line + 1, opened.column + 2)
            labels.append(Label(place, error.context))
        return Diagnostic("E0102", "malformed YAML", span, tuple(labels), help=_mend(problem, error.context))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


_MENDS = (
    ("mapping values are not allowed", "text that holds `: ` needs quotes; else check the indentation"),
    ("could not find expected ':'", "every line of a mapping is `key: value`"),
    ("cannot start any token", "text that begins with this character needs quotes"),
    ("expected ',' or", "close the bracket, or put a comma between the items"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("found unexpected end of stream", "close the quotes"),
    ("expected the node content", "a value is missing here, or a bracket is open"),
    ("found unknown escape character", "use single quotes, or write the backslash twice"),
    ("undefined tag handle", "tags are not allowed; quote the text"),
)


def _mend(problem: str, context: str | None) -> str | None:
    return next((mend for part, mend in _MENDS if part in problem or part in (context or "")), None)
