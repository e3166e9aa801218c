"""The rules of a name map: how tensors of another checkpoint become ours, and back.

A map is a list of entries:

    {from: NAME, to: NAME, ops: [OP, …]}    their tensors (`from`), ours (`to`); both may be lists of names
    {from: …, to: …, over: {e: experts}}    a name with {e} stands for one name per e = 0 to experts - 1
    {…, for: {l: levels}}                   one rule per l = 0 to levels - 1; {l} and expressions of it become numbers
    {ignore: NAME}                          a tensor of theirs that this network does not need; or a list of names
    {ignore: NAME, write: NAME}             the same, but exported as a copy of another of their tensors (tied weights)
    {ignore: NAME, fill: {value: 0, …}}     the same, but exported as numbers that follow from sizes (fills.py)
    {ignore: NAME, write: NAME, fill: …}    the same, once for each tensor of theirs that `write` names
    {…, fill: …, unused: true}              nothing reads the tensor, so files may hold any other value
    {extra: NAME}                           a tensor of ours that their files lack; or a list of names
    {either: [[RULE, …], [RULE, …]]}        the list that fits the file is used; export: the first that fits

Names are templates (templates.py), operations are listed in operations.py. A number may be an expression of the
network's sizes (`heads`, `3*width`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.weights.expr import Array, Expr
from latentc.weights.fills import Made, parse_fill
from latentc.weights.operations import Shape
from latentc.weights.steps import Step, parse_step
from latentc.weights.templates import AnySizes, Sizes, Template, filled, template, whole

KEYS = {"from": ("to", "ops", "over"), "ignore": ("write", "fill", "unused"), "extra": (), "either": ()}
"""{first key of a kind of rule: keys allowed beside it}; `for` is also allowed with all but `either`."""

_LIST = re.compile(r"\{(\w+):[^{}]*\}")
_MOST_NAMES = 4096  # from one name by `over`
_MOST_ALTERNATIVES = 64
_MOST_RULES = 4096  # from one rule by `for`
_MOST_FAULTS = 1 << 14
_FAULTS: dict[str, str] = {}  # of rules as they are written

RawRule = Mapping[str, Any]
Bindings = dict[str, str]


@dataclass(frozen=True)
class Rule:
    """A parsed rule. Without `ours` it ignores a tensor of theirs; without `theirs` a tensor of ours may be missing."""

    number: int
    theirs: tuple[Template, ...]
    ours: tuple[Template, ...]
    operations: tuple[Step, ...] = ()
    written_as: Template | None = None
    filled_by: Made | None = None
    unused: bool = False
    """Files may hold another value than the one that is written."""

    def describe(self) -> str:
        """The rule as diagnostics show it: its number, from 1, and its first name."""
        return f"rule {self.number} ({(self.theirs or self.ours)[0].text})"

    def import_(self, parts: Sequence[Expr], shapes: Sequence[Shape | None]) -> list[Expr]:
        """Our tensors from theirs; `shapes` are the expected ones of ours. Raises ValueError if they do not fit."""
        after = self._shapes([shape for shape in shapes if shape is not None])
        for operation, known in zip(self.operations, after, strict=True):
            parts = operation.apply(parts, known)
        return list(parts)

    def export(self, parts: Sequence[Expr]) -> list[Expr]:
        """Their tensors from ours. Raises ValueError if they do not fit."""
        for operation in reversed(self.operations):
            parts = operation.undo(parts)
        return list(parts)

    def _shapes(self, shapes: Sequence[Shape]) -> list[list[Shape] | None]:
        """The shapes after each operation, computed backwards from ours; None where unknown."""
        known: list[list[Shape] | None] = [None] * len(self.operations)
        if len(shapes) < len(self.ours) or not known:
            return known
        parts: Sequence[Expr] = [Array(np.broadcast_to(np.float32(0), shape)) for shape in shapes]
        for place in reversed(range(len(self.operations))):
            known[place] = [part.shape for part in parts]
            try:
                parts = self.operations[place].undo(parts)
            except ValueError:
                break
        return known


def parse_map(raw: Sequence[RawRule], sizes: Sizes | None = None) -> list[tuple[Rule, ...]]:
    """The alternatives of a spec's name map, in the order in which export tries them; most maps have only one.

    `sizes` are the numbers that rules may refer to by name. Raises DiagnosticError E0411 with all mistakes.
    """
    faults: list[Diagnostic] = []
    parsed: dict[int, list[list[Rule]]] = {}
    for place, entry in enumerate(raw):
        try:
            parsed[place] = _entry(place + 1, entry, {} if sizes is None else sizes)
        except ValueError as error:
            faults.append(Diagnostic("E0411", f"rule {place + 1} of the name map: {error}"))
    count = 1
    for alternatives in parsed.values():
        count *= len(alternatives)
    if count > _MOST_ALTERNATIVES:
        faults.append(Diagnostic("E0411", f"the name map has {count} alternatives, more than {_MOST_ALTERNATIVES}"))
    if faults:
        raise DiagnosticError(*faults)
    chosen = itertools.product(*(parsed[place] for place in range(len(raw))))
    return [tuple(itertools.chain.from_iterable(lists)) for lists in chosen]


def fault_of(rule: Any) -> str:
    """The fault of a rule, found before its network is known, or "". Variants and related specs share rules."""
    written = repr(rule)
    if written not in _FAULTS:
        if len(_FAULTS) == _MOST_FAULTS:
            _FAULTS.clear()
        try:
            parse_map([rule], AnySizes())
            _FAULTS[written] = ""
        except DiagnosticError as error:
            _FAULTS[written] = error.diagnostics[0].message.removeprefix("rule 1 of the name map: ")
    return _FAULTS[written]


def _entry(number: int, raw: Any, sizes: Sizes) -> list[list[Rule]]:
    """The alternatives of one entry, each a list of rules."""
    if isinstance(raw, Mapping) and "either" in raw:
        _check_keys(raw, "either")
        lists = raw["either"]
        if not _is_list(lists) or len(lists) < 2 or not all(_is_list(rules) for rules in lists):
            raise ValueError("`either` must hold two or more lists of rules")
        found = []
        for rules in lists:
            if any(isinstance(rule, Mapping) and "either" in rule for rule in rules):
                raise ValueError("`either` cannot be nested in another `either`")
            found.append([rule for one in rules for rule in _rules(number, one, sizes)])
        return found
    return [list(_rules(number, raw, sizes))]


def _rules(number: int, raw: Any, sizes: Sizes) -> Iterator[Rule]:
    if not isinstance(raw, Mapping):
        raise ValueError("it must be a mapping, such as {from: NAME, to: NAME}")
    if "for" in raw:
        for one in _repeated(raw, sizes):
            yield from _rules(number, one, sizes)
        return
    kind = next((key for key in KEYS if key in raw), "from")
    _check_keys(raw, kind)
    if kind == "from":
        yield _mapping(number, raw, sizes)
        return
    names = [template(name, sizes) for name in _names(raw[kind])]
    written = template(raw["write"], sizes) if "write" in raw else None
    _check_lists([*names, *([written] if written else [])])
    if written is not None and any(_fields(name) != _fields(written) for name in names):
        raise ValueError("`ignore` and `write` must have the same placeholders")
    fill = parse_fill(raw["fill"], sizes, written is not None) if "fill" in raw else None
    if fill is not None and written is None and any(name.fields for name in names):
        raise ValueError(
            "a name with placeholders needs `write` beside `fill`: one is written for each tensor that it names"
        )
    unused = raw.get("unused", False)
    if not isinstance(unused, bool) or (unused and "fill" not in raw and "write" not in raw):
        raise ValueError("`unused: true` stands beside `fill` or `write`: a tensor that is not written has no value")
    for name in names:
        yield Rule(number, (name,), (), (), written, fill, unused) if kind == "ignore" else Rule(number, (), (name,))


def _repeated(raw: RawRule, sizes: Sizes) -> Iterator[RawRule]:
    """The rule for each combination of values of the letters in its `for`."""
    counts, rest = raw["for"], {key: value for key, value in raw.items() if key != "for"}
    if not isinstance(counts, Mapping) or not all(len(str(letter)) == 1 for letter in counts):
        raise ValueError("`for` must be a mapping of letters to counts, such as {l: levels}")
    ranges = [range(whole(count, sizes)) for count in counts.values()]
    if isinstance(sizes, AnySizes):  # a rule is checked before the network is known
        ranges = [each[:1] for each in ranges]
    if math.prod(map(len, ranges)) > _MOST_RULES:
        raise ValueError(f"`for` must count at most {_MOST_RULES} rules")
    for values in itertools.product(*ranges):
        yield _filled(rest, dict(zip(map(str, counts), values, strict=True)), sizes)


def _filled(value: Any, letters: Mapping[str, int], sizes: Sizes) -> Any:
    if isinstance(value, str):
        return filled(value, letters, sizes)
    if isinstance(value, Mapping):
        return {key: _filled(item, letters, sizes) for key, item in value.items()}
    return [_filled(item, letters, sizes) for item in value] if _is_list(value) else value


def _check_keys(raw: RawRule, kind: str) -> None:
    allowed = (kind, *KEYS[kind])
    for key in raw:
        if key not in allowed:
            near = nearest(str(key), allowed)
            mend = f"did you mean {near!r}?" if near else f"it takes {', '.join(allowed)}"
            raise ValueError(f"a rule with `{kind}` takes no {key!r}; {mend}")


def _mapping(number: int, raw: RawRule, sizes: Sizes) -> Rule:
    if "from" not in raw or "to" not in raw:
        raise ValueError("it needs both `from` and `to`, or one of `ignore`, `extra` and `either`")
    over = raw.get("over", {})
    if not isinstance(over, Mapping):
        raise ValueError("`over` must be a mapping of placeholders to counts, such as {e: experts}")
    counts = {str(name): whole(count, sizes) for name, count in over.items()}
    theirs, ours = _spread(_names(raw["from"]), counts), _spread(_names(raw["to"]), counts)
    for name in counts:
        if not any(f"{{{name}}}" in str(text) for side in (raw["from"], raw["to"]) for text in _names(side)):
            raise ValueError(f"no name holds {{{name}}}, which `over` counts")
    names = [template(text, sizes) for text in (*_with_lists(theirs, ours), *_with_lists(ours, theirs))]
    if len({_fields(name) for name in names}) > 1:
        raise ValueError("all names of a rule must have the same placeholders, or it cannot be inverted")
    _check_lists(names)
    official, own = names[: len(theirs)], names[len(theirs) :]
    operations: list[Step] = []
    raw_operations = raw.get("ops", [])
    if not _is_list(raw_operations):
        raise ValueError("`ops` must be a list of operations, such as [{transpose: [1, 0]}]")
    count = len(official)
    for operation in raw_operations:
        operations.append(parse_step(operation, sizes, count, len(own)))
        count = operations[-1].counts[1]
    if count != len(own):
        raise ValueError(f"its {len(official)} tensors in `from` become {count}, but `to` has {len(own)} names")
    return Rule(number, tuple(official), tuple(own), tuple(operations))


def _spread(names: Sequence[Any], counts: Mapping[str, int]) -> list[Any]:
    """`names` with every counted placeholder replaced by its numbers, the first of `over` slowest."""
    for name, count in reversed(list(counts.items())):
        if not 0 < count <= _MOST_NAMES // max(1, len(names)):
            raise ValueError(f"`over` must count 1 to {_MOST_NAMES} names, not {count} times {len(names)}")
        field = f"{{{name}}}"
        if any(field in str(text) for text in names):
            names = [str(text).replace(field, str(i)) for i in range(count) for text in names]
    return list(names)


def _with_lists(texts: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`texts` with the word list of a placeholder, given on either side, wherever the placeholder has none."""
    made = list(texts)
    for found in (found for text in (*texts, *others) for found in _LIST.finditer(str(text))):
        made = [text.replace(f"{{{found[1]}}}", found[0]) if isinstance(text, str) else text for text in made]
    return made


def _check_lists(names: Sequence[Template]) -> None:
    lengths: dict[str, int] = {}
    for field in (field for name in names for field in name.fields):
        if lengths.setdefault(field.name, len(field.words)) != len(field.words):
            raise ValueError(f"the lists of {{{field.name}}} must have the same length")


def _fields(name: Template) -> frozenset[str]:
    return frozenset(field.name for field in name.fields)


def _names(value: Any) -> list[Any]:
    if _is_list(value):
        if not value:
            raise ValueError("a list of names must not be empty")
        return list(value)
    return [value]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
