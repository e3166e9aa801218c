"""Detects whether the bundle in a folder is up to date, so that compiling can leave it untouched."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import latentc
import latentc_runtime
from latentc.components import mistakes
from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.engines.contract import versions
from latentc.weights.files import files_of
from latentc_runtime import BundleError
from latentc_runtime.bundle import open_bundle
from latentc_runtime.hashes import identity, settled

if TYPE_CHECKING:
    from latentc.spec.schema import Spec
    from latentc_runtime.manifest import Manifest


def compile_key(
    spec: Spec,
    spec_text: str,
    weights: Mapping[str, Path],
    options: Mapping[str, Any],
    others: Mapping[str, Path] | None = None,
) -> str:
    """Sha256 of everything that determines a bundle: spec, identity of the weights, options, versions, our code.

    Files are identified by inode, size and times, not read. The key is empty if it could be ambiguous: for a file that
    was written a moment ago, or plans for the GPU of this machine. `weights` come from `weights.files.named_files`;
    `options` are plain data; `others` are further files, such as tokenizers.
    """
    states = _states(weights, others)
    target = spec.target
    plans_for_here = ENGINES[target.engine].plans is not None and target.plans and not target.capabilities
    if plans_for_here or not all(settled(status) for *_, status in states):
        return ""
    inputs = {
        "spec": spec_text,
        "weights": [(name, str(path.resolve()), identity(status)) for name, path, status in states],
        "options": options,
        "versions": versions(target.engine),
        "code": [_code(), *_of_users(spec)],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def weights_as_they_are(weights: Mapping[str, Path], others: Mapping[str, Path] | None = None) -> Callable[[], None]:
    """A check that raises DiagnosticError E0413 if a weights file, or one of `others`, has changed since this call.

    Weights are read in ranges during compilation: if training replaced the file meanwhile, old and new weights would be
    mixed.
    """
    before = {path: identity(status) for _, path, status in _states(weights, others)}

    def check() -> None:
        for path, known in before.items():
            try:
                changed = identity(path.stat()) != known
            except OSError:
                changed = True
            if changed:
                message = f"{path} was written or moved while it was compiled"
                mend = "run it again once the file is complete; copy a checkpoint that training may still replace"
                raise DiagnosticError.of("E0413", message, help=mend)

    return check


def unchanged(folder: Path, key: str) -> Manifest | None:
    """The manifest of the bundle in `folder` if it was built with this key and all its files are intact."""
    if not key or not (folder / "manifest.json").is_file():
        return None
    try:
        if open_bundle(folder, verify=False).manifest.made_from != key:
            return None
        return open_bundle(folder).manifest
    except BundleError:
        return None  # damaged, so it is built again


def _states(
    weights: Mapping[str, Path], others: Mapping[str, Path] | None = None
) -> list[tuple[str, Path, os.stat_result]]:
    """Every file by name; weights may be in several."""
    paths = [(name, path) for name, given in weights.items() for path in files_of(given)]
    return [(name, path, path.stat()) for name, path in [*paths, *(others or {}).items()]]


def _of_users(spec: Spec) -> list[str]:
    """The users' packages whose components a spec has, with the sha256 of their sources."""
    names = {cls.__module__.partition(".")[0] for cls in mistakes.of_users(spec)}
    return [f"{name} {_sources(mistakes.USERS[name])}" for name in sorted(names)]


@functools.cache
def _code() -> str:
    """Sha256 of the sources of the compiler and the runtime."""
    return "".join(_sources(Path(package.__file__ or "").parent) for package in (latentc, latentc_runtime))


def _sources(root: Path) -> str:
    """Sha256 of a package's sources."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
