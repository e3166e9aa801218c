"""Official checkpoints: those that shipped specs, specs of packages and the spec at hand name in `official`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from latentc.components import packages
from latentc.diagnostics import DiagnosticError, nearest
from latentc.files import shipped
from latentc.spec.sections import Official
from latentc.spec.yaml import load_yaml
from latentc.weights.download import fetched, place_of, verified
from latentc.weights.hub import OFFICIAL, is_hub, local

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

# The section at the top level of a file: reading it alone takes a hundredth of the time of reading all specs.
_SECTION = re.compile(r"^official:.*?(?=^[^\s#]|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """An official checkpoint: its name, and the spec whose `network` it fits, as a source of `load_spec`."""

    name: str
    spec: str
    given: Official

    @property
    def fits(self) -> str:
        """The spec and variant as on a command line."""
        return self.spec if self.given.variant is None else f"{self.spec} --variant {self.given.variant}"


def network_of(found: Entry, source: Spec, network: str) -> str:
    """The network of the entry's own spec, `source`, whose weights a network of this name gets."""
    if found.given.network is not None or network in source.networks:
        return found.given.network or network
    return next(iter(source.networks))  # a guide, say: `check_fits` refuses it if it is another network


def catalogue() -> dict[str, Entry]:
    """{name: entry} of the shipped specs and of users' packages, in the order of the specs. DiagnosticError E0902."""
    found = dict(shipped_entries())
    for path in packages.specs().values():
        for name, given in _section(path).items():
            found.setdefault(name, Entry(name, str(path), given))
    return found


@cache
def shipped_entries() -> dict[str, Entry]:
    """{name: entry} of the shipped specs."""
    specs = shipped.shipped_specs()
    return {name: Entry(name, spec, given) for spec, path in specs.items() for name, given in _section(path).items()}


def _section(path: Path) -> dict[str, Official]:
    found = _SECTION.search(path.read_text(encoding="utf-8"))
    if found is None:
        return {}
    section = load_yaml(found[0], str(path)).root.fields["official"].data()
    return TypeAdapter(dict[str, Official]).validate_python(section)


def entry(text: Path | str, spec: Spec | None = None) -> Entry:
    """The entry that `official:NAME` means: of the catalogue, else of `spec`. DiagnosticError E0427."""
    name, known = str(text).removeprefix(OFFICIAL), catalogue()
    if name in known:
        return known[name]
    own = {} if spec is None else spec.official_checkpoints
    if spec is not None and name in own:
        return Entry(name, spec._origin[0] if spec._origin is not None else "", own[name])
    close = nearest(name, [*own, *known])
    mend = f"did you mean `{OFFICIAL}{close}`?" if close else "`latentc specs --weights` lists them"
    raise DiagnosticError.of("E0427", f"no official checkpoint `{name}` is known", help=mend)


def is_here(found: Entry) -> bool:
    """True if the checkpoint is in the user's cache; those of the Hub are in its own cache, and count as absent."""
    return not is_hub(found.given.weights) and place_of(found.name, found.given.weights).is_file()


def file_of(found: Entry) -> Path:
    """The checkpoint on this machine, downloaded if need be. DiagnosticError E0425, E0427, E0428, E0706."""
    given = found.given
    if is_hub(given.weights):
        return verified(local(given.weights), found.name, given.sha256)
    if given.by_hand is not None:
        place = place_of(found.name, given.weights)
        if not place.is_file():
            message = f"`{OFFICIAL}{found.name}` cannot be downloaded by latentc: {given.by_hand}"
            mend = f"download {given.weights} in a browser and move the file to {place}"
            raise DiagnosticError.of("E0427", message, help=mend)
        return verified(place, found.name, given.sha256)
    return fetched(found.name, given.weights, given.sha256, f"licence: {given.licence}")
