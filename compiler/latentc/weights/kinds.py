"""Kinds of tensor names, and whether a file can follow a name map by them alone, before its network is known.

A kind is a name whose numbers are replaced by `#`: the blocks of a network have the same kinds of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from latentc.weights.templates import FIELD, LETTER

_LEAST = 0.2  # smallest fraction of the names in `from` that a file must have; others are for variants
_REST = "*"  # the name for all names without a rule
_ANY = "\0"  # stands for whatever a placeholder for words matches

Kind = str | re.Pattern[str]


def name_kinds(names: Iterable[str]) -> set[str]:
    """The names without their numbers."""
    return {re.sub(r"\d+", "#", name) for name in names}


def may_follow(rules: Sequence[Mapping[str, Any]], kinds: Set[str]) -> bool:
    """False only if tensors with names of these kinds cannot be a whole file that follows a name map.

    A file has at least `_LEAST` of the names in `from`, and a map without `*` has a rule for every name of the file.
    """
    specific = [kind for name in _names(rules, "from") if name != _REST for kind in _kinds_of(name)]
    if sum(_stands_for(kind, kinds) for kind in specific) < _LEAST * len(specific):
        return False
    if any(name == _REST for key in ("from", "ignore") for name in _names(rules, key)):
        return True
    known = [*specific, *(kind for name in _names(rules, "ignore") for kind in _kinds_of(name))]
    plain = {kind for kind in known if isinstance(kind, str)}
    patterns = [kind for kind in known if not isinstance(kind, str)]
    return all(name in plain or any(pattern.fullmatch(name) for pattern in patterns) for name in kinds)


def _stands_for(kind: Kind, kinds: Set[str]) -> bool:
    return kind in kinds if isinstance(kind, str) else any(kind.fullmatch(name) for name in kinds)


def _names(rules: Sequence[Mapping[str, Any]], key: str) -> Iterator[str]:
    """The names under `key`, `from` or `ignore`, of all rules and alternatives."""
    for rule in rules:
        for alternative in rule.get("either", ()):
            yield from _names(alternative, key)
        names = rule.get(key, ())
        yield from (names,) if isinstance(names, str) else names


def _kinds_of(name: str) -> list[Kind]:
    """The kinds of the names that a template matches, of which a pattern stands for any number."""
    texts, at = [""], 0
    for field in FIELD.finditer(name):
        before, at = name[at : field.start()], field.end()
        texts = [text + before + word for text in texts for word in _words(field[1])]
    kinds = sorted(name_kinds(text + name[at:] for text in texts))
    return [re.compile(".+".join(map(re.escape, kind.split(_ANY)))) if _ANY in kind else kind for kind in kinds]


def _words(placeholder: str | None) -> Sequence[str]:
    """Sample texts for a placeholder in a name, or for `*` (None)."""
    if placeholder is None or ":" not in placeholder:
        return ["0" if placeholder is not None and LETTER.search(placeholder) else _ANY]
    return placeholder.partition(":")[2].split("|")
