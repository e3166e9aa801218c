"""Reads the pickle inside a .pt file as data: a small stack machine that builds containers and never calls anything.

A pickle is a program that may name and call any function. Here names are only compared: the few that torch.save writes
are understood, some harmless ones (argparse.Namespace in an official checkpoint's `args`) become `Opaque`, all others
are refused. Nothing is imported, so torch is not needed either.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class RefusedPickle(Exception):
    """The pickle names something that could run code; the argument is that name."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to, as "module name"."""

    name: str


@dataclass(frozen=True)
class Opaque:
    """An object of a harmless class; its contents are ignored."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A reference to a tensor's storage: torch's storage class, the entry's key, its number of elements."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides in elements. `dtype` is torch's name where it is given."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


_MARK = object()
_HARMLESS_MODULES = ("argparse", "datetime", "pathlib", "numpy", "omegaconf")
_HARMLESS = frozenset({"_codecs encode", "builtins set", "builtins complex", "torch device", "torch.serialization"})
_DICTS = frozenset({"collections OrderedDict", "collections defaultdict", "builtins dict"})
_PARAMETERS = frozenset({"torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"})
_TENSOR_TYPES = frozenset({"torch Tensor", "torch.nn.parameter Parameter", "torch.nn.parameter Buffer"})
_TENSORS = frozenset({"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"})
_WRAPPED = "torch._tensor _rebuild_from_type_v2"
_STORAGES = frozenset(
    f"torch {kind}Storage"
    for kind in ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat"]
) | {"torch.storage UntypedStorage"}
TORCH_DTYPES = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
    "float8_e8m0fnu": "f8e8m0",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    "uint8": "u8",
    "bool": "bool",
    "complex64": "c64",
}
"""torch's dtype names to latentc's."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4"})
_TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"})
_LITERALS = _INTEGERS | _TEXTS | {"BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop_mark(self) -> list[Any]:
        """Pop everything above the topmost mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("a mark is missing")

    def step(self, op: str, arg: Any) -> None:
        stack = self.stack
        if op in _LITERALS:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op]())
        elif op in ("BINPUT", "LONG_BINPUT"):
            self.memo[arg] = stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif op == "TUPLE":
            items = self.pop_mark()
            stack.append(tuple(items))
        elif op in _TUPLES:
            items = stack[-_TUPLES[op] :]
            del stack[-_TUPLES[op] :]
            stack.append(tuple(items))
        elif op in ("SETITEM", "SETITEMS"):
            items = self.pop_mark() if op == "SETITEMS" else [stack.pop(-2), stack.pop()]
            if isinstance(stack[-1], dict):
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif op in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if op == "APPEND" else self.pop_mark()
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif op == "FROZENSET":
            stack.append(tuple(self.pop_mark()))
        elif op == "GLOBAL":
            stack.append(_named(arg))
        elif op == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_named(f"{module} {name}"))
        elif op == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif op in ("REDUCE", "NEWOBJ"):
            args, function = stack.pop(), stack.pop()
            stack.append(_made(function, args))
        elif op == "NEWOBJ_EX":
            del stack[-2:]
            stack.append(_made(stack.pop(), ()))
        elif op == "BUILD":
            stack.pop()  # an object's state, which is ignored
        elif op not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"the pickle instruction {op} is not one that torch.save writes")


def load(data: bytes) -> Any:
    """The object of a torch.save pickle: dicts, lists, tuples, numbers, text, `Tensor`s and `Opaque`s.

    Raises RefusedPickle if it names something unknown, ValueError if it is malformed.
    """
    machine = _Machine()
    try:
        for opcode, arg, _ in pickletools.genops(data):
            machine.step(opcode.name, arg)
        (result,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its pickle is malformed ({type(error).__name__})") from error
    return result


def _named(name: str) -> Global:
    module, _, member = name.partition(" ")
    known = name in _DICTS | _PARAMETERS | _TENSOR_TYPES | _TENSORS | _STORAGES | {_WRAPPED, "torch Size"}
    if known or _harmless(name) or (module == "torch" and member in TORCH_DTYPES):
        return Global(name)
    raise RefusedPickle(name.replace(" ", "."))


def _harmless(name: str) -> bool:
    return name in _HARMLESS or name.split()[0].split(".")[0] in _HARMLESS_MODULES


def _made(function: Any, args: Any) -> Any:
    """The result that the described call would have; nothing is called."""
    if not isinstance(args, tuple):
        raise ValueError("call arguments that are not a tuple")
    if isinstance(function, Opaque):
        return function
    name = function.name if isinstance(function, Global) else ""
    if name in _TENSORS:
        return _tensor(name, args)
    if name in _PARAMETERS:
        return args[0]
    if name == _WRAPPED and args[1].name in _TENSOR_TYPES:
        return _made(args[0], args[2])
    if name in _DICTS:
        return dict(args[0]) if args and isinstance(args[0], list | dict) else {}
    if name == "torch Size":
        return tuple(args[0])
    if name and _harmless(name):
        return Opaque(name.replace(" ", "."))
    raise ValueError(f"a call of {name or type(function).__name__}")


def _storage(persistent: Any) -> Storage:
    tag, kind, key, _, numel = persistent
    if tag != "storage" or kind.name not in _STORAGES or not isinstance(key, str) or not _natural(numel):
        raise ValueError("a storage reference is malformed")
    return Storage(kind.name.split(" ")[1].removesuffix("Storage"), key, numel)


def _tensor(name: str, args: tuple[Any, ...]) -> Tensor:
    storage, offset, size, stride = args[:4]
    dtype = args[6].name.removeprefix("torch ") if name.endswith("v3") else None
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or not all(map(_natural, numbers)) or len(size) != len(stride):
        raise ValueError("a tensor is malformed")
    if dtype is not None and dtype not in TORCH_DTYPES:
        raise ValueError(f"unknown dtype {dtype}")
    return Tensor(storage, offset, tuple(size), tuple(stride), dtype)


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
