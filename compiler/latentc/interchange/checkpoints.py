"""Recognises a checkpoint file: the shipped system, the variant and the name map whose names and shapes it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from latentc.checkpoint import computed, name_map, network_params, network_types, symbols
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.files import shipped
from latentc.interchange.copies import are_equal, copies
from latentc.interchange.diffusers import Data
from latentc.interchange.folders import Found
from latentc.lower import lower, lower_networks
from latentc.spec import Spec, variant_names
from latentc.spec.load import spec_from_resolved
from latentc.spec.resolve import resolve_file
from latentc.spec.yaml import Document
from latentc.weights import can_import, ignored_names
from latentc.weights.files import file_readings
from latentc.weights.kinds import may_follow, name_kinds
from latentc.weights.rules import RawRule
from latentc.weights.state_dicts import Reading, several_fit

_SPREAD = 0.1  # largest difference in the number of elements of a file: name maps may cut or add a few
_MOST_SHOWN = 12


@dataclass
class Candidate:
    """A system whose networks a file fits; `networks` {network: (name map, readings of the file that fit)}."""

    system: str
    variant: str | None
    spec: Spec
    networks: dict[str, tuple[str, list[Reading]]] = field(default_factory=dict)
    complete: bool = False

    @property
    def options(self) -> str:
        return f"--spec {self.system}" + (f" --variant {self.variant}" if self.variant is not None else "")


def recognised(path: Path, system: str | None, variant: str | None, key: str | None) -> Found:
    """The shipped system of a checkpoint. DiagnosticError E0417 (none, or several), E0409 (several state dicts fit)."""
    if system is not None and system not in shipped.shipped_specs():
        mend = did_you_mean(system, shipped.shipped_specs(), "`latentc specs` lists them")
        raise DiagnosticError.of("E0417", f"no shipped spec `{system}`", help=mend)
    readings = file_readings(path, key)
    found = list(candidates(readings, system, variant))
    if not found:
        raise _none(path, readings, system, variant)
    if len(found) > 1:
        shown = "\n".join(candidate.options for candidate in found[:_MOST_SHOWN])
        more = f"\n… and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        message = f"{path} fits {len(found)} shipped systems, whose tensors have the same names and shapes"
        raise DiagnosticError.of("E0417", message, notes=(shown + more,), help=f"choose one: {found[0].options}")
    return _found(path, found[0], key)


def _found(path: Path, chosen: Candidate, key: str | None) -> Found:
    checkpoints = {}
    for network, (names, fits) in chosen.networks.items():
        if len(fits) > 1:
            raise several_fit(path, fits)
        checkpoints[network] = {"weights": path, "names": names, **({"key": key} if key is not None else {})}
    changes: Data = (
        {} if chosen.variant is None else Document(resolve_file(chosen.system).variants[chosen.variant]).data
    )
    variant = f", variant {chosen.variant}" if chosen.variant is not None else ""
    notes = [
        f"the file has no weights of network `{name}`: give them with -w {name}=FILE"
        for name in lower(chosen.spec).sampled
        if name not in checkpoints
    ]
    return Found(
        f"a checkpoint of {chosen.system}{variant}",
        {"extends": chosen.system, **changes, "checkpoints": checkpoints},
        None,
        notes,
    )


def candidates(
    readings: Sequence[Reading], system: str | None = None, variant: str | None = None
) -> Iterator[Candidate]:
    """The systems and variants that a file fits; those it fits with all networks that sample hide the others.

    Networks that are trained from a copy of another have no published checkpoints, and are tried only if `system`
    names their spec. A spec without a variant is left out if it equals one of its variants. Of systems of which some
    have one tensor where the file has copies, those that have them all are left out, or the others if they differ.
    """
    kinds = [name_kinds(reading.tensors) for reading in readings]
    found: list[Candidate] = []
    for name in [system] if system is not None else shipped.shipped_specs():
        if system is None and not any(may_follow(rules, names) for rules in name_maps(name) for names in kinds):
            continue  # without building the networks, which takes longer
        opened = opened_variant(name, None)
        assert opened is not None
        if system is None and any(getattr(net, "copy_of", None) is not None for net in opened[0].networks.values()):
            continue
        fits = [
            fit
            for other in (*variant_names(name), None)
            if variant in (None, other) and (fit := fit_variant(name, other, readings)) is not None
        ]
        found += [
            fit for fit in fits if fit.variant is not None or all(fit.spec != o.spec for o in fits if o is not fit)
        ]
    whole = [candidate for candidate in found if candidate.complete]
    yield from _explaining(whole or found)


def _explaining(found: Sequence[Candidate]) -> Sequence[Candidate]:
    """Of several candidates, those that take equal tensors for copies, if any; none that takes different ones so."""
    if len(found) < 2:
        return found
    ties = [_ties(candidate) for candidate in found]
    wanted = (True,) if True in ties else (None,)
    return [candidate for candidate, tie in zip(found, ties, strict=True) if tie in wanted]


def _ties(candidate: Candidate) -> bool | None:
    """Whether what its name maps leave out as copies of other tensors is equal to them; None if they leave out none."""
    opened = opened_variant(candidate.system, candidate.variant)
    assert opened is not None
    spec, lowered = opened
    equal = None
    for network, (names, fits) in candidate.networks.items():
        rules, sizes = name_map(spec, network, names), symbols(lowered, lowered.networks[network])
        for fit in fits:
            if pairs := list(copies(fit.tensors, rules, sizes)):
                equal = equal is not False and are_equal(fit.tensors, pairs)
    return equal


def name_maps(system: str) -> Iterator[Sequence[RawRule]]:
    """The name maps of a shipped spec, for any network and of any of its variants."""
    resolved = resolve_file(system)
    for changed in (resolved.document.root, *resolved.variants.values()):
        maps = changed.fields.get("weights")
        for networks in maps.fields.values() if maps is not None else ():
            yield from (rules.data() for rules in networks.fields.values() if isinstance(rules.value, list))


def fit_variant(system: str, variant: str | None, readings: Sequence[Reading]) -> Candidate | None:
    """How a file fits a variant; None if it fits none of its networks."""
    opened = opened_variant(system, variant)
    if opened is None:
        return None
    spec, lowered = opened
    found = Candidate(system, variant, spec)
    for names, networks in spec.weights.items():
        for network in networks:
            if network in found.networks or network not in lowered.networks:
                continue
            fits = list(_fitting(spec, lowered, network, names, readings))
            if fits:
                found.networks[network] = (names, fits)
    if not found.networks:
        return None
    every = lowered.networks.keys() <= found.networks.keys()
    found.complete = every or _sampled(system, variant) <= found.networks.keys()
    return found


@lru_cache(maxsize=512)
def _sampled(system: str, variant: str | None) -> frozenset[str]:
    """The networks that the programs of a variant call."""
    opened = opened_variant(system, variant)
    return frozenset() if opened is None else frozenset(lower(opened[0]).sampled)


@lru_cache(maxsize=512)
def opened_variant(system: str, variant: str | None) -> tuple[Spec, Lowered] | None:
    """A shipped spec and its lowered networks; None if the variant does not fit what the spec changes.

    Both are sound, as all that ships; neither is checked again, as a file is compared with many.
    """
    try:
        spec = spec_from_resolved(resolve_file(system, variant), rules=False)
        return spec, lower_networks(spec, verified=False)
    except DiagnosticError:
        return None


def _fitting(spec: Spec, lowered: Lowered, network: str, names: str, readings: Sequence[Reading]) -> Iterator[Reading]:
    """The readings that fit a network; the one that must be meant alone, if it does."""
    types = network_types(lowered, network)
    elements = sum(math.prod(map(int, shape)) for shape, _ in types.values())
    large = [r for r in readings if sum(math.prod(t.shape) for t in r.tensors.values()) >= elements * (1 - _SPREAD)]
    if not large:
        return
    rules, symbolic = name_map(spec, network, names), symbols(lowered, lowered.networks[network])
    sizes = _constants(spec, lowered, network, names)
    for reading in large:
        ignored = ignored_names(rules, reading.tensors, symbolic)
        theirs = sum(math.prod(tensor.shape) for name, tensor in reading.tensors.items() if name not in ignored)
        if not elements * (1 - _SPREAD) <= theirs <= elements * (1 + _SPREAD):
            continue
        if any(reading.tensors[name].shape != shape for name, shape in sizes.items() if name in reading.tensors):
            continue
        if not can_import(reading.tensors, rules, types, symbolic):
            continue
        yield reading
        if reading.sure:
            return


def _constants(spec: Spec, lowered: Lowered, network: str, names: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the buffers that official files hold and latentc computes, such as position embeddings."""
    net = lowered.networks[network]
    buffers = {name: param for name, param in network_params(lowered, net).items() if computed(param)}
    kept = ignored_names(name_map(spec, network, names), buffers, symbols(lowered, net))
    return {name: tuple(map(int, buffers[name].type.shape)) for name in kept}  # type: ignore[arg-type]


def _none(path: Path, readings: Sequence[Reading], system: str | None, variant: str | None) -> DiagnosticError:
    """The diagnostic for a file that fits nothing."""
    names = list(readings[0].tensors) if readings else []
    shown = "".join(f"\n  {name} {list(readings[0].tensors[name].shape)}" for name in names[:4])
    wanted = "any shipped system" if system is None else f"{system}" + (f", variant {variant}" if variant else "")
    return DiagnosticError.of(
        "E0417",
        f"the tensors of {path} do not have the names and shapes of {wanted}",
        notes=(f"it holds {len(names)} tensors, such as{shown}",) if names else (),
        help="for other sizes, write a spec that extends the system's, and give it the file with `--weights`",
    )
