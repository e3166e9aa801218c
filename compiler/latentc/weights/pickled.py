"""Reads the pickle inside a .pt file as data, without running anything that it names.

A pickle is a program that may name and call any function. Python's own unpickler runs it here with stand-ins for the
few names that torch.save writes. Some harmless ones (argparse.Namespace in an official checkpoint's `args`) become
`Opaque`; all others are refused. Nothing is imported, so torch is not needed either.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

from latentc.weights.expr import DTYPE_OF_TORCH


class RefusedPickle(Exception):
    """The pickle names something that could run code; the argument is that name."""


@dataclass(frozen=True)
class Global:
    """A class that the pickle only refers to, as "module name": a storage, a dtype, a tensor type."""

    name: str


class Opaque:
    """An object of a harmless class; its contents are ignored."""

    def __new__(cls, *args: Any, **options: Any) -> Opaque:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def _ignore(self, *contents: Any) -> None:
        pass

    __setitem__ = append = extend = add = update = _ignore


class PlainDict(dict[Any, Any]):
    """An OrderedDict, or a defaultdict, whose factory is ignored."""

    def __new__(cls, *args: Any) -> PlainDict:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        super().__init__(args[0] if args and isinstance(args[0], list | dict) else {})


@dataclass(frozen=True)
class Storage:
    """A reference to a tensor's storage: torch's storage class, the entry's key, its number of elements."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides in elements. `dtype` is torch's name, if the pickle gives it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


STORAGE_DTYPES = {
    "Double": "f64",
    "Float": "f32",
    "Half": "f16",
    "BFloat16": "bf16",
    "Long": "i64",
    "Int": "i32",
    "Short": "i16",
    "Char": "i8",
    "Byte": "u8",
    "Bool": "bool",
    "ComplexFloat": "c64",
    "Untyped": "u8",
}
"""torch's storage classes to latentc's dtypes."""

_HARMLESS_MODULES = ("argparse", "datetime", "pathlib", "numpy", "omegaconf")
_HARMLESS = frozenset({"_codecs encode", "builtins set", "builtins complex", "torch device", "torch.serialization"})
_STORAGES = {f"torch {kind}Storage" for kind in STORAGE_DTYPES} | {"torch.storage UntypedStorage"}
_TENSOR_TYPES = frozenset({"torch Tensor", "torch.nn.parameter Parameter", "torch.nn.parameter Buffer"})
_REFERENCES = _STORAGES | _TENSOR_TYPES | {f"torch {name}" for name in DTYPE_OF_TORCH}


def load(data: bytes) -> Any:
    """The object of a torch.save pickle: dicts, lists, tuples, numbers, text, `Tensor`s and `Opaque`s.

    Raises RefusedPickle if it names something unknown, ValueError if it is malformed.
    """
    with as_malformed():
        return Reader(io.BytesIO(data), len(data)).load()


@contextlib.contextmanager
def as_malformed() -> Iterator[None]:
    """Raises ValueError for what a malformed pickle makes the unpickler raise."""
    try:
        yield
    except (pickle.UnpicklingError, struct.error, *_MALFORMED) as error:
        raise ValueError(f"its pickle is malformed ({type(error).__name__})") from error


_MALFORMED = (EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)


ROOM = 1 << 29  # bytes that the objects of a pickle may take; those of a hundred thousand tensors take a third
_SIZES = {
    **dict.fromkeys((pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.DICT, pickle.LIST), 100),
    **dict.fromkeys((pickle.EMPTY_SET, pickle.FROZENSET, pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX), 300),
    **dict.fromkeys((pickle.OBJ, pickle.INST), 300),
    **dict.fromkeys((pickle.MEMOIZE, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT), 120),
}
"""About how many bytes each opcode takes that takes far more than its own."""


class Reader(pickle._Unpickler):
    """The unpickler in Python: that in C allocates memory for every memo index up to the largest one named."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__(stream)
        self.room, self.size = ROOM, size
        self.dispatch = {**self.dispatch, **{op[0]: self._counted(op[0], size) for op, size in _SIZES.items()}}  # type: ignore[misc]

    def _counted(self, opcode: int, size: int) -> Any:
        run = type(self).dispatch[opcode]

        def counted(reader: Reader) -> None:
            self.room -= size
            if self.room < 0:
                raise ValueError("its pickle holds more objects than any state dict")
            run(reader)

        return counted

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        if length > self.size:  # Python's own method allocates it first
            raise ValueError("its pickle is malformed (it ends in a bytearray)")
        self.append(bytearray(self.read(length)))  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module} {name}"
        if full in _CALLED:
            return _CALLED[full]
        if full in _REFERENCES:
            return Global(full)
        if full in _HARMLESS or module.split(".")[0] in _HARMLESS_MODULES:
            return Opaque
        raise RefusedPickle(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        tag, kind, key, _, numel = pid
        if tag != "storage" or kind.name not in _STORAGES or not isinstance(key, str) or not _natural(numel):
            raise ValueError("a storage reference is malformed")
        return Storage(kind.name.split(" ")[1].removesuffix("Storage"), key, numel)

    def get_extension(self, code: int) -> None:
        raise RefusedPickle(f"the extension {code}")

    def load_build(self) -> None:
        self.stack.pop()  # type: ignore[attr-defined]  # the state of an object, which is ignored

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None) -> Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or not all(map(_natural, numbers)) or len(size) != len(stride):
        raise ValueError("a tensor is malformed")
    return Tensor(storage, offset, tuple(size), tuple(stride), dtype)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    return _tensor(storage, offset, size, stride)


def _tensor_v3(*args: Any) -> Tensor:
    storage, offset, size, stride, _, _, dtype, *_ = args
    name = dtype.name.removeprefix("torch ")
    if name not in DTYPE_OF_TORCH:
        raise ValueError(f"unknown dtype {name}")
    return _tensor(storage, offset, size, stride, name)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _from_type(function: Any, kind: Global, args: Any, *rest: Any) -> Any:
    if kind.name not in _TENSOR_TYPES:
        raise ValueError(f"a tensor of type {kind.name}")
    return function(*args)


# Replacements for each name that the pickle may call.
_CALLED = {
    **dict.fromkeys(("collections OrderedDict", "collections defaultdict", "builtins dict"), PlainDict),
    "torch Size": tuple,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter,
    "torch._tensor _rebuild_from_type_v2": _from_type,
}


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
