"""One rule of a name map: how tensors of an official checkpoint become ours, and exactly back.

Names are written as templates, not as regular expressions, because a template can be read in both directions:

    blocks.{i}.attn.qkv.weight      {i}: a placeholder of one letter stands for digits
    {net}.out.weight                {net}: a longer one for one segment, which has no dot
    t_embedder.mlp.0.*              *: the rest, one or more characters of any kind; at most once

All templates of one rule have the same placeholders, so each name on one side has exactly one on the other.
A rule is a mapping with `from` (official), `to` (ours) and `op`:

    rename (the default)
    transpose      perm: ours.shape[i] = official.shape[perm[i]]
    reshape        shape, official_shape: taken from the expected shapes where they are left out
    split          into: [ours, …] in the place of `to`, axis, sizes (equal if left out)
    concatenate    from: [official, …], axis, sizes (of the official parts; equal if left out)
    stack          over: a placeholder of `from` alone, count: official tensors 0 to count - 1 along a new axis 0
    permute_heads  head_size, heads (the first ones of axis 0; all if left out), order: our rotary layout,
                   half or interleaved (the official one is the other)
    ignore         `from` alone: an official buffer that we compute; `to` alone: one of ours that they do

Where a number is asked for, a name stands for a number that the caller gives, such as `head_size` of a variant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.weights.expr import Expr, concatenate, permute_heads, reshape, split, transpose

OPTIONS: dict[str, frozenset[str]] = {
    "rename": frozenset({"from", "to"}),
    "transpose": frozenset({"from", "to", "perm"}),
    "reshape": frozenset({"from", "to", "shape", "official_shape"}),
    "split": frozenset({"from", "into", "axis", "sizes"}),
    "concatenate": frozenset({"from", "to", "axis", "sizes"}),
    "stack": frozenset({"from", "to", "over", "count"}),
    "permute_heads": frozenset({"from", "to", "head_size", "heads", "order"}),
    "ignore": frozenset({"from", "to"}),
}
"""The keys of each operation, beside `op`."""

_REQUIRED: dict[str, frozenset[str]] = {
    "transpose": frozenset({"perm"}),
    "split": frozenset({"from", "into"}),
    "concatenate": frozenset({"from", "to"}),
    "stack": frozenset({"over", "count"}),
    "permute_heads": frozenset({"head_size", "order"}),
    "ignore": frozenset(),
}
_MOST_STACKED = 4096
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}|(\*)")
_NAMES = ("from", "to", "into", "over", "count")  # what a rule's names are made of
_OPPOSITE = {"half": "interleaved", "interleaved": "half"}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A name with placeholders; `text` as written."""

    text: str
    pattern: re.Pattern[str] = field(repr=False, compare=False)
    fields: tuple[str, ...]

    def match(self, name: str) -> dict[str, str] | None:
        """What the placeholders stand for in `name`, or None if it has another form."""
        found = self.pattern.fullmatch(name)
        return None if found is None else dict(zip(self.fields, found.groups(), strict=True))

    def fill(self, bindings: Mapping[str, str]) -> str:
        """The name for these placeholders."""
        return _FIELD.sub(lambda found: bindings[found[1] or found[2]], self.text)


