"""Opens a weights file or folder by what it holds, whatever it is called."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.weights.expr import Array, Cast, Concatenate, Expr, Reshape, Slice, Stored, Transpose
from latentc.weights.npz import DAMAGE, read_npz, unread
from latentc.weights.safetensors import read_safetensors, unreadable
from latentc.weights.torch_pt import read_torch

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile put before every name; taken off."""

MODELS = frozenset({"model", "state_dict", "module", "net", "network", "params", "weights", "generator"})
"""Keys under which training scripts save the trained model; never moving averages, which must be asked for."""

_FOREIGN = {
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"\x93NUM": "a single .npy array, which has no names",
}
_SUFFIXES = (".safetensors", ".pt", ".pth", ".npz")
_DEEPEST = 16  # dicts within dicts that are looked into for state dicts
_LARGEST_INDEX = 1 << 28  # bytes


def open_weights(path: Path | str, key: str | None = None) -> dict[str, Expr]:
    """The tensors of a safetensors file, .pt file, .npz archive, shard index, or a folder with one of these.

    `key` picks one of several state dicts in a checkpoint (`ema`), by its place (`a.b`) or the place's last part; in
    a flat file it picks the names under `key.`. Without it a model saved beside other things is found where there
    is only one. Nothing but headers is read. Raises DiagnosticError: E0401 to E0409, E0414.
    """
    path = Path(path)
    groups = _groups(_folder(path) if path.is_dir() else _tree(path))
    tensors = _selected(path, groups, key)
    for prefix in WRAPPERS * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): expr for name, expr in tensors.items()}
    return tensors


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
            return read_npz(path)
    elif head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05" and len(head) > 1:
        return _mapping(path, read_torch(path))
    elif head[8:9] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    elif head.lstrip().startswith(b"{"):
        return _sharded(path)
    raise DiagnosticError(
        Diagnostic(
            "E0403",
            f"{path} is {_FOREIGN.get(head[:4], 'empty' if not head else 'in no known weights format')}",
            help="latentc reads .safetensors, .pt and .npz files, and folders of shards",
        )
    )


def _mapping(path: Path, tree: Any) -> Mapping[Any, Any]:
    if isinstance(tree, Mapping):
        return tree
    raise DiagnosticError(Diagnostic("E0403", f"{path} holds no state dict but a single object"))


def _folder(path: Path) -> Mapping[Any, Any]:
    indices = sorted(path.glob("*.index.json"))
    if len(indices) == 1:
        return _sharded(indices[0])
    files = sorted(f for f in path.iterdir() if f.name.endswith(_SUFFIXES))
    if indices or not files or (len(files) > 1 and any(f.suffix != ".safetensors" for f in files)):
        found = ", ".join(f.name for f in [*indices, *files]) or "none"
        raise DiagnosticError(
            Diagnostic(
                "E0403",
                f"{path} is a folder in which the weights are not clear",
                notes=(f"weights files there: {found}",),
                help="name the file itself",
            )
        )
    if len(files) == 1:
        return _tree(files[0])
    tensors: dict[str, Expr] = {}
    for file in files:
        for name, expr in read_safetensors(file).items():
            if name in tensors:
                raise _shards(path, f"{name!r} is in {file.name} and in another file of the folder")
            tensors[name] = expr
    return tensors


Files = Path | str | Sequence[Path | str]
"""Where weights are: one file of all networks, or texts `NETWORK=FILE`, one a network."""


def named_files(given: Files, networks: Sequence[str], needed: Sequence[str] | None = None) -> dict[str, Path]:
    """{network: its file}, or {"": the file of all networks}. DiagnosticError E0415.

    `needed` are the networks that must have a file, all of them by default.
    """
    found = [_named(text, networks) for text in ([given] if isinstance(given, Path | str) else given)]
    named = [name for name, _ in found]
    missing = set(networks if needed is None else needed) - set(named)
    if named != [""] and ("" in named or missing or len(set(named)) < len(named)):
        for_whom = ", ".join(name or "all of them" for name in named) or "none"
        message = f"the networks are {', '.join(networks)}, and weights are named for {for_whom}"
        raise DiagnosticError(Diagnostic("E0415", message, help="give one FILE of all, or NETWORK=FILE once for each"))
    return dict(found)


