"""The text of somebody's first spec: a small system that ships with latentc, under a new name."""

from __future__ import annotations

from pathlib import Path

from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.files import shipped
from latentc.spec.load import load_spec

SMALL = "digits"  # the family of specs that train on handwritten digits in a minute or two

_CHECK = "# `latentc check` says what is wrong, `latentc check --resolved` shows every default."
_OWN_IMAGES = """\
# Your own images, one sub-folder per class: {kind: image_folder, path: images, classes: 10, shape: [3, 32, 32]}.
# Arrays: {kind: npz, path: my.npz, classes: 10, shape: [3, 32, 32]}; docs/spec.md has all other forms of data."""
_OWN_TOKENS = """\
# Your own tokens: {kind: npz, path: my.npz, classes: 10, tokens: {vocabulary: 1024, grid: [16, 16]}}.
# docs/spec.md has all other forms of data."""


def first_spec(name: str, system: str) -> str:
    """The text of a spec called `name` that starts from a shipped one.

    A system that has a small form for handwritten digits (`dit`: `digits_dit`) gives a copy of that; any other a spec
    that extends it, at its published size. Raises DiagnosticError E0401 if no such spec ships.
    """
    path = system_file(system)
    if path.parent.name != SMALL:
        return _extended(name, path.stem)
    title, *lines = path.read_text(encoding="utf-8").splitlines()
    head = [f"# {name}. {title.removeprefix('# ')}", _CHECK]
    own = _OWN_IMAGES if "x" in load_spec(path.stem).data.fields else _OWN_TOKENS
    for line in lines:
        if line.startswith("data:"):
            head += own.splitlines()
        head.append(f'name: "{name}"' if line.startswith("name:") else line)
    return "\n".join(head) + "\n"


def system_file(system: str) -> Path:
    """The shipped spec of a system, in its small form for digits if there is one. DiagnosticError E0401."""
    specs, key = shipped.shipped_specs(), system.replace("-", "_")
    path = specs.get(f"{SMALL}_{key}") or specs.get(key)
    if path is None:
        mend = did_you_mean(key, specs, "`latentc specs` lists them")
        raise DiagnosticError.of("E0401", f"no spec `{system}` ships with latentc", help=mend)
    return path


def _extended(name: str, system: str) -> str:
    """A spec that inherits all of `system`, with the sections that its user changes first."""
    spec = load_spec(system)
    data, train = spec.data, spec.train
    path = getattr(data, "path", None)
    lines = [
        f"# {name}: {system} ({spec.source}), trained on your own data.",
        _CHECK,
        f"# It has the published size; `latentc specs` lists variants, `latentc show {name}.yaml` what it costs.",
        "latentc: 1",
        f'name: "{name}"',
        f"extends: {system}",
        "",
    ]
    if path is not None:
        lines += [
            f"data:                           # {data.kind}: {data.words}; `latentc check --resolved` shows the rest",
            f"  path: {path}",
            "",
        ]
    return "\n".join([*lines, "train:", f"  steps: {train.steps}", f"  batch_size: {train.batch_size}", ""])