@dataclass(frozen=True)
class Rule:
    """A parsed rule: official templates, our templates, and the operation between the tensors."""

    number: int
    op: str
    official: tuple[Template, ...]
    ours: tuple[Template, ...]
    options: Mapping[str, Any]

    def describe(self) -> str:
        """How diagnostics name the rule: its place, counted from 1, and its first template."""
        return f"rule {self.number} ({(self.official or self.ours)[0].text})"

    def forward(self, parts: Sequence[Expr], shapes: Sequence[Shape | None]) -> list[Expr]:
        """Our tensors from the official ones; `shapes` are those expected of ours. ValueError if it cannot be."""
        options = self.options
        match self.op:
            case "transpose":
                return [transpose(parts[0], options["perm"])]
            case "reshape":
                return [reshape(parts[0], self._shape("shape", shapes[0]))]
            case "split":
                return _split(parts[0], options, len(self.ours), shapes)
            case "concatenate":
                return [concatenate(parts, options.get("axis", 0))]
            case "stack":
                return [concatenate([reshape(part, (1, *part.shape)) for part in parts], 0)]
            case "permute_heads":
                return [permute_heads(parts[0], options["head_size"], options.get("heads"), options["order"])]
        return list(parts)

    def inverse(self, parts: Sequence[Expr], shapes: Sequence[Shape | None]) -> list[Expr]:
        """Official tensors from ours; `shapes` are the official ones where known. ValueError if it cannot be."""
        options = self.options
        match self.op:
            case "transpose":
                perm = options["perm"]
                return [transpose(parts[0], [perm.index(axis) for axis in range(len(perm))])]
            case "reshape":
                return [reshape(parts[0], self._shape("official_shape", shapes[0]))]
            case "split":
                return [concatenate(parts, options.get("axis", 0))]
            case "concatenate":
                return _split(parts[0], options, len(self.official), shapes)
            case "stack":
                each = split(parts[0], [1] * len(self.official), 0)
                return [reshape(part, part.shape[1:]) for part in each]
            case "permute_heads":
                order = _OPPOSITE[options["order"]]
                return [permute_heads(parts[0], options["head_size"], options.get("heads"), order)]
        return list(parts)

    def _shape(self, option: str, known: Shape | None) -> Shape:
        shape = self.options.get(option, known)
        if shape is None:
            raise ValueError(f"give `{option}` in the rule: the shape is not known here")
        return tuple(shape)


def parse_rules(
    rules: Sequence[Mapping[str, Any] | Rule], symbols: Mapping[str, int] | None = None
) -> tuple[Rule, ...]:
    """Check rules as they stand in a spec's YAML; rules already parsed pass through.

    `symbols` gives the numbers that rules may refer to by name. Raises DiagnosticError E0411 with every fault.
    """
    parsed: list[Rule] = []
    faults: list[Diagnostic] = []
    for number, raw in enumerate(rules, 1):
        if isinstance(raw, Rule):
            parsed.append(raw)
            continue
        try:
            parsed.append(_rule(number, raw, {} if symbols is None else symbols))
        except ValueError as error:
            faults.append(Diagnostic("E0411", f"rule {number} of the name map: {error}"))
    if faults:
        raise DiagnosticError(*faults)
    return tuple(parsed)


def _rule(number: int, raw: Any, symbols: Mapping[str, int]) -> Rule:
    if not isinstance(raw, Mapping):
        raise ValueError("it must be a mapping with `from` and `to`")
    op = raw.get("op", "rename")
    if not isinstance(op, str) or op not in OPTIONS:
        near = nearest(str(op), OPTIONS)
        raise ValueError(f"unknown op {op!r}" + (f"; did you mean {near!r}?" if near else f": {', '.join(OPTIONS)}"))
    given = {key: value for key, value in raw.items() if key != "op"}
    for key in given:
        if key not in OPTIONS[op]:
            near = nearest(str(key), OPTIONS[op])
            raise ValueError(f"{op} takes no {key!r}" + (f"; did you mean {near!r}?" if near else ""))
    missing = _REQUIRED.get(op, frozenset()) | (set() if op in ("ignore", "split") else {"from", "to"})
    if missing - set(given):
        raise ValueError(f"{op} needs {', '.join(sorted(missing - set(given)))}")
    if op == "ignore" and len(given) != 1:
        raise ValueError("ignore takes either `from` (an official name) or `to` (one of ours)")
    if op == "stack":
        given["from"] = _each(given, symbols)
    official = _templates(given.get("from"), several=op in ("concatenate", "stack"))
    ours = _templates(given.get("into" if op == "split" else "to"), several=op == "split")
    fields = {frozenset(template.fields) for template in (*official, *ours)}
    if len(fields) != 1:
        raise ValueError("every name in it must have the same placeholders, or it could not be turned round")
    options = {key: _option(key, value, symbols) for key, value in given.items() if key not in _NAMES}
    if op == "transpose" and sorted(options["perm"]) != list(range(len(options["perm"]))):
        raise ValueError(f"perm {options['perm']} is not a permutation")
    if len(options.get("sizes", ours)) != len(ours) and op == "split":
        raise ValueError("sizes and into must have the same length")
    if len(options.get("sizes", official)) != len(official) and op == "concatenate":
        raise ValueError("sizes and from must have the same length")
    return Rule(number, op, official, ours, options)