def _named(text: Path | str, networks: Sequence[str]) -> tuple[str, Path]:
    """(network, file) of `NETWORK=FILE`; the network of a plain file is empty. DiagnosticError E0415."""
    name, equals, file = str(text).partition("=")
    if not equals or not name.isidentifier() or Path(text).exists():
        return "", Path(text)
    if name not in networks:
        close = nearest(name, networks)
        mend = f"did you mean `{close}`?" if close else f"networks of this spec: {', '.join(networks)}"
        raise DiagnosticError(Diagnostic("E0415", f"the spec has no network `{name}`", help=mend))
    return name, Path(file)


def files_of(path: Path | str) -> list[Path]:
    """Every file that `open_weights(path)` may read, opened by name. DiagnosticError E0401, E0402, E0406."""
    path = Path(path)
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.name.endswith((".index.json", *_SUFFIXES)) and f.is_file())
    try:
        with path.open("rb") as file:
            is_index = file.read(16).lstrip().startswith(b"{")
    except OSError as error:
        raise unreadable(path, error) from error
    return [path, *(path.parent / name for name in sorted(set(_weight_map(path).values())))] if is_index else [path]


def _sharded(index: Path) -> dict[str, Expr]:
    """The tensors that a `….index.json` lists, each from the file it names."""
    where = _weight_map(index)
    shards: dict[str, Mapping[Any, Any]] = {}
    for file in sorted(set(where.values())):
        groups = _groups({} if (index.parent / file) == index else _tree(index.parent / file))
        shards[file] = _selected(index.parent / file, groups, None)
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
        # An index is data from elsewhere: it may name files beside itself and no others.
        if Path(file).name != file or not (index.parent / file).is_file():
            raise _shards(index, f"its file {file!r} is not beside it")
    return where


def _groups(tree: Mapping[Any, Any]) -> dict[str, dict[str, Expr]]:
    """Every dict that holds tensors and no dict that does, by its dotted place ("" is the top)."""
    found: dict[str, dict[str, Expr]] = {}
    seen: set[int] = set()

    def walk(node: Mapping[Any, Any], place: str, depth: int) -> bool:
        # Pickles can share dicts, contain themselves, and be nested without end.
        if id(node) in seen or depth > _DEEPEST:
            return False
        seen.add(id(node))
        inner = [
            walk(value, f"{place}.{key}" if place else key, depth + 1)
            for key, value in node.items()
            if isinstance(value, Mapping) and isinstance(key, str)
        ]
        tensors = {key: value for key, value in node.items() if isinstance(key, str) and _is_expr(value)}
        if tensors and not any(inner):
            found[place] = tensors
        return bool(tensors) or any(inner)

    walk(tree, "", 0)
    return found


def _is_expr(value: Any) -> bool:
    return isinstance(value, Stored | Array | Transpose | Reshape | Slice | Concatenate | Cast)


def _selected(path: Path, groups: dict[str, dict[str, Expr]], key: str | None) -> dict[str, Expr]:
    places = list(groups)
    if key is not None:
        matches = [place for place in places if place == key] or [
            place for place in places if place.rpartition(".")[2] == key
        ]
        if not matches and places == [""]:
            under = {n.removeprefix(f"{key}."): e for n, e in groups[""].items() if n.startswith(f"{key}.")}
            if under:
                return under
    else:
        matches = places
        if len(places) > 1:
            matches = [place for place in places if place.rpartition(".")[2] in MODELS]
    if len(matches) == 1 and (key is not None or not _averages(places)):
        return groups[matches[0]]
    if not places:
        raise DiagnosticError(Diagnostic("E0409", f"{path} holds no tensors"))
    shown = ", ".join(place or "(the top)" for place in places[:8]) + (" …" if len(places) > 8 else "")
    near = nearest(key, [place for place in places if place]) if key else None
    what = "holds several state dicts" if key is None else f"holds no state dict {key!r}"
    raise DiagnosticError(
        Diagnostic(
            "E0409",
            f"{path} {what}",
            notes=(f"state dicts there: {shown}",),
            help=f"did you mean {near!r}?" if near else f"choose one with the key, such as {places[0]!r}",
        )
    )


def _averages(places: list[str]) -> bool:
    """Whether there is a moving average beside the model, so that taking either would be a guess."""
    return len(places) > 1 and any("ema" in place.rpartition(".")[2].lower() for place in places)


def _shards(path: Path, why: str) -> DiagnosticError:
    return DiagnosticError(
        Diagnostic(
            "E0406",
            f"the shards of {path} do not fit together: {why}",
            help="fetch all files of the model again",
        )
    )
