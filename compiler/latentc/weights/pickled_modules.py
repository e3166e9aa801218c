"""Pickles of whole modules, as EDM, EDM2 and StyleGAN2 publish them, read as data.

Such a pickle holds the attributes of each module, and the source text of its classes, which its authors' loader
executes. Here an object becomes a `Module` with these attributes, and the text is not looked at. Nothing is imported.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from latentc.weights.expr import DTYPE_OF_TORCH, Array, Expr, dtype_from_name
from latentc.weights.pickled import STORAGE_DTYPES, PlainDict, Reader, RefusedPickle, Storage, Tensor, as_malformed

_STAND_INS = ("torch", "torch_utils", "dnnlib", "training", "functools")
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before 1.6


class Module:
    """An object of a class that is not imported: its attributes."""

    attributes: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Module:
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *args: Any, **options: Any) -> None:
        pass


@dataclass(frozen=True)
class Held(Storage):
    """A storage with its content, little-endian."""

    content: bytes


class _Modules(Reader):
    """As its base, for objects with attributes and storages inside the pickle."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module} {name}"
        if full in _CALLED:
            return _CALLED[full]
        try:
            return super().find_class(module, name)
        except RefusedPickle:
            if module.split(".")[0] in _STAND_INS:
                return Module
            raise

    def persistent_load(self, pid: Any) -> Storage:
        *known, view = pid  # of a storage in the old format
        if view is not None:
            raise ValueError("a storage is part of another one")
        return super().persistent_load(tuple(known))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(made, Module) and isinstance(state, dict):
            made.attributes.update(state)

    dispatch: ClassVar[dict[int, Any]] = {**Reader.dispatch, pickle.BUILD[0]: load_build}


def _persistent(meta: Any) -> Module:
    """The object that `torch_utils.persistence` describes by its state and by the source of its class."""
    made = Module()
    if isinstance(meta, dict) and isinstance(meta.get("state"), dict):
        made.attributes = dict(meta["state"])
    return made


def _storage(content: Any) -> Held:
    """A storage that torch.save wrote in the old format: three headers, the storage's facts, its key, its numbers."""
    stream = io.BytesIO(content)

    def following() -> Any:
        return _Modules(stream, len(content)).load()

    magic, _, facts, storage, keys = (following() for _ in range(5))
    little = not isinstance(facts, dict) or facts.get("little_endian", True)
    if magic != _MAGIC or not little or not isinstance(storage, Storage) or keys != [storage.key]:
        raise ValueError("a storage is malformed")
    (number,) = struct.unpack("<q", stream.read(8))
    held = stream.read()
    if number != storage.numel or len(held) != number * dtype_from_name(STORAGE_DTYPES[storage.kind]).itemsize:
        raise ValueError("a storage has another size than it says")
    return Held(storage.kind, storage.key, storage.numel, held)


def _bytes(text: Any, encoding: Any) -> bytes:
    """Bytes, which protocols before 3 write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are malformed")
    return text.encode("latin1")


_CALLED = {
    "_codecs encode": _bytes,
    "torch_utils.persistence _reconstruct_persistent_obj": _persistent,
    "torch.storage _load_from_bytes": _storage,
    "dnnlib.util EasyDict": PlainDict,
    "builtins set": set,
    "__builtin__ set": set,
}


def read_modules(path: Path) -> dict[str, dict[str, Expr]] | dict[str, Expr] | None:
    """The state dict of each module in a pickled dict, or that of the pickled module; None if there is none.

    Raises RefusedPickle if the pickle names something unknown, ValueError if it is malformed.
    """
    with path.open("rb") as file, as_malformed():
        found = _Modules(file, path.stat().st_size).load()
        if isinstance(found, Module):
            return dict(_state(found, "", ()))
        modules = found.items() if isinstance(found, dict) else ()
        states = {str(key): dict(_state(one, "", ())) for key, one in modules if isinstance(one, Module)}
        return {key: state for key, state in states.items() if state} or None


def _state(module: Module, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Expr]]:
    """The tensors that `state_dict()` of a module returns, with their names."""
    if id(module) in above:
        raise ValueError("a module contains itself")
    parts = {key: module.attributes.get(f"_{key}") or {} for key in ("parameters", "buffers", "modules")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError("a module is malformed")
    hidden = module.attributes.get("_non_persistent_buffers_set") or ()
    for name, tensor in (*parts["parameters"].items(), *parts["buffers"].items()):
        if isinstance(tensor, Tensor) and name not in hidden:
            yield f"{prefix}{name}", _array(tensor)
    for name, inner in parts["modules"].items():
        if isinstance(inner, Module):
            yield from _state(inner, f"{prefix}{name}.", (*above, id(module)))


def _array(tensor: Tensor) -> Expr:
    if not isinstance(tensor.storage, Held):
        raise ValueError("a tensor has no numbers")
    name = DTYPE_OF_TORCH[tensor.dtype] if tensor.dtype else STORAGE_DTYPES[tensor.storage.kind]
    flat = np.frombuffer(tensor.storage.content, dtype_from_name(name))
    extent = 0 if 0 in tensor.size else 1 + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride, strict=True))
    if tensor.offset + extent > len(flat):
        raise ValueError("a tensor reaches beyond its storage")
    steps = [step * flat.itemsize for step in tensor.stride]
    return Array(np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.size, steps, writeable=False))
