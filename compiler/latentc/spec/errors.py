"""pydantic's errors → diagnostics that say what was expected, in the words of a spec."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from latentc.components import load
from latentc.diagnostics import Diagnostic, Label, did_you_mean, nearest
from latentc.files import shipped
from latentc.spec.resolve import resolve_file
from latentc.spec.schema import Place, place_at, shown_path
from latentc.spec.yaml import Document, PathKey

_MOST_KINDS = 12  # that a remedy lists
_Variants = Callable[[PathKey], Mapping[str, Set[str]]]


def diagnostics_from_validation(error: ValidationError, document: Document, giving: _Variants) -> list[Diagnostic]:
    """One diagnostic for each wrong place, in the order of the files.

    `giving(path)`: {variant that can still be chosen: its keys there}; one of them may provide a missing key.
    """
    faults: dict[PathKey, list[_Fault]] = {}
    for item in error.errors(include_url=False):
        fault = _fault(item, document, giving)
        faults.setdefault(fault.path, []).append(fault)
    for path in _misspelt(faults):
        faults.pop(path, None)
    # Of a union's alternatives, the one that matched furthest is more helpful than "this is not a number"; a list with
    # a wrong item is also reported as too short.
    inner = {path[:length] for path in faults for length in range(len(path))}
    found = [
        _diagnostic(here)
        for path, here in faults.items()
        if not (path in inner and all(fault.kind in (*_EXPECTED, "too_short") for fault in here))
    ]
    return sorted(found, key=lambda d: (d.span.file, d.span.line, d.span.column) if d.span else ("", 0, 0))


def _misspelt(faults: Mapping[PathKey, list[_Fault]]) -> list[PathKey]:
    """Missing keys of which an unknown key beside them is a misspelling: one mistake, not two."""
    found: list[PathKey] = []
    for path, (fault, *_) in faults.items():
        if fault.kind == "extra_forbidden":
            meant = nearest(str(path[-1]), _legal_keys(fault))
            found.append((*path[:-1], "networks" if meant == "backbone" else meant or ""))
    return [path for path in found if path in faults and faults[path][0].kind == "missing"]


@dataclass(frozen=True)
class _Fault:
    path: PathKey
    place: Place | None
    document: Document
    kind: str
    context: Mapping[str, Any]
    text: str
    giving: _Variants

    @property
    def data(self) -> Any:
        return self.document.value(self.path)

    @property
    def shown(self) -> str:
        return f"`{shown_path(self.path)}`" if self.path else "the spec"


def _fault(item: Mapping[str, Any], document: Document, giving: _Variants) -> _Fault:
    """The error and its place: pydantic's location without the parts that are not keys of the file."""
    kind, location = item["type"], list(item["loc"])
    absent = location.pop() if kind == "missing" else None
    path: PathKey = ()
    data = document.data
    tag_skipped = False
    for key in location:
        # A union adds the chosen kind or the name of a type to the location.
        is_tag = isinstance(data, dict) and data.get("kind") == key and not tag_skipped
        in_mapping = isinstance(data, dict) and key in data and not is_tag
        if in_mapping or (isinstance(data, list) and isinstance(key, int) and key < len(data)):
            path, data, tag_skipped = (*path, key), data[key], False
        else:
            tag_skipped = is_tag
    context = dict(item.get("ctx", {}))
    if absent is not None:
        context["absent"] = absent
        if isinstance(absent, str):
            path = (*path, absent)  # so that several missing keys are reported separately
    place = place_at(path, document.data)
    return _Fault(path, place, document, kind, context, item["msg"], giving)


def _diagnostic(faults: list[_Fault]) -> Diagnostic:
    first = faults[0]
    wanted = [_EXPECTED.get(fault.kind) or _choices(fault) for fault in faults]
    if len(faults) > 1 and all(wanted):
        # A union of plain types: each alternative names the type that it expects.
        return _wrong_type(first, " or ".join(dict.fromkeys(wanted)))
    handler = _HANDLERS.get(first.kind)
    if handler is not None:
        return handler(first)
    if first.kind in _EXPECTED:
        return _wrong_type(first, _EXPECTED[first.kind])
    return Diagnostic("E0209", f"{first.shown}: {first.text}", first.document.span(first.path))


def described(data: Any) -> str:
    """A value as a diagnostic names it."""
    if data is None:
        return "nothing (null)"
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, int | float):
        return f"the number {data}"
    if isinstance(data, str):
        return f"the text `{data if len(data) <= 40 else data[:37] + '...'}`"
    if isinstance(data, list):
        return f"a list of {len(data)}" if data else "an empty list"
    return "a mapping"


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "nothing (null)",
}


