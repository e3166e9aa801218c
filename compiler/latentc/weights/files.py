"""Open a weights file or folder by its content, not its name."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.weights.distributed import parts_of, read_parts
from latentc.weights.expr import Expr
from latentc.weights.hub import is_remote, local
from latentc.weights.npz import read_npz, unread
from latentc.weights.safetensors import read_safetensors, unreadable
from latentc.weights.state_dicts import Reading, chosen, readings, state_dicts
from latentc.weights.torch_pt import read_torch
from latentc_runtime.npy import DAMAGE

_FOREIGN = {
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"\x93NUM": "a single .npy array, which has no names",
}
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".npz")
_KNOWN = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "averages.safetensors",  # written in checkpoints of emitted projects
    "networks.safetensors",
)
_LARGEST_INDEX = 1 << 28  # bytes
_T = TypeVar("_T")


def open_weights(path: Path | str, key: str | None = None) -> dict[str, Expr]:
    """{name: tensor} of a safetensors file, .pt file, .npz archive, shard index, or a folder with one of these.

    `hub:ORG/NAME` is downloaded. `key` selects one of several state dicts in a checkpoint (`ema`), by its path (`a.b`)
    or the last parts of it; in a flat file it selects the names under `key.`. Without it, a model saved together with
    other things is found if there is only one. Only headers are read. Raises DiagnosticError: E0401 to E0409, E0414,
    E0425.
    """
    return chosen(Path(path), open_state_dicts(path), key).unwrapped().tensors


def open_state_dicts(path: Path | str) -> dict[str, dict[str, Expr]]:
    """{dotted path: tensors} of every state dict in a file or folder. Raises as `open_weights`, without E0409."""
    path = local(path)
    return state_dicts(_folder(path) if path.is_dir() else _tree(path))


def file_readings(path: Path | str, key: str | None) -> list[Reading]:
    """Every way to read the names of a file, only that of `key` if given. Raises as `open_weights`."""
    return group_readings(path, open_state_dicts(path), key)


def group_readings(path: Path | str, groups: Mapping[str, dict[str, Expr]], key: str | None) -> list[Reading]:
    """Every way to read the names of state dicts {dotted path: tensors} from `path`, which messages name."""
    if key is not None:
        return [replace(chosen(Path(path), groups, key).unwrapped(), sure=True)]
    found = list(readings(groups))
    with contextlib.suppress(DiagnosticError):
        sure = replace(chosen(Path(path), groups, None).unwrapped(), sure=True)
        found = [sure, *(reading for reading in found if (reading.place, reading.prefix) != (sure.place, sure.prefix))]
    return found


def _tree(path: Path) -> Mapping[Any, Any]:
    """The file as nested dicts with expressions as leaves."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise unreadable(path, error) from error
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except DAMAGE as error:
            raise unread(path, error) from error
        if any(name.endswith("data.pkl") for name in names):
            return _mapping(path, read_torch(path))
        if names and all(name.endswith(".npy") for name in names):
            return _dotted(read_npz(path))
    elif head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05" and len(head) > 1:
        return _mapping(path, read_torch(path))
    elif head[8:9] == b"{" or path.suffix == ".safetensors":
        return _dotted(read_safetensors(path))
    elif head.lstrip().startswith(b"{"):
        return _sharded(path)
    raise DiagnosticError.of(
        "E0403",
        f"{path} is {_FOREIGN.get(head[:4], 'empty' if not head else 'in no known weights format')}",
        help="latentc reads .safetensors, .pt and .npz files, and folders of shards",
    )


def _dotted(named: Mapping[str, _T]) -> Mapping[str, _T]:
    """`named` by dotted names: names from JAX are nested with slashes."""
    dotted = {name.replace("/", "."): one for name, one in named.items()}
    return dotted if len(dotted) == len(named) else named


def _mapping(path: Path, tree: Any) -> Mapping[Any, Any]:
    if isinstance(tree, Mapping):
        return tree
    raise DiagnosticError.of("E0403", f"{path} holds a single object, not a state dict")