def _each(given: Mapping[str, Any], symbols: Mapping[str, int]) -> list[str]:
    """The names that a stack's `from` stands for."""
    name, field = given["from"], f"{{{given['over']}}}"
    count = _number("count", given["count"], symbols)
    if not isinstance(name, str) or name.count(field) != 1:
        raise ValueError(f"`from` must hold {field}, which the tensors are stacked over, once")
    if not 0 < count <= _MOST_STACKED:
        raise ValueError(f"count must lie in 1..{_MOST_STACKED}, not be {count}")
    return [name.replace(field, str(i)) for i in range(count)]


def _option(key: str, value: Any, symbols: Mapping[str, int]) -> Any:
    if key == "order":
        if value not in _OPPOSITE:
            raise ValueError(f"order must be half or interleaved, not {value!r}")
        return value
    if key in ("perm", "shape", "official_shape", "sizes"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError(f"{key} must be a list of numbers")
        return [_number(key, item, symbols) for item in value]
    return _number(key, value, symbols)


def _number(key: str, value: Any, symbols: Mapping[str, int]) -> int:
    if isinstance(value, str):
        if value not in symbols:
            near = nearest(value, symbols)
            raise ValueError(f"{key}: no number is named {value!r}" + (f"; did you mean {near!r}?" if near else ""))
        value = symbols[value]
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise ValueError(f"{key} must be a whole number, not {value!r}")
    return int(value)


def _templates(value: Any, several: bool) -> tuple[Template, ...]:
    if value is None:
        return ()
    if several != isinstance(value, list | tuple) or (several and not value):
        raise ValueError("concatenate's `from` and split's `into` are lists of names, the others are one name")
    return tuple(map(_template, value if several else [value]))


def _template(text: Any) -> Template:
    if not isinstance(text, str) or not text:
        raise ValueError(f"a name must be text, not {text!r}")
    pattern, fields, position = "", [], 0
    for found in _FIELD.finditer(text):
        literal = text[position : found.start()]
        if position and not literal:
            raise ValueError(f"{text!r}: two placeholders need some text between them")
        name = found[1] or found[2]
        if name in fields:
            raise ValueError(f"{text!r}: {found[0]} occurs twice")
        fields.append(name)
        pattern += re.escape(literal) + ("(.+)" if name == "*" else "([0-9]+)" if len(name) == 1 else "([^.]+)")
        position = found.end()
    literal = text[position:]
    if "{" in _FIELD.sub("", text) or "}" in _FIELD.sub("", text):
        raise ValueError(f"{text!r}: a brace that belongs to no placeholder")
    return Template(text, re.compile(pattern + re.escape(literal)), tuple(fields))


def _split(expr: Expr, options: Mapping[str, Any], parts: int, shapes: Sequence[Shape | None]) -> list[Expr]:
    axis = options.get("axis", 0)
    if not -len(expr.shape) <= axis < len(expr.shape):
        raise ValueError(f"axis {axis} is outside {list(expr.shape)}")
    axis %= len(expr.shape)
    known = [shape[axis] for shape in shapes if shape is not None and len(shape) > axis]
    sizes = options.get("sizes") or (known if len(known) == parts else None)
    if sizes is None:
        if expr.shape[axis] % parts:
            raise ValueError(f"axis {axis} of {list(expr.shape)} does not divide into {parts}: give `sizes`")
        sizes = [expr.shape[axis] // parts] * parts
    return split(expr, sizes, axis)
