"""Writing ONNX protobufs: a graph under construction with its nodes, initialisers and names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from latentc.ir.core import Param, Value
from latentc.ir.types import NUMPY, Dim, Sym, TensorType

Array = np.ndarray[Any, Any]

ELEMENT = {name: helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for name, kind in NUMPY.items()}
"""The IR's dtypes to those of ONNX."""


def stored(array: Any, dtype: str) -> Array:
    """The array as a backend stores it: C order, little-endian, rounded to `dtype`."""
    return np.ascontiguousarray(np.asarray(array).astype(NUMPY[dtype])).reshape(np.shape(array))


class Tensors(Protocol):
    """Where the bytes of initialisers go: into the protobuf, or into files beside it."""

    def weight(self, proto: TensorProto, path: str, param: Param) -> None:
        """Fills in the data of weight `path`; name, dtype and dims are set."""

    def literal(self, proto: TensorProto, array: Array) -> None:
        """Fills in the data of a constant; name, dtype and dims are set."""


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Adds an attribute, its kind by the Python type (helper.make_attribute is ten times slower)."""
    a = node.attribute.add()
    a.name = name
    match value:
        case bool() | int():
            a.type, a.i = AttributeProto.INT, int(value)
        case float():
            a.type, a.f = AttributeProto.FLOAT, value
        case str():
            a.type, a.s = AttributeProto.STRING, value.encode()
        case GraphProto():
            a.type = AttributeProto.GRAPH
            a.g.CopyFrom(value)
        case TensorProto():
            a.type = AttributeProto.TENSOR
            a.t.CopyFrom(value)
        case _:
            a.type = AttributeProto.INTS
            a.ints.extend(int(v) for v in value)


def declare(info: ValueInfoProto, name: str, type: TensorType) -> None:
    """Fills in the name, dtype and shape of a graph's input or output; run-time sizes become named dimensions."""
    info.name = name
    tensor = info.type.tensor_type
    tensor.elem_type = ELEMENT[type.dtype]
    tensor.shape.SetInParent()  # a scalar has an empty shape, which differs from no shape
    for dim in type.shape:
        d = tensor.shape.dim.add()
        if isinstance(dim, Sym):
            d.dim_param = str(dim)
        else:
            d.dim_value = int(dim)


