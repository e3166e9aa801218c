"""The state dicts of a file, and the ways to read their names as those of one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.diagnostics import DiagnosticError, nearest
from latentc.weights.expr import Expr

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile add to every name; they are removed."""

MODELS = frozenset({"model", "state_dict", "module", "net", "network", "params", "weights", "generator"})
"""Keys under which training scripts save the trained model; never moving averages."""

_DEEPEST = 16  # nesting depth to which state dicts are searched for
_MOST_PREFIXES = 32  # first components of names that are tried as prefixes


@dataclass(frozen=True)
class Reading:
    """Tensors of one state dict: all of them, or those under `prefix`, which is removed from their names.

    `place`: its dotted path in the file. `sure`: the user asked for it, or no other can be meant.
    """

    place: str
    prefix: str
    tensors: dict[str, Expr]
    sure: bool = False

    def describe(self) -> str:
        """The part of the file that was read; empty if it is the whole file."""
        parts = [f"state dict `{self.place}`"] if self.place else []
        return ", ".join([*parts, f"names under `{self.prefix}`"] if self.prefix else parts)

    def under(self, prefix: str) -> Reading | None:
        """The tensors below one more prefix, if there are any."""
        found = {name.removeprefix(prefix): e for name, e in self.tensors.items() if name.startswith(prefix)}
        return Reading(self.place, self.prefix + prefix, found, self.sure) if found else None

    def unwrapped(self) -> Reading:
        """Without the prefixes in `WRAPPERS`."""
        for prefix in WRAPPERS:
            inner = self.under(prefix)
            if inner is not None and len(inner.tensors) == len(self.tensors):
                return inner.unwrapped()
        return self


def readings(groups: Mapping[str, dict[str, Expr]]) -> Iterator[Reading]:
    """Every way to read a file: each state dict whole, then each part of it whose names share a first component."""
    for place, tensors in groups.items():
        reading = Reading(place, "", tensors).unwrapped()
        yield reading
        for _ in range(2):
            firsts = {name.partition(".")[0] for name in reading.tensors if "." in name}
            parts = [reading.under(f"{first}.") for first in sorted(firsts)[:_MOST_PREFIXES] if not first.isdigit()]
            yield from (part for part in parts if part is not None)
            if len(parts) != 1 or parts[0] is None:
                break
            reading = parts[0]  # a single prefix, as in `model.net.…`: also try the next level


def state_dicts(tree: Mapping[Any, Any]) -> dict[str, dict[str, Expr]]:
    """{dotted path: tensors} of every innermost dict that holds tensors; "" is the top level."""
    found: dict[str, dict[str, Expr]] = {}
    seen: set[int] = set()

    def walk(node: Mapping[Any, Any], place: str, depth: int) -> bool:
        # Pickles can share dicts, contain themselves, and be nested very deeply.
        if id(node) in seen or depth > _DEEPEST:
            return False
        seen.add(id(node))
        inner = [
            walk(value, f"{place}.{key}" if place else str(key), depth + 1)
            for key, value in node.items()
            if isinstance(value, Mapping) and isinstance(key, (str, float))  # decay rate of averages (LARP)
        ]
        tensors = {key: value for key, value in node.items() if isinstance(key, str) and isinstance(value, Expr)}
        if tensors and not any(inner):
            found[place] = tensors
        return bool(tensors) or any(inner)

    walk(tree, "", 0)
    return found


def chosen(path: Path, groups: Mapping[str, dict[str, Expr]], key: str | None) -> Reading:
    """The state dict that `key` names, or the model if it is the only candidate. Raises DiagnosticError E0409."""
    places = list(groups)
    if key is not None:
        matches = [place for place in places if place == key] or [
            place for place in places if place.endswith(f".{key}")
        ]
        if not matches and places == [""]:
            under = {n.removeprefix(f"{key}."): e for n, e in groups[""].items() if n.startswith(f"{key}.")}
            if under:
                return Reading("", f"{key}.", under)
    else:
        matches = places
        if len(places) > 1:
            matches = [place for place in places if place.rpartition(".")[2] in MODELS]
    if len(matches) == 1 and (key is not None or not _averages(places)):
        return Reading(matches[0], "", groups[matches[0]])
    if not places:
        raise DiagnosticError.of("E0409", f"{path} holds no tensors")
    shown = ", ".join(place or "(the top)" for place in places[:8]) + (" …" if len(places) > 8 else "")
    near = nearest(key, [place for place in places if place]) if key else None
    what = "holds several state dicts" if key is None else f"holds no state dict {key!r}"
    mend = f"choose one with the key, such as {places[0]!r}" if places[0] else "leave the key out"
    raise DiagnosticError.of(
        "E0409",
        f"{path} {what}",
        notes=(f"state dicts there: {shown}",),
        help=f"did you mean {near!r}?" if near else mend,
    )


def several_fit(path: Path, fitting: Sequence[Reading]) -> DiagnosticError:
    """The diagnostic for a file with several state dicts that fit the network."""
    keys = [(reading.place or reading.prefix).rstrip(".") for reading in fitting]
    return DiagnosticError.of(
        "E0409",
        f"{path} holds several state dicts that fit this network",
        notes=(f"they are: {', '.join(keys)}",),
        help=f"choose one: --key {keys[0]}",
    )


def _averages(places: list[str]) -> bool:
    """True if a moving average is stored beside the model, so that choosing either would be a guess."""
    return len(places) > 1 and any("ema" in place.rpartition(".")[2].lower() for place in places)
