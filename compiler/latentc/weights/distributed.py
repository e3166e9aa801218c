"""Read sharded checkpoints: tensors whose parts several training processes wrote, each into its own safetensors file.

Format: torch.distributed.checkpoint.HuggingFaceStorageWriter with `save_distributed`. The metadata entry
`DCP_SHARDING_INFO` of a file maps a tensor's name to `saved_offsets`: where in the whole tensor its part begins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from latentc.diagnostics import DiagnosticError
from latentc.weights.expr import Expr, concatenate
from latentc.weights.safetensors import read_safetensors

_ENTRY = "DCP_SHARDING_INFO"


def parts_of(folder: Path) -> list[Path]:
    """The files with the averages (else the networks) of a sharded checkpoint of an emitted project, by its state.json.

    Empty if the folder is no such checkpoint. DiagnosticError E0406 if a file is missing.
    """
    try:
        listed = json.loads((folder / "state.json").read_bytes())["state"]["files"]
        names = [Path(name) for name in sorted(listed)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    for kind in ("averages", "networks"):
        # The list is untrusted data: it may only name files in this folder.
        files = [folder / kind / name.name for name in names if name.parent == Path(kind)]
        for file in files:
            if not file.is_file():
                raise _misfit(folder, f"{file.relative_to(folder)} is missing")
        if files:
            return files
    return []


def read_parts(files: Sequence[Path]) -> dict[str, Expr]:
    """{name: whole tensor} from the files of all processes; nothing but headers is read.

    Tensors must be split along one axis, as FSDP splits them. Raises DiagnosticError: E0401, E0402, E0404, E0405, and
    E0406 if parts are missing or do not fit together.
    """
    parts: dict[str, list[tuple[tuple[int, ...], Expr]]] = {}
    for file in files:
        tensors = read_safetensors(file)
        offsets = _offsets(file)
        for name, tensor in tensors.items():
            begin = offsets.get(name)
            if begin is None or len(begin) != len(tensor.shape):
                raise _misfit(file, f"it does not say where its part of {name!r} begins")
            parts.setdefault(name, []).append((begin, tensor))
    return {name: _joined(files[0].parent, name, found) for name, found in parts.items()}


def _offsets(file: Path) -> dict[str, tuple[int, ...]]:
    """{name: index of the first element} as the file's metadata have it."""
    with safe_open(file, "numpy") as opened:
        entry = (opened.metadata() or {}).get(_ENTRY, "{}")
    try:
        found = json.loads(entry)
        return {name: tuple(int(at) for at in about["saved_offsets"]) for name, about in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _misfit(file, f"its entry {_ENTRY} is damaged") from error


def _joined(folder: Path, name: str, found: list[tuple[tuple[int, ...], Expr]]) -> Expr:
    """The whole tensor of parts that follow one another along one axis."""
    found = [part for part in sorted(found, key=lambda part: part[0]) if 0 not in part[1].shape] or found[:1]
    axes = [axis for axis in range(len(found[0][0])) if any(begin[axis] for begin, _ in found)]
    if len(axes) > 1:
        raise _misfit(folder, f"{name!r} is split along several axes")
    axis, position = axes[0] if axes else 0, 0
    if not found[0][0]:  # a scalar
        return found[0][1]
    for begin, tensor in found:
        if begin[axis] != position:
            raise _misfit(folder, f"rows {position} to {begin[axis] - 1} of {name!r} are in none of its files")
        position += tensor.shape[axis]
    try:
        return concatenate([tensor for _, tensor in found], axis)
    except ValueError as error:
        raise _misfit(folder, f"{name!r}: {error}") from error


def _misfit(path: Path, why: str) -> DiagnosticError:
    message = f"the parts of the sharded checkpoint {path} do not fit together: {why}"
    return DiagnosticError.of("E0406", message, help="use an older checkpoint, or copy all files of this one again")
