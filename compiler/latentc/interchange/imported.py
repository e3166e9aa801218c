"""Writes a checkpoint or pipeline as a spec, whose default weights it is."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.checkpoint import network_weights
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError
from latentc.export.folder import new_folder
from latentc.interchange.checkpoints import recognised
from latentc.interchange.folders import FIRST_STAGE_FILE, Found, found_in_folder, is_diffusers
from latentc.lower import lower
from latentc.spec import Spec, load_spec
from latentc.spec.write import yaml_from_data
from latentc_runtime.sources import ConditionSource

MARKER = "latentc.json"
"""File by which a folder that latentc wrote is recognised."""
_SHOWN = 8  # samples of the command that is printed, at most


@dataclass(frozen=True)
class Imported:
    """A written import: `system` is the recognised spec, `notes` list what was changed or left out."""

    folder: Path
    system: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def spec(self) -> Path:
        return self.folder / "spec.yaml"

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "spec": str(self.spec),
            "system": self.system,
            "files": list(self.files),
            "notes": list(self.notes),
            "commands": list(self.commands),
        }


def import_source(
    source: Path, folder: Path, system: str | None, variant: str | None, key: str | None, force: bool
) -> Imported:
    """Write `folder`/spec.yaml for a folder of diffusers or a checkpoint file.

    `system` and `variant` choose among the shipped systems that a file fits, `key` among its state dicts. `force`
    replaces an earlier import. The weights stay where they are. Raises DiagnosticError: E0401 to E0411 (files), E0416
    (a setting that no spec can express), E0417 (no shipped system, or several), E0501, E0502.
    """
    if not source.exists():
        raise DiagnosticError.of("E0401", f"no such file or folder: {source}")
    check_free(folder, force)
    if is_diffusers(source):
        if system is not None or variant is not None:
            mend = "leave `--spec` and `--variant` out: the folder's configuration determines the spec"
            raise DiagnosticError.of("E0417", f"{source} is a folder of diffusers", help=mend)
        found = found_in_folder(source)
    else:
        found = recognised(source, system, variant, key)
    name = _name(folder)
    with new_folder(folder, "import", MARKER) as temporary:
        files = _write(temporary, folder, name, source, found)
        spec = _checked(temporary)
    return Imported(folder, found.system, files, tuple(found.notes), tuple(_commands(folder, spec)))


def check_free(folder: Path, force: bool) -> None:
    """DiagnosticError E0502 if the folder is not empty, unless `force`."""
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not force:
        mend = "choose another folder, or `--force` to replace one that latentc wrote"
        raise DiagnosticError.of("E0502", f"{folder} exists already", help=mend)


def _write(temporary: Path, folder: Path, name: str, source: Path, found: Found) -> tuple[str, ...]:
    """Writes the files into the temporary folder; paths in them are relative to the final one."""
    documents = {"spec.yaml": found.spec, **({FIRST_STAGE_FILE: found.first_stage} if found.first_stage else {})}
    for file, data in documents.items():
        named = {
            "latentc": 1,
            "name": name if file == "spec.yaml" else f"{name[:50]}-first-stage",
            **_with_paths(data, folder),
        }
        head = f"# Imported from {json.dumps(str(source))[1:-1]}: {found.system}.\n"
        (temporary / file).write_text(head + yaml_from_data(named), encoding="utf-8")
    about = {"imported_from": str(source.resolve()), "system": found.system, "notes": found.notes}
    (temporary / MARKER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return tuple(documents)


def _with_paths(data: Any, folder: Path) -> Any:
    """Plain data in which each `Path` is a text: relative to `folder` if they share more than the root."""
    if isinstance(data, Path):
        own, place = data.resolve(), folder.resolve()
        near = Path(os.path.commonpath([own, place])) != Path(own.anchor)
        return Path(os.path.relpath(own, place)).as_posix() if near else own.as_posix()
    if isinstance(data, Mapping):
        return {key: _with_paths(value, folder) for key, value in data.items()}
    return [_with_paths(item, folder) for item in data] if isinstance(data, list | tuple) else data


def _checked(folder: Path) -> Spec:
    """The written spec, which is sound, and whose weights fit it. DiagnosticError if not."""
    spec = load_spec(folder / "spec.yaml")
    lowered = lower(spec)
    held = [name for name in lowered.networks if name in spec.checkpoints or name == FIRST_STAGE]
    network_weights(spec, lowered, None, networks=held)
    return spec


def _name(folder: Path) -> str:
    """A spec's name from the folder's."""
    text = re.sub(r"[^A-Za-z0-9._+-]+", "-", folder.resolve().name).strip("._+-")[:64]
    return text or "imported"


def _commands(folder: Path, spec: Spec) -> Sequence[str]:
    """The commands to run next."""
    path = shlex.quote(str(folder / "spec.yaml"))
    bundle = shlex.quote(f"{folder}.latentc")
    commands = [f"latentc show {path}"]
    lowered = lower(spec)
    if not lowered.programs:
        return commands
    missing = [name for name in lowered.sampled if name not in spec.checkpoints and name != FIRST_STAGE]
    stage = spec.data.first_stage
    if stage is not None and stage.weights is None:
        missing.append(FIRST_STAGE)
    program = lowered.programs[0]
    read = {source.condition for source in program.sources.values() if isinstance(source, ConditionSource)}
    asked = [c for c in (*program.conditions, *lowered.conditions) if c.name in read]
    given = [f" --given {c.name}=FILE" for c in asked if c.form != "label" and c.default is None]
    labels = [c for c in asked if c.form == "label" and c.classes is not None]
    chosen = "" if given or labels else f" --count {_SHOWN}"
    if len(labels) == 1:
        chosen = f" --class 0-{min(labels[0].classes or 1, _SHOWN) - 1}"
    return [
        *commands,
        f"latentc compile {path}{''.join(f' -w {name}=FILE' for name in missing)} -o {bundle}",
        f"latentc sample {bundle}{chosen}{''.join(dict.fromkeys(given))} -o samples",
        f"latentc verify {bundle}",
    ]