def _folder(path: Path) -> Mapping[Any, Any]:
    if parts := parts_of(path):
        return read_parts(parts)
    indices = sorted(path.glob("*.index.json"))
    files = sorted(f for f in path.iterdir() if f.name.endswith(_SUFFIXES))
    known = [f for name in _KNOWN for f in (*indices, *files) if f.name in (name, f"{name}.index.json")]
    if known:  # of diffusers and transformers; other files are copies (fp16, .bin) or unrelated
        return _sharded(known[0]) if known[0] in indices else _tree(known[0])
    if len(indices) == 1:
        return _sharded(indices[0])
    if indices or not files or (len(files) > 1 and any(f.suffix != ".safetensors" for f in files)):
        found = ", ".join(f.name for f in [*indices, *files]) or "none"
        inner = [folder.name for folder in sorted(path.iterdir()) if any((folder / name).is_file() for name in _KNOWN)]
        raise DiagnosticError.of(
            "E0403",
            f"{path} is a folder, and it is not clear which files in it are the weights",
            notes=(f"weights files there: {found}",),
            help=f"name one of the folders in it: {', '.join(inner)}" if inner else "name the file itself",
        )
    if len(files) == 1:
        return _tree(files[0])
    tensors: dict[str, Expr] = {}
    for file in files:
        for name, expr in read_safetensors(file).items():
            if name in tensors:
                raise _shards(path, f"{name!r} is in {file.name} and in another file of the folder")
            tensors[name] = expr
    return _dotted(tensors)


Files = Path | str | Sequence[Path | str]
"""One file for all networks, or `NETWORK=FILE` for each network."""


def named_files(given: Files, networks: Sequence[str], needed: Sequence[str]) -> dict[str, Path]:
    """{network: its file}, or {"": the file of all networks}; `needed` ones must have a file. DiagnosticError E0415."""
    found = [_named(text, networks) for text in ([given] if isinstance(given, Path | str) else given)]
    named = [name for name, _ in found]
    missing = set(needed) - set(named)
    if named != [""] and ("" in named or missing or len(set(named)) < len(named)):
        for_whom = ", ".join(name or "all of them" for name in named) or "none"
        message = f"weights are given for {for_whom}, but the networks are {', '.join(networks)}"
        raise DiagnosticError.of(
            "E0415",
            message,
            help="give one FILE for all networks, or NETWORK=FILE once per network, or `checkpoints:` in the spec",
        )
    return dict(found)


def _named(text: Path | str, networks: Sequence[str]) -> tuple[str, Path]:
    """(network, file) of `NETWORK=FILE`; the network of a plain file is empty. DiagnosticError E0415."""
    name, equals, file = str(text).partition("=")
    if not equals or not name.isidentifier() or is_remote(text) or Path(text).exists():
        return "", Path(text)
    if name not in networks:
        mend = did_you_mean(name, networks, f"networks of this spec: {', '.join(networks)}")
        raise DiagnosticError.of("E0415", f"the spec has no network `{name}`", help=mend)
    return name, Path(file)


def files_of(path: Path | str) -> list[Path]:
    """Every file that `open_weights(path)` may read, opened by name. DiagnosticError E0401, E0402, E0406."""
    path = local(path)
    if path.is_dir():
        return parts_of(path) or sorted(
            f for f in path.iterdir() if f.name.endswith((".index.json", *_SUFFIXES)) and f.is_file()
        )
    try:
        with path.open("rb") as file:
            is_index = file.read(16).lstrip().startswith(b"{")
    except OSError as error:
        raise unreadable(path, error) from error
    return [path, *(path.parent / name for name in sorted(set(_weight_map(path).values())))] if is_index else [path]


def _sharded(index: Path) -> dict[str, Expr]:
    """The tensors that a `….index.json` lists, each from the file it names."""
    where = _dotted(_weight_map(index))
    shards: dict[str, Mapping[Any, Any]] = {}
    for file in sorted(set(where.values())):
        groups = state_dicts({} if (index.parent / file) == index else _tree(index.parent / file))
        shards[file] = chosen(index.parent / file, groups, None).tensors
    for name, file in where.items():
        if name not in shards[file]:
            raise _shards(index, f"{file} does not hold {name!r}")
    return {name: shards[file][name] for name, file in where.items()}


def _weight_map(index: Path) -> dict[str, str]:
    """Names to files beside the index."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise _shards(index, "it is larger than any index")
        parsed = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(index, error) from error
    except (ValueError, RecursionError) as error:
        raise _shards(index, "it is not valid JSON") from error
    where = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise _shards(index, "it has no weight_map of names to files")
    for file in sorted(set(where.values())):
        # An index is untrusted data: it may only name files next to itself.
        if Path(file).name != file or not (index.parent / file).is_file():
            raise _shards(index, f"its file {file!r} is missing")
    return where


def _shards(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError.of(
        "E0406", f"the shards of {path} do not fit together: {why}", help="fetch all files of the model again"
    )