def _wrong_type(fault: _Fault, expected: str) -> Diagnostic:
    span = fault.document.span(fault.path)
    data = fault.data
    help_text = None
    if isinstance(data, str):
        if "number" in expected and _is_number(data):
            help_text = "remove the quotes"
        elif expected == "true or false" and data.lower() in ("yes", "no", "on", "off", "y", "n"):
            value = "true" if data.lower() in ("yes", "on", "y") else "false"
            help_text = f"write `{value}`: in YAML 1.2 `{data}` is text"
    elif "whole number" in expected and isinstance(data, float) and data.is_integer() and abs(data) < 2**53:
        help_text = f"write `{int(data)}`"
    elif expected == "text" and isinstance(data, bool | int | float):
        help_text = "put quotes around it"
    elif expected == "a mapping" and data is None:
        help_text = "write the keys below it, indented; or remove the line to take the defaults"
    if expected == "a mapping" and data is not None and fault.place is not None:
        help_text = _mapping_instead(fault.place, data)
    labels = (Label(span, f"expected {expected}"),)
    message = f"{fault.shown} is {described(data)}, not {expected}"
    return Diagnostic("E0203", message, span, labels, _about(fault.place), help_text)


def _mapping_instead(place: Place, data: Any) -> str | None:
    """The remedy for a plain value, often the name of a kind, in place of a mapping."""
    if kinds := place.kinds():
        kind = data if data in kinds else nearest(str(data), kinds) or (kinds[0] if len(kinds) == 1 else None)
        return f"write `{{kind: {kind}, …}}`" if kind else f"write `{{kind: …}}` with one of {', '.join(kinds)}"
    keys = list(place.keys(None))
    return f"its keys are {', '.join(keys)}" if keys else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _about(place: Place | None) -> tuple[str, ...]:
    """The description of the field."""
    info = place.info if place else None
    return (f"{info.description}",) if info is not None and info.description else ()


def _unknown_key(fault: _Fault) -> Diagnostic:
    parent, key = fault.path[:-1], fault.path[-1]
    span = fault.document.key_spans.get(fault.path) or fault.document.span(fault.path)
    data = fault.document.value(parent)
    legal = _legal_keys(fault)
    where = f"`{shown_path(parent)}`" if parent else "a spec"
    kind = data.get("kind") if isinstance(data, dict) else None
    of_kind = f" of kind `{kind}`" if isinstance(kind, str) else ""
    if parent[-1:] == ("sampler",) and key in load("programs"):
        values = fault.document.value(fault.path)
        given = [f"{name}: {json.dumps(value)}" for name, value in values.items()] if isinstance(values, dict) else []
        written = f"programs: [{{{', '.join([f'kind: {key}', *given])}}}]"
        mend = "leave it out" if values is None else f"write `{written}` beside `sampler`"
        message = f"`{key}` is not a key of samplers, but a program around one"
        return Diagnostic("E0201", message, span, help=mend)
    labels = (Label(span, did_you_mean(str(key), legal, "unknown here")),)
    note = f"keys of {where}{of_kind}: {', '.join(legal) or 'none'}"
    return Diagnostic("E0201", f"unknown key `{key}` in {where}", span, labels, (note,))


def _legal_keys(fault: _Fault) -> list[str]:
    """The keys allowed beside the one at fault, as a spec may write them."""
    parent = fault.path[:-1]
    place = place_at(parent, fault.document.data)
    keys = list(place.keys(fault.document.value(parent))) if place else []
    return keys if parent else ["backbone" if key == "networks" else key for key in keys] + ["networks"]


def _missing(fault: _Fault) -> Diagnostic:
    absent = fault.context["absent"]
    if isinstance(absent, int):
        return _wrong_length(fault)
    path = fault.path[:-1]
    where = f"`{shown_path(path)}`" if path else "the spec"
    key = "backbone" if fault.path == ("networks",) else absent
    kinds = fault.place.kinds() if fault.place else []
    help_text = f"add `{key}: …`"
    if 0 < len(kinds) <= _MOST_KINDS:
        help_text = f"add `{key}: {{kind: …}}`, one of {', '.join(kinds)}"
    # A variant with keys of another kind was written for the base's component and does not fit this one.
    legal = set(_legal_keys(fault))
    if variants := [name for name, keys in fault.giving(path).items() if absent in keys and keys <= legal]:
        help_text += f", or choose a variant: {', '.join(variants)}"
    message = f"{where} needs the key `{key}`"
    span = fault.document.span(path)
    labels = (Label(span, f"`{key}` is missing"),)
    return Diagnostic("E0202", message, span, labels, _about(fault.place), help_text)


def _wrong_length(fault: _Fault) -> Diagnostic:
    context = fault.context
    span = fault.document.span(fault.path)
    if length := _fixed_length(fault.place):
        wanted = str(length)
    elif fault.kind == "missing":
        wanted = f"more than {context['absent']}"
    elif "min_length" in context:
        wanted = f"at least {context['min_length']}"
    else:
        wanted = f"at most {context['max_length']}"
    found = len(fault.data) if isinstance(fault.data, list | str | dict) else 0
    what = "character" if isinstance(fault.data, str) else "item"
    what += "" if found == 1 else "s"
    message = f"{fault.shown} has {found} {what}, not {wanted}"
    return Diagnostic("E0204", message, span, (Label(span, f"expected {wanted}"),), _about(fault.place))


