"""Weights named `official:NAME`: downloaded only once it is clear that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentc.checkpoint.parameters import network_types
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.official import Entry, catalogue, entry, file_of, is_here, network_of
from latentc.spec.schema import Spec
from latentc.weights.hub import OFFICIAL, is_official
from latentc.weights.names import Types


def local_files(spec: Spec, files: Mapping[str, Path]) -> dict[str, Path]:
    """{network: file} with a file of this machine for each `official:NAME`; the network of a file for all is "".

    A checkpoint that does not fit is refused before it is downloaded. Raises DiagnosticError E0410, E0425, E0427,
    E0428 and E0706.
    """
    found = dict(files)
    for network, path in files.items():
        if not is_official(path):
            continue
        wanted = spec.first_stage if network == FIRST_STAGE else spec
        assert wanted is not None  # files of first stages are asked for only if there is one
        which = entry(path, wanted)
        if not is_here(which):
            source = load_spec(which.spec, which.given.variant)
            lowered, theirs = lower(wanted), lower(source)
            alone = "main" if network == FIRST_STAGE else network
            for name in [alone] if alone else [n for n in lowered.sampled or lowered.networks if n != FIRST_STAGE]:
                types = network_types(theirs, network_of(which, source, name))
                check_fits(which, name, network_types(lowered, name), types)
        found[network] = file_of(which)
    return found


def check_fits(found: Entry, network: str, ours: Types, theirs: Types) -> None:
    """DiagnosticError E0410 if an official checkpoint, with tensors `theirs`, differs from a network.

    `theirs` are those of the network that it is published for, under latentc's names.
    """
    # Sizes as plain numbers: those of two networks are different symbols.
    wanted, held = ({name: [*map(int, shape)] for name, (shape, _) in types.items()} for types in (ours, theirs))
    faults = [
        f"{name}: the network has {shape}, the checkpoint {held.get(name, 'none')}"
        for name, shape in wanted.items()
        if held.get(name) != shape
    ]
    if not faults:
        return
    message = f"`{OFFICIAL}{found.name}` does not fit the network `{network}`: {len(faults)} tensors differ"
    others = [name for name, other in catalogue().items() if other.spec == found.spec and name != found.name]
    mend = f"it is for `{found.fits}`" + (f"; others of this spec: {', '.join(others[:8])}" if others else "")
    raise DiagnosticError.of("E0410", message, notes=tuple(faults[:3]), help=mend)
