"""Name maps: tensors of another checkpoint ("theirs") under our names and back, by the rules of rules.py.

One of their names belongs to the first rule that matches it. One of our names belongs to the first rule that maps it to
names of theirs which belong to that rule. So a general rule (`*` to `*`) may come last, and the map is invertible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from latentc.diagnostics import DiagnosticError, nearest
from latentc.weights.compare import difference_of
from latentc.weights.expr import Array, Expr, cast, dtype_from_name, dtype_name, is_float
from latentc.weights.operations import Shape
from latentc.weights.read import materialise
from latentc.weights.rules import Bindings, RawRule, Rule, parse_map
from latentc.weights.templates import NO_DIGITS, Sizes, Template

Types = Mapping[str, tuple[Sequence[int], Any]]
"""{name: (shape, dtype)}; a dtype is an IR name (`f32`) or what `np.dtype` takes."""

_SHOWN = 4  # number of names of each kind listed in a diagnostic
_NEEDED = {side: f"{side} names that a rule needs and that are missing" for side in ("their", "our")}
_UNNAMED = "our names that no rule maps"
_FIXED = "tensors that are fixed in this model, with other values in the checkpoint"


def import_weights(
    theirs: Mapping[str, Expr],
    rules: Sequence[RawRule],
    expected: Types,
    sizes: Sizes | None = None,
    buffers: Mapping[str, Expr] | None = None,
    notes: list[str] | None = None,
) -> dict[str, Expr]:
    """Our tensors from theirs, in the order and with the shapes and dtypes of `expected`.

    If the map has alternatives, the first that fits is used. Tensors named by an `extra` rule are not expected.
    Floating-point dtypes are converted, others must agree. An ignored tensor must have the value that the rule would
    write, or that of the computed buffer of its name in `buffers`; if the rule says `unused`, a line about a different
    value is added to `notes`. Raises DiagnosticError E0411 for faulty rules, one E0410 that lists all unmatched,
    missing and doubly mapped names and wrong shapes, or E0420 for ignored tensors with other values.
    """
    closest = None
    for parsed in parse_map(rules, sizes):
        owner = _owner_of_theirs(parsed)
        made, problems = _import(theirs, parsed, owner, expected)
        if not problems.count():
            unused = _compare(theirs, owner, buffers or {}, problems)
            if not problems.count():
                if notes is not None and unused:
                    notes.append(_note(unused))
                return made
        closest = problems if closest is None or problems.count() < closest.count() else closest
    assert closest is not None
    if closest.kinds.get(_FIXED):
        raise closest.values_error()
    raise closest.error("the checkpoint's tensors do not fit this model")


def can_import(theirs: Mapping[str, Expr], rules: Sequence[RawRule], expected: Types, sizes: Sizes | None) -> bool:
    """True if names, shapes and dtypes fit for `import_weights`. DiagnosticError E0411 for faulty rules."""
    alternatives = parse_map(rules, sizes)
    return any(not _import(theirs, one, _owner_of_theirs(one), expected)[1].count() for one in alternatives)


def export_weights(
    ours: Mapping[str, Expr],
    rules: Sequence[RawRule],
    sizes: Sizes | None = None,
    buffers: Mapping[str, Expr] | None = None,
) -> dict[str, Expr]:
    """Their tensors from ours, by the first alternative of the map that fits this network.

    `buffers` are the network's computed buffers. Those whose names the map ignores are written, since readers of such
    files may require them (`pos_embed`); others only if a rule's `fill` needs them. Raises as `import_weights`.
    """
    first = None
    for parsed in parse_map(rules, sizes):
        made, problems = _export(ours, parsed, _owner_of_theirs(parsed), buffers or {})
        if not problems.count():
            return made
        first = problems if first is None else first
    assert first is not None
    raise first.error("this model's tensors do not fit the other names")


def check_inverse(rules: Sequence[RawRule], ours: Types, sizes: Sizes | None = None, elements: bool = False) -> None:
    """Check that a map is invertible on a network's tensors, by every alternative whose rules find what they need.

    Compares names and shapes, with `elements` also every element. Raises DiagnosticError E0411, or E0421 if the map
    only lacks names for some tensors: options of the network that it does not cover.
    """
    kinds = {name: (shape, np.float64 if elements else kind) for name, (shape, kind) in ours.items()}
    probes = {name: _probe(place, *kind, elements) for place, (name, kind) in enumerate(kinds.items())}
    owned = [(parsed, _owner_of_theirs(parsed)) for parsed in parse_map(rules, sizes)]
    written = [(parsed, owner, *_export(probes, parsed, owner, {})) for parsed, owner in owned]
    fitting = [way for way in written if not way[3].kinds.get(_NEEDED["our"])]
    for parsed, owner, made, problems in fitting or written[:1]:
        if not problems.count():
            back, problems = _import(made, parsed, owner, kinds)
            if elements:
                problems.add("tensors that change on the way back", [n for n in back if not _same(probes[n], back[n])])
        if problems.count():
            raise _not_inverted(problems)


def _not_inverted(problems: _Problems) -> DiagnosticError:
    error = problems.error("the name map cannot be inverted: these weights change when written and read back")
    first = error.diagnostics[0]
    if {kind for kind, found in problems.kinds.items() if found} == {_UNNAMED}:
        message = "the name map does not cover an option of this network: it has no names for some of its tensors"
        mend = "use latentc's own names, change the option that adds these tensors, or add rules for them"
        return DiagnosticError.of("E0421", message, notes=first.notes, help=mend)
    mend = "check the rules of these names: each side needs distinct names, and `reshape` needs `from`"
    return DiagnosticError.of("E0411", first.message, notes=first.notes, help=mend)


def ignored_names(rules: Sequence[RawRule], names: Iterable[str], sizes: Sizes | None) -> set[str]:
    """Those of their names that a map ignores when it reads a file."""
    owner = _owner_of_theirs(parse_map(rules, sizes)[0])
    return {name for name in names if (owned := owner(name)) is not None and not owned[0].ours}


def _import(
    theirs: Mapping[str, Expr], rules: Sequence[Rule], owner: Owner, expected: Types
) -> tuple[dict[str, Expr], _Problems]:
    problems = _Problems()
    extra = _candidates([rule for rule in rules if not rule.theirs], lambda rule: rule.ours)
    expected = {n: kind for n, kind in expected.items() if all(t.match(n) is None for *_, t in extra(n))}
    shapes = {name: tuple(int(n) for n in shape) for name, (shape, _) in expected.items()}

    def apply(rule: Rule, parts: Sequence[Expr], names: Sequence[str]) -> list[Expr]:
        return rule.import_(parts, [shapes.get(name) for name in names])

    made = _mapped(theirs, expected, owner, apply, problems, "their")
    unused = [name for name in made if name not in expected]
    missing = [name for name in expected if name not in made]
    problems.add("tensors that this model does not have", unused, missing)
    problems.add("tensors of this model that are missing from the checkpoint", missing, unused or theirs)
    return {n: _typed(n, made[n], *expected[n], problems) for n in expected if n in made}, problems


def _export(
    ours: Mapping[str, Expr], rules: Sequence[Rule], theirs: Owner, buffers: Mapping[str, Expr]
) -> tuple[dict[str, Expr], _Problems]:
    problems = _Problems()
    owner = _owner_of_ours(rules, theirs)
    made = _mapped(ours, (), owner, lambda rule, parts, _: rule.export(parts), problems, "our")
    for name, tensor in buffers.items():
        owned = theirs(name)
        # A rule that ignores everything (other networks of the file) does not say that this is a name of theirs.
        if owned is not None and not owned[0].ours and owned[0].theirs[0].text != "*":
            made.setdefault(name, tensor)
    for rule in rules:
        try:
            written = _written(rule, made, buffers)
        except ValueError as error:
            problems.add("tensors that cannot be written", [f"{rule.describe()}: {error}"])
            continue
        for name, tensor in written:
            # A general rule for such names, such as one for every norm, may follow a special one.
            if (owned := theirs(name)) is not None and owned[0] is rule:
                made.setdefault(name, tensor)
    return made, problems


def _written(rule: Rule, made: Mapping[str, Expr], buffers: Mapping[str, Expr]) -> list[tuple[str, Expr]]:
    """The tensors that a rule which ignores a name of theirs writes under it; `made` are those written before."""
    if rule.written_as is None:
        filled = rule.filled_by(buffers, None) if rule.filled_by is not None else None
        return [] if filled is None else [(rule.theirs[0].text, filled)]
    found: list[tuple[str, Expr]] = []
    for other, tensor in made.items():
        bindings = rule.written_as.match(other)
        name = None if bindings is None else rule.theirs[0].fill(bindings)
        if name is not None:
            copy = tensor if rule.filled_by is None else rule.filled_by(buffers, tensor.shape)
            found += [] if copy is None else [(name, copy)]
    return found


def _compare(theirs: Mapping[str, Expr], owner: Owner, buffers: Mapping[str, Expr], problems: _Problems) -> list[str]:
    """Compares ignored tensors with what would be written for them; returns the differences of unused ones."""
    unused: list[str] = []
    for name, tensor in theirs.items():
        owned = owner(name)
        if owned is None or owned[0].ours:
            continue
        rule, _, bindings = owned
        try:
            fixed = _fixed(rule, name, bindings, theirs, buffers)
        except ValueError as error:
            problems.add(_FIXED, [f"{name}: {error}"])
            continue
        difference = None if fixed is None else difference_of(tensor, fixed)
        if difference is not None and rule.unused:
            unused.append(f"{name} ({difference})")
        elif difference is not None:
            problems.add(_FIXED, [f"{name}: {difference}"])
    return unused


def _fixed(
    rule: Rule, name: str, bindings: Bindings, theirs: Mapping[str, Expr], buffers: Mapping[str, Expr]
) -> Expr | None:
    """The value that an ignored tensor must have; None if any will do. Raises ValueError."""
    if rule.written_as is not None:
        other = theirs.get(str(rule.written_as.fill(bindings)))
        if other is None or rule.filled_by is None:
            return other
        return rule.filled_by(buffers, other.shape)
    if rule.filled_by is not None:
        return rule.filled_by(buffers, None)
    return None if rule.theirs[0].text == "*" else buffers.get(name)


def _note(unused: Sequence[str]) -> str:
    more = f" and {len(unused) - 1} more" if unused[1:] else ""
    return f"not kept, since nothing uses it: {unused[0]}{more}"


Owner = Callable[[str], tuple[Rule, int, Bindings] | None]


def _owner_of_theirs(rules: Sequence[Rule]) -> Owner:
    """Maps one of their names to (its rule, its index among the rule's names, the placeholders' values)."""

    candidates = _candidates(rules, lambda rule: rule.theirs)

    @cache
    def owner(name: str) -> tuple[Rule, int, Bindings] | None:
        for rule, place, template in candidates(name):
            bindings = template.match(name)
            if bindings is not None and not any(other.negative and other.fill(bindings) is None for other in rule.ours):
                return rule, place, bindings
        return None

    return owner


def _owner_of_ours(rules: Sequence[Rule], theirs: Owner) -> Owner:
    candidates = _candidates(rules, lambda rule: rule.ours)

    def owner(name: str) -> tuple[Rule, int, Bindings] | None:
        for rule, place, template in candidates(name):
            bindings = template.match(name)
            if bindings is None:
                continue
            # The rule applies only if each of their names maps back to it.
            names = [target.fill(bindings) for target in rule.theirs]
            ways = [None if target is None else theirs(target) for target in names]
            if all(way is not None and way[0] is rule and way[2] == bindings for way in ways):
                return rule, place, bindings
        return None

    return owner


def _candidates(
    rules: Sequence[Rule], side: Callable[[Rule], Sequence[Template]]
) -> Callable[[str], list[tuple[Rule, int, Template]]]:
    """Maps a name to the templates of one side, with their rules and places, that it resembles."""
    rows = [(rule, place, template) for rule in rules for place, template in enumerate(side(rule))]

    @cache
    def resembling(rest: str) -> list[tuple[Rule, int, Template]]:
        return [row for row in rows if row[2].resembles(rest)]

    def found(name: str) -> list[tuple[Rule, int, Template]]:
        return [row for row in resembling(name.translate(NO_DIGITS)) if name.startswith(row[2].literals[0])]

    return found


def _mapped(
    given: Mapping[str, Expr],
    wanted: Iterable[str],
    owner: Owner,
    apply: Callable[[Rule, Sequence[Expr], Sequence[str]], list[Expr]],
    problems: _Problems,
    side: str,
) -> dict[str, Expr]:
    """Applies its rule to every given tensor; failures are added to `problems`."""
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[Rule, Bindings, dict[int, str]]] = {}
    unmatched: list[str] = []
    for name in given:
        owned = owner(name)
        if owned is None:
            unmatched.append(name)
        elif owned[0].theirs and owned[0].ours:
            rule, place, bindings = owned
            groups.setdefault((id(rule), tuple(sorted(bindings.items()))), (rule, bindings, {}))[2][place] = name
    made: dict[str, Expr] = {}
    doubly: list[str] = []
    missing: list[str] = []
    failed: list[str] = []
    for rule, bindings, names in groups.values():
        ends = (rule.theirs, rule.ours) if side == "their" else (rule.ours, rule.theirs)
        sources, targets = ([str(t.fill(bindings)) for t in templates] for templates in ends)
        missing += [source for place, source in enumerate(sources) if place not in names]
        doubly += [target for target in targets if target in made]
        if len(names) != len(sources):
            continue
        try:
            parts = apply(rule, [given[source] for source in sources], targets)
        except ValueError as error:
            failed.append(f"{sources[0]} by {rule.describe()}: {error}")
            continue
        made.update(zip(targets, parts, strict=True))
    problems.add(f"{side} names that no rule maps", unmatched, wanted)
    problems.add(_NEEDED[side], missing, given)
    problems.add("names that two tensors are mapped to", doubly)
    problems.add("tensors that a rule cannot be applied to", failed)
    return made


def _typed(name: str, expr: Expr, shape: Sequence[int], dtype: Any, problems: _Problems) -> Expr:
    wanted, kind = tuple(int(n) for n in shape), dtype_from_name(dtype)
    if expr.shape != wanted:
        problems.add("wrong shapes", [f"{name} is {list(expr.shape)}, should be {list(wanted)}"])
    elif expr.dtype != kind:
        if is_float(expr.dtype) and is_float(kind):
            return cast(expr, kind)
        problems.add("wrong dtypes", [f"{name} is {dtype_name(expr.dtype)}, should be {dtype_name(kind)}"])
    return expr


class _Problems:
    """Mismatches, collected by kind for one diagnostic."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}
        self.choices: dict[str, list[str]] = {}

    def add(self, kind: str, found: Sequence[str], choices: Iterable[str] = ()) -> None:
        """Add names of a kind; those that are shown are shown with the nearest of `choices`."""
        entries = self.kinds.setdefault(kind, [])
        if found:
            near = list(choices)
            self.choices |= dict.fromkeys(found[: max(0, _SHOWN - len(entries))], near)
        entries += found

    def count(self) -> int:
        return sum(map(len, self.kinds.values()))

    def error(self, message: str) -> DiagnosticError:
        notes = []
        for kind, entries in self.kinds.items():
            if entries:
                shown = [f"  {name}{self._nearest(name)}" for name in entries[:_SHOWN]]
                more = [f"  … and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
                notes.append("\n".join([f"{kind} ({len(entries)}):", *shown, *more]))
        mend = "check that the variant is that of the checkpoint, then the spec's `weights` rules"
        return DiagnosticError.of("E0410", message, notes=tuple(notes), help=mend)

    def values_error(self) -> DiagnosticError:
        """The error for a file whose names and shapes fit."""
        first = self.error("constants of the checkpoint differ from those of this model").diagnostics[0]
        mend = "choose the variant or options that the checkpoint was trained with, if the spec has them"
        return DiagnosticError.of("E0420", first.message, notes=first.notes, help=mend)

    def _nearest(self, name: str) -> str:
        near = nearest(name, self.choices.get(name, ()))
        return f" (nearest: {near})" if near not in (None, name) else ""


def _probe(number: int, shape: Sequence[int], dtype: Any, distinct: bool) -> Array:
    sizes = tuple(int(n) for n in shape)
    if distinct:
        # Distinct across tensors as well, to detect two swapped tensors of one shape.
        return Array((np.arange(math.prod(sizes), dtype=np.float64) * 4099 + number + 1).reshape(sizes))
    return _zeros(sizes, dtype_from_name(dtype))


@lru_cache(maxsize=1 << 12)
def _zeros(sizes: Shape, dtype: np.dtype[Any]) -> Array:
    return Array(np.broadcast_to(np.zeros((), dtype), sizes))


def _same(probe: Array, back: Expr) -> bool:
    return back is probe or (back.shape == probe.shape and np.allclose(materialise(back), probe.array, rtol=1e-12))