def _fixed_length(place: Place | None) -> int | None:
    """The length of a list whose type fixes it, else None."""
    items = [get_args(kind) for kind in place.types() if get_origin(kind) is tuple] if place else []
    return len(items[0]) if len(items) == 1 and ... not in items[0] else None


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


_BOUNDS = (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))


def _out_of_range(fault: _Fault) -> Diagnostic:
    span = fault.document.span(fault.path)
    context = fault.context
    wanted = next((f"{words} {_number(context[key])}" for key, words in _BOUNDS if key in context), "finite")
    if "multiple_of" in context:
        wanted = f"a multiple of {context['multiple_of']:g}"
    labels = (Label(span, f"must be {wanted}"),)
    message = f"{fault.shown} is {described(fault.data).removeprefix('the number ')}, but must be {wanted}"
    return Diagnostic("E0204", message, span, labels, _about(fault.place))


def _unknown_kind(fault: _Fault) -> Diagnostic:
    path = (*fault.path, "kind")
    span = fault.document.span(path)
    known = fault.place.kinds() if fault.place else []
    kind = fault.data.get("kind") if isinstance(fault.data, dict) else fault.data
    elsewhere = bool(fault.context.get("elsewhere"))  # the vocabulary has it, but not for this place
    otherwise = "not possible here" if elsewhere else "unknown here"
    label = Label(span, did_you_mean(kind if isinstance(kind, str) and not elsewhere else "", known, otherwise))
    note = f"{'kinds that fit' if elsewhere else 'known kinds'}: {', '.join(known) or 'none'}"
    help_text = _of_system(kind, fault.path) if isinstance(kind, str) else None
    tag = kind if isinstance(kind, str) else described(kind)
    message = f"{fault.shown} cannot be a `{tag}`" if elsewhere else f"unknown kind `{tag}` for {fault.shown}"
    return Diagnostic("E0205", message, span, (label,), (note,), help_text)


def _of_system(name: str, path: PathKey) -> str | None:
    """The kind that the shipped spec of this name has at a place, if there is such a spec."""
    if name not in shipped.shipped_specs():
        return None
    part: Any = resolve_file(name).document.data
    for key in path:
        part = part.get(key) if isinstance(part, Mapping) else None
    kind = part.get("kind") if isinstance(part, Mapping) else None
    return None if kind is None else f"the shipped spec `{name}` has kind `{kind}` here"


def _no_kind(fault: _Fault) -> Diagnostic:
    span = fault.document.span(fault.path)
    known = fault.place.kinds() if fault.place else []
    help_text = f"add `kind:` with one of: {', '.join(known)}" if known else None
    label = Label(span, "`kind` is missing")
    return Diagnostic("E0206", f"{fault.shown} has no `kind`", span, (label,), help=help_text)


def _choices(fault: _Fault) -> str:
    return str(fault.context.get("expected", "")).replace("'", "`")


def _not_a_choice(fault: _Fault) -> Diagnostic:
    span = fault.document.span(fault.path)
    expected = _choices(fault)
    data = fault.data
    choices = expected.replace(" or ", ", ").replace("`", "").split(", ") if isinstance(data, str) else ()
    labels = (Label(span, did_you_mean(str(data), choices, f"expected {expected}")),)
    message = f"{fault.shown} is {described(data)}, not {expected}"
    return Diagnostic("E0207", message, span, labels, _about(fault.place))


def _refused(fault: _Fault) -> Diagnostic:
    """A validator of a component raised ValueError: its text is the message."""
    text = str(fault.context.get("error", fault.text))
    return Diagnostic("E0209", f"{fault.shown}: {text}", fault.document.span(fault.path))


def _bad_pattern(fault: _Fault) -> Diagnostic:
    span = fault.document.span(fault.path)
    label = Label(span, "use only letters, digits and the few signs allowed")
    note = f"it must match the pattern {fault.context.get('pattern', '')}"
    return Diagnostic("E0209", f"{described(fault.data)} is not a valid {fault.shown}", span, (label,), (note,))


_HANDLERS: dict[str, Callable[[_Fault], Diagnostic]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_invalid": _unknown_kind,
    "union_tag_not_found": _no_kind,
    "literal_error": _not_a_choice,
    "enum": _not_a_choice,
    "value_error": _refused,
    "assertion_error": _refused,
    "string_pattern_mismatch": _bad_pattern,
    **dict.fromkeys(("too_short", "too_long", "string_too_short", "string_too_long"), _wrong_length),
    **dict.fromkeys(
        (
            "greater_than",
            "greater_than_equal",
            "less_than",
            "less_than_equal",
            "multiple_of",
            "finite_number",
        ),
        _out_of_range,
    ),
}
