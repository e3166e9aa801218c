"""Name maps: an official checkpoint's tensors under our names and back, by the rules of rules.py.

An official name belongs to the first rule that matches it; a name of ours to the first rule that leads to an official
name which belongs to that rule. So a general rule (`*` to `*`) may stand last, and the map stays exact both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.weights.expr import Array, Expr, cast, dtype_from_name, dtype_name, is_float
from latentc.weights.read import materialise
from latentc.weights.rules import Rule, parse_rules

Types = Mapping[str, tuple[Sequence[int], Any]]
"""Name to (shape, dtype); a dtype is an IR name (`f32`) or what `np.dtype` takes."""

Rules = Sequence[Mapping[str, Any] | Rule]

_SHOWN = 4  # names of each kind that a diagnostic lists
_CHECKED = 1 << 24  # elements up to which check_bijection follows every single one


def import_weights(
    official: Mapping[str, Expr], rules: Rules, expected: Types, symbols: Mapping[str, int] | None = None
) -> dict[str, Expr]:
    """Our tensors, in the order and with the shapes and dtypes of `expected`, from official ones.

    Names of ours that an `ignore` rule lists are neither wanted nor given.
    Floating-point dtypes are converted, others must agree. Raises DiagnosticError E0411 for faulty rules and one
    E0410 that lists what does not fit: unmatched, missing, doubly mapped names, wrong shapes.
    """
    parsed = parse_rules(rules, symbols)
    problems = _Problems()
    computed = [template for rule in parsed if rule.op == "ignore" for template in rule.ours]
    expected = {n: kind for n, kind in expected.items() if all(t.match(n) is None for t in computed)}
    shapes = {name: tuple(int(n) for n in shape) for name, (shape, _) in expected.items()}
    made = _mapped(parsed, official, shapes, _owner_of_official(parsed), Rule.forward, problems, "official")
    unused = [name for name in made if name not in expected]
    missing = [name for name in expected if name not in made]
    problems.add("tensors that this model does not have", unused, missing)
    problems.add("tensors of this model that the checkpoint does not give", missing, unused or official)
    typed = {name: _typed(name, made[name], *expected[name], problems) for name in expected if name in made}
    problems.raise_if_any("the checkpoint's tensors do not fit this model")
    return typed


def export_weights(
    ours: Mapping[str, Expr],
    rules: Rules,
    expected_official: Types | None = None,
    symbols: Mapping[str, int] | None = None,
    constants: Mapping[str, Expr] | None = None,
) -> dict[str, Expr]:
    """Official tensors from ours, by the same rules turned round.

    `constants` adds official tensors that no weight of ours gives (an ignored buffer). Raises as `import_weights`.
    """
    parsed = parse_rules(rules, symbols)
    problems = _Problems()
    types = expected_official or {}
    shapes = {name: tuple(int(n) for n in shape) for name, (shape, _) in types.items()}
    made = _mapped(parsed, ours, shapes, _owner_of_ours(parsed), Rule.inverse, problems, "our")
    problems.add("constants that a weight of ours gives already", [n for n in constants or {} if n in made])
    made.update(constants or {})
    if expected_official is not None:
        owner = _owner_of_official(parsed)
        needed = [name for name in types if name in made or not _ignored(owner(name))]
        missing = [name for name in needed if name not in made]
        problems.add("tensors that the official model does not have", [n for n in made if n not in types], missing)
        problems.add("official tensors that this model does not give", missing, made)
        made = {name: _typed(name, made[name], *types[name], problems) for name in needed if name in made}
    problems.raise_if_any("this model's tensors do not fit the official one")
    return made


def check_bijection(official: Types, ours: Types, rules: Rules, symbols: Mapping[str, int] | None = None) -> None:
    """Check that the rules carry every element of each side to exactly one place on the other.

    Every official tensor that no `ignore` rule names must come back as it was, element by element in models of
    up to 16 million elements, in shape and name in larger ones. Raises DiagnosticError E0410 or E0411.
    """
    parsed = parse_rules(rules, symbols)
    owner = _owner_of_official(parsed)
    kept = {name: kind for name, kind in official.items() if not _ignored(owner(name))}
    small = sum(math.prod(shape) for shape, _ in kept.values()) <= _CHECKED
    probes = {name: _probe(number, shape, small) for number, (name, (shape, _)) in enumerate(kept.items())}
    by_ours = {name: (shape, np.int32) for name, (shape, _) in ours.items()}
    imported = import_weights(probes, parsed, by_ours)
    exported = export_weights(imported, parsed, {name: (shape, np.int32) for name, (shape, _) in kept.items()})
    changed = [n for n, probe in probes.items() if not _same(probe, exported[n])]
    problems = _Problems()
    problems.add("tensors that come back changed", changed)
    problems.raise_if_any("the name map is not a bijection")


Owner = Callable[[str], tuple[Rule, int, dict[str, str]] | None]


def _owner_of_official(rules: Sequence[Rule]) -> Owner:
    """Official name to (its rule, the place among the rule's names, the placeholders' values)."""

    def owner(name: str) -> tuple[Rule, int, dict[str, str]] | None:
        for rule in rules:
            for place, template in enumerate(rule.official):
                bindings = template.match(name)
                if bindings is not None:
                    return rule, place, bindings
        return None

    return owner


def _owner_of_ours(rules: Sequence[Rule]) -> Owner:
    official = _owner_of_official(rules)

    def owner(name: str) -> tuple[Rule, int, dict[str, str]] | None:
        for rule in rules:
            for place, template in enumerate(rule.ours):
                bindings = template.match(name)
                if bindings is None:
                    continue
                # The rule counts only if the way back from each official name is this one.
                ways = [official(target.fill(bindings)) for target in rule.official]
                if all(way is not None and way[0] is rule and way[2] == bindings for way in ways):
                    return rule, place, bindings
        return None

    return owner


def _ignored(owned: tuple[Rule, int, dict[str, str]] | None) -> bool:
    return owned is not None and owned[0].op == "ignore"


def _mapped(
    rules: Sequence[Rule],
    given: Mapping[str, Expr],
    shapes: Mapping[str, tuple[int, ...]],
    owner: Owner,
    apply: Callable[[Rule, Sequence[Expr], Sequence[tuple[int, ...] | None]], list[Expr]],
    problems: _Problems,
    side: str,
) -> dict[str, Expr]:
    """Every given tensor through its rule; what cannot be is added to `problems`."""
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, str]] = {}
    unmatched: list[str] = []
    by_number = {rule.number: rule for rule in rules}
    for name in given:
        owned = owner(name)
        if owned is None:
            unmatched.append(name)
        elif owned[0].op != "ignore":
            rule, place, bindings = owned
            groups.setdefault((rule.number, tuple(sorted(bindings.items()))), {})[place] = name
    made: dict[str, Expr] = {}
    doubly: list[str] = []
    missing: list[str] = []
    failed: list[str] = []
    for (number, items), names in groups.items():
        rule, bindings = by_number[number], dict(items)
        sources = [t.fill(bindings) for t in (rule.official if side == "official" else rule.ours)]
        targets = [t.fill(bindings) for t in (rule.ours if side == "official" else rule.official)]
        missing += [source for place, source in enumerate(sources) if place not in names]
        doubly += [target for target in targets if target in made]
        if len(names) != len(sources):
            continue
        try:
            parts = apply(rule, [given[source] for source in sources], [shapes.get(name) for name in targets])
        except ValueError as error:
            failed.append(f"{sources[0]} by {rule.describe()}: {error}")
            continue
        made.update(zip(targets, parts, strict=True))
    problems.add(f"{side} names that no rule maps", unmatched, shapes)
    problems.add(f"{side} names that a rule needs and that are missing", missing, given)
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
    """What does not fit, gathered by kind for one diagnostic."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}
        self.nearest: dict[str, str] = {}

    def add(self, kind: str, found: Iterable[str], choices: Iterable[str] = ()) -> None:
        """Add names of a kind; for those that will be shown, look among `choices` for what may have been meant."""
        entries = self.kinds.setdefault(kind, [])
        pool = list(choices)
        for name in found:
            if len(entries) < _SHOWN and pool:
                near = nearest(name, pool)
                if near is not None and near != name:
                    self.nearest[name] = near
            entries.append(name)

    def raise_if_any(self, message: str) -> None:
        notes = []
        for kind, entries in self.kinds.items():
            if entries:
                shown = [
                    f"  {name} (nearest: {self.nearest[name]})" if name in self.nearest else f"  {name}"
                    for name in entries[:_SHOWN]
                ]
                more = [f"  … and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
                notes.append("\n".join([f"{kind} ({len(entries)}):", *shown, *more]))
        if notes:
            raise DiagnosticError(
                Diagnostic(
                    "E0410",
                    message,
                    notes=tuple(notes),
                    help="check that the variant is the checkpoint's, then the spec's `weights` rules",
                )
            )


def _probe(number: int, shape: Sequence[int], distinct: bool) -> Array:
    sizes = tuple(int(n) for n in shape)
    if distinct:
        # Distinct across tensors too, as far as 32 bits go, so that two swapped tensors of one shape show.
        return Array((np.arange(math.prod(sizes), dtype=np.int64) * 4099 + number).astype(np.int32).reshape(sizes))
    return Array(np.broadcast_to(np.int32(number), sizes))


def _same(probe: Array, back: Expr) -> bool:
    if back is probe:
        return True
    return back.shape == probe.shape and bool(np.array_equal(materialise(back), probe.array))