class Writer:
    """A graph being written. A loop's body is a `Writer` of its own that shares its root's initialisers and names."""

    def __init__(self, graph: GraphProto, tensors: Tensors, root: Writer | None = None) -> None:
        """Fills in `graph` in place: `tensors` may set the data of its initialisers later."""
        self.graph = graph
        self.root = root or self
        self.names: dict[Value, str] = {}
        # Values that are another tensor's elements in another shape, and the tensors that are [rows, width]. A Reshape
        # is written only when a node needs it, so that several in a row become one.
        self._views: dict[Value, str] = {}
        self._rows: dict[str, int] = {}
        self._sizes: dict[Any, str] = {}
        self._batch_of: dict[str, tuple[str, int, int]] = {}
        self.tensors = tensors
        if root is None:
            self._taken: dict[str, int] = {}
            self._literals: dict[Any, str] = {}
            self._by_identity: dict[Any, tuple[Any, str]] = {}
            self._weights: dict[str, str] = {}
            self.domains: set[str] = set()  # of operators that are not ONNX's own

    # ---- names

    def fresh(self, name: str) -> str:
        """A name that no other tensor or node of the model has, including enclosing graphs."""
        taken = self.root._taken
        count = taken.setdefault(name, 0)
        candidate = name
        while count:
            candidate = f"{name}.{count}"
            count += 1
            if candidate not in taken:
                taken[candidate] = 1
                break
        taken[name] = count or 1
        return candidate

    def define(self, value: Value, name: str | None = None) -> str:
        """The ONNX name of a value that is about to be defined."""
        text = name if name is not None else self.fresh(value.name)
        self.bind(value, text)
        return text

    def bind(self, value: Value, name: str) -> None:
        """Records the tensor that holds `value`."""
        self.names[value] = name
        for axis, dim in enumerate(value.type.shape):
            if isinstance(dim, Sym):
                self._batch_of.setdefault(dim.name, (name, axis, dim.factor))
                break

    def name(self, value: Value) -> str:
        """The tensor that holds `value`, in its own shape."""
        if value not in self.names:
            target = self.ints([-1 if isinstance(d, Sym) else int(d) for d in value.type.shape])
            self.bind(value, self.add("Reshape", [self._views[value], target], self.fresh(value.name)))
        return self.names[value]

    def elements(self, value: Value) -> str:
        """A tensor with the elements of `value` in the same order, in any shape."""
        return self._views.get(value) or self.names[value]

    def view(self, value: Value, elements: str, width: int | None = None) -> None:
        """Records that `elements` holds the elements of `value`, as [rows, width] if a width is given."""
        self._views[value] = elements
        if width is not None:
            self._rows[elements] = width

    def width(self, elements: str) -> int | None:
        """The width of a tensor that is known to be [rows, width]."""
        return self._rows.get(elements)

    def rows(self, value: Value) -> str:
        """`value` as [rows, last size]."""
        base, width = self.elements(value), int(value.type.shape[-1])  # type: ignore[arg-type]
        if self._rows.get(base) == width or (base == self.names.get(value) and value.type.rank == 2):
            return base
        key = ("rows", base, width)
        return self.shared(key, lambda: self.tmp("Reshape", [base, self.ints([-1, width])], value.name))

    # ---- initialisers

    def weight(self, path: str, param: Param) -> str:
        """The initialiser of a weight, one per path."""
        root = self.root
        if path not in root._weights:
            root._weights[path] = self.fresh(path)
            proto = root.graph.initializer.add()
            proto.name, proto.data_type = root._weights[path], ELEMENT[param.type.dtype]
            proto.dims.extend(int(d) for d in param.type.shape)  # type: ignore[arg-type]
            self.tensors.weight(proto, path, param)
        return root._weights[path]

    def literal(self, value: Any, dtype: str, name: str = "const") -> str:
        """The initialiser of a constant, one per content."""
        root = self.root
        known = root._by_identity.get((id(value), dtype))
        if known is not None:
            return known[1]
        array = stored(value, dtype)
        key = (dtype, array.shape, array.tobytes())
        if key not in root._literals:
            root._literals[key] = self.fresh(name)
            proto = root.graph.initializer.add()
            proto.name, proto.data_type = root._literals[key], ELEMENT[dtype]
            proto.dims.extend(array.shape)
            self.tensors.literal(proto, array)
        if isinstance(value, np.ndarray):  # kept alive, so that its id is not reused
            root._by_identity[id(value), dtype] = (value, root._literals[key])
        return root._literals[key]

    def ints(self, values: Sequence[int] | int) -> str:
        """A constant i64 vector (or scalar)."""
        scalar = isinstance(values, int)
        label = str(int(values)) if isinstance(values, int) else "_".join(str(int(v)) for v in values)
        key = ("ints", scalar, label)
        found = self.root._literals.get(key)
        if found is None:
            array = np.asarray(values, np.int64) if scalar else np.asarray([int(v) for v in values], np.int64)  # type: ignore[union-attr]
            found = self.literal(array, "i64", f"{'int' if scalar else 'ints'}.{label}")
            self.root._literals[key] = found
        return found

    # ---- nodes

    def add(self, op: str, ins: Sequence[str], outs: Sequence[str] | str, domain: str = "", **attrs: Any) -> str:
        """Appends a node; returns its first output. Attributes that are None are left out."""
        node = self.graph.node.add()
        node.op_type, node.domain = op, domain
        if domain:
            self.root.domains.add(domain)
        names = [outs] if isinstance(outs, str) else outs
        node.name = names[0]
        node.input.extend(ins)
        node.output.extend(names)
        for key, value in attrs.items():
            if value is not None:
                set_attribute(node, key, value)
        return names[0]

    def tmp(self, op: str, ins: Sequence[str], like: str, **attrs: Any) -> str:
        """Appends a node with one output, named `like`/op."""
        return self.add(op, ins, self.fresh(f"{like}/{op}"), **attrs)

    def shared(self, key: Any, make: Callable[[], str]) -> str:
        """The result of `make`, called once per graph and key."""
        if key not in self._sizes:
            self._sizes[key] = make()
        return self._sizes[key]

    # ---- run-time sizes

    def dims(self, shape: Sequence[Dim]) -> str:
        """`shape` as an i64 vector; run-time sizes are read from a tensor of this graph that has them."""
        if not any(isinstance(d, Sym) for d in shape):
            return self.ints([int(d) for d in shape])  # type: ignore[arg-type]
        key = ("dims", *(str(d) if isinstance(d, Sym) else int(d) for d in shape))
        return self.shared(key, lambda: self._dims(shape))

    def _dims(self, shape: Sequence[Dim]) -> str:
        parts: list[str] = []
        known: list[int] = []
        for d in shape:
            if isinstance(d, Sym):
                parts += [self.ints(known)] if known else []
                parts.append(self.shared(("size", d), functools.partial(self._size, d)))
                known = []
            else:
                known.append(int(d))
        parts += [self.ints(known)] if known else []
        return parts[0] if len(parts) == 1 else self.tmp("Concat", parts, "shape", axis=0)

    def _size(self, sym: Sym) -> str:
        name, axis, factor = self._batch_of[sym.name]
        size = self.tmp("Shape", [name], sym.name, start=axis, end=axis + 1)
        common = math.gcd(sym.factor, factor)
        if factor != common:
            size = self.tmp("Div", [size, self.ints([factor // common])], sym.name)
        if sym.factor != common:
            size = self.tmp("Mul", [size, self.ints([sym.factor // common])], sym.name)
        return size
