"""Building IR: ordinary Python over `Var` handles appends the nodes of a function; shapes are inferred on the way.

    def attention(b, x, *, dim, heads):
        q, k, v = b.split(b.linear("qkv", x, 3 * dim), ...)

    out = b.sub("attn", module_class("Attention")(attention), x, dim=width, heads=8)

`b.NAME(...)` appends op NAME (see `ops`). Static arguments reach the body as `Named` ints, so the IR knows that 1152
was written `3 * dim`, and the emitter prints it so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.ir.appending import Appending
from latentc.ir.core import (
    Function,
    Init,
    Module,
    Names,
    Node,
    Origin,
    Param,
    Recipe,
    Value,
    frozen,
    join,
    reachable,
    same_recipe,
    under_prefix,
)
from latentc.ir.ops import CONTROL, OPS, OpError
from latentc.ir.recipes import MADE, recipe_type
from latentc.ir.sizes import in_callee, in_caller, is_size, signature
from latentc.ir.types import B, Named, Sym, TensorType, f32, i64, source_of

# Handles of values


def _operator(op: str, swapped: bool = False) -> Callable[[Var, Any], Var]:
    def apply(own: Var, other: Any) -> Var:
        out: Var = own.b.op(op, *((other, own) if swapped else (own, other)))
        return out

    return apply


@dataclass(frozen=True, eq=False)
class Var:
    """A value being built. Arithmetic appends nodes; Python numbers become constants of its dtype."""

    value: Value
    b: Builder

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.value.type.shape

    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", swapped=True)
    __lt__, __le__, __gt__ = _operator("less"), _operator("less_equal"), _operator("greater")

    def __neg__(self) -> Var:
        out: Var = self.b.op("neg", self)
        return out


def as_tuple(outputs: Var | tuple[Var, ...]) -> tuple[Var, ...]:
    """The outputs of an appended node as a tuple, even if there is one only."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


# Blocks


class BlockBody:
    """A Python function that builds a method of an emitted class; see `module_class`."""

    def __init__(
        self, body: Callable[..., Any], cls: str, method: str, shapes: Mapping[str, str], names: Sequence[str] = ()
    ) -> None:
        self.body, self.cls, self.method, self.shapes, self.names = body, cls, method, shapes, names
        self.__doc__ = body.__doc__

    def operands(self, count: int, names: Sequence[str]) -> list[str]:
        """Names of `count` operands: the block's own or its body's, then `names` for those that `*args` receives."""
        if self.names:
            return [*self.names, *names[len(self.names) : count]][:count]
        code = self.body.__code__
        own = code.co_varnames[1 : code.co_argcount][:count]
        star = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & 4 else "x"
        return [*own, *(names[i] if i < len(names) else star for i in range(len(own), count))]


def module_class(cls: str, method: str = "forward", **shapes: str) -> Callable[[Callable[..., Any]], BlockBody]:
    """Marks `body(b, *operands, **static)` as the `method` of class `cls` in the emitted code.

    `shapes` declare the operands' shapes: `x="B channels H W"`. A word is a static argument, an expression of static
    arguments without blanks (`width//heads`), or the label of another size in capitals, with its meaning if it has one
    (`T=grid**2`). A dimension that is not declared is named by the caller's expression, which is ambiguous if two
    arguments have the same expression.
    """
    return lambda body: BlockBody(body, cls, method, shapes)


class Item(str):
    """The name of module `i` of a list, such as `blocks.3`.

    `length` is the number of modules as a size. `i` is the index as a size of that name, on which static arguments may
    depend (`dilation=2 ** (name.i % cycle)`).
    """

    length: int
    i: Named

    def __new__(cls, base: str, i: int, count: int) -> Item:
        self = super().__new__(cls, f"{base}.{i}")
        self.length = count
        self.i = Named(i, "i")
        return self


def items(base: str, count: int) -> list[Item]:
    """Names of `count` modules in a list: `for name in items("blocks", depth): x = b.sub(name, block, x, …)`."""
    return [Item(base, i, count) for i in range(count)]


# Functions

# Default names of outputs; otherwise the name of the op.
_HINTS = {"linear": "h", "reshape": "x", "transpose": "x", "add": "x", "mul": "x", "sub": "x", "div": "x"}
_HINTS |= {"layer_norm": "h", "rms_norm": "h", "group_norm": "h", "batch_norm": "h"}


class Builder(Appending):
    """Builds one function. Methods that append a node return its output `Var`, or a tuple if it has several."""

    def __init__(self, owner: ModuleBuilder, name: str, origin: Origin | None) -> None:
        self.module, self.name, self.origin = owner, name, origin
        self._inputs: list[Value] = []
        self._params: dict[str, Param] = {}
        self._nodes: list[Node] = []
        self._outputs: list[Value] = []
        self._names = Names()
        self._constants: dict[Any, Var] = {}

    # ---- values

    @property
    def params(self) -> Mapping[str, Param]:
        """The params so far, by name."""
        return self._params

    @property
    def names(self) -> Set[str]:
        """Names that are taken."""
        return self._names.taken

    def fresh(self, name: str, type: TensorType) -> Value:
        """A value under `name`, numbered if that is taken: an output for a node to `append`."""
        return Value(self._names.fresh(name), type)

    def input(self, name: str, type: TensorType) -> Var:
        value = self.fresh(name, type)
        self._inputs.append(value)
        return Var(value, self)

    def given(self, name: str) -> Var | None:
        """The input of that name, if there is one already."""
        return next((Var(value, self) for value in self._inputs if value.name == name), None)

    def param(self, name: str, type: TensorType, init: str, kind: str = "weight", **args: Any) -> Var:
        """The param `name` (`qkv.weight`) of this function, added at first use.

        Raises OpError if it has another type, or a name that PyTorch does not allow.
        """
        if name not in self._params:
            self._check_path(name)
            self._names.taken.add(name)
            self._params[name] = Param(Value(name, type), Init(init, args), kind)
        elif self._params[name].type != type:
            raise OpError(f"param {name} is {self._params[name].type} and {type} in {self.name}")
        return Var(self._params[name].value, self)

    def derived(self, name: str, recipe: Recipe) -> Var:
        """The param `name` computed from the model's weights by `recipe`, added at first use.

        Raises OpError if the recipe is ill-typed or the name is that of another value.
        """
        if name not in self._params:
            if name in self.names:
                raise OpError(f"{name} is a value of {self.name} already")
            self._names.taken.add(name)
            self._params[name] = Param(Value(name, recipe_type(recipe)), MADE, "weight", recipe)
        elif not same_recipe(self._params[name].recipe, recipe):
            raise OpError(f"param {name} of {self.name} has another recipe already")
        return Var(self._params[name].value, self)

    def same_param(self, param: Param, prefix: str = "") -> Var:
        """A param of another function, under `prefix`, as a param of this one."""
        name, recipe = join(prefix, param.name), under_prefix(param.recipe, prefix)
        if recipe is not None:
            return self.derived(name, recipe)
        return self.param(name, param.type, param.init.kind, param.kind, **param.init.args)

    def constant(self, value: Any, dtype: str | None = None, out: str = "c") -> Var:
        """A literal; floats default to f32 (kept in float64), integers to i64."""
        array = np.asarray(value)
        if dtype is None:
            dtype = {"f": "f32", "i": "i64", "u": "i64", "b": "bool"}[array.dtype.kind]
        kept = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}[array.dtype.kind]
        array = array.astype(kept, order="C")  # writers of weight files copy memory as it is
        key = (dtype, array.shape, array.tobytes()) if array.size <= 16 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        (constant,) = self._append("constant", [], {"value": array, "dtype": dtype}, out)
        if key is not None:
            self._constants[key] = constant
        return constant

    def arange(self, count: int, out: str = "index") -> Var:
        """0 … count - 1 as i64[count]; the emitted code computes it from the size."""
        array = np.arange(int(count))
        return self._append("constant", [], {"value": array, "dtype": "i64"}, out, [i64(count)])[0]

    def scalar(self, value: float, like: Var) -> Var:
        """A rank-0 constant of `like`'s dtype; for a size the emitted code shows its expression."""
        number = np.float64(value) if like.type.is_float else np.int64(value)
        if isinstance(value, Named):
            attrs = {"value": np.asarray(number), "dtype": like.type.dtype, "size": value}
            return self._append("constant", [], attrs, "c")[0]
        return self.constant(number, like.type.dtype)

    def output(self, *outputs: Any) -> None:
        for out in outputs:
            if isinstance(out, tuple | list):
                self.output(*out)
            else:
                self._outputs.append(out.value)

    # ---- nodes

    def _append(
        self, op: str, ins: Sequence[Var], attrs: Mapping[str, Any], hint: str, types: Any = None
    ) -> tuple[Var, ...]:
        if types is None:
            try:
                types = OPS[op].types([x.type for x in ins], attrs)
            except OpError as error:
                operands = ", ".join(f"{x.value.name}: {x.type}" for x in ins)
                raise OpError(f"{op}({operands}) in {self.name}: {error}") from None
        words = hint.split()
        hints = words if len(words) == len(types) else words[:1] * len(types)
        outputs = tuple(self.fresh(h, t) for h, t in zip(hints, types, strict=True))
        return self.append(Node(op, tuple(x.value for x in ins), outputs, dict(attrs)))

    def append(self, node: Node) -> tuple[Var, ...]:
        """Appends a finished node unchecked (`verify` checks it later) and returns its outputs."""
        self._nodes.append(node)
        return tuple(Var(o, self) for o in node.outputs)

    def keep(self, node: Node, operands: Sequence[Var]) -> tuple[Var, ...]:
        """Appends `node` applied to `operands`, with the outputs that it has."""
        ins = tuple(x.value for x in operands)
        return self.append(node if ins == node.inputs else Node(node.op, ins, node.outputs, node.attrs, node.loc))

    def op(self, op: str, *operands: Any, out: str = "", **attrs: Any) -> Any:
        """Appends op; Python numbers among the operands become constants of the other operands' dtype.

        `out` names the outputs, separated by spaces: `q, k, v = b.unbind(qkv, axis=0, out="q k v")`.
        """
        like = next((x for x in operands if isinstance(x, Var) and x.type.dtype != "bool"), None)
        ins = []
        for x in operands:
            if not isinstance(x, Var):
                if like is None:
                    raise OpError(f"{op} in {self.name}: no operand gives {x!r} a dtype")
                x = self.scalar(x, like)
            if x.b is not self:
                raise OpError(f"{op} in {self.name}: {x.value.name} belongs to {x.b.name}; pass it as an operand")
            ins.append(x)
        outs = self._append(op, ins, attrs, out or _HINTS.get(op, op))
        return outs[0] if len(outs) == 1 and op not in ("split", "unbind") else outs

    def copied(self, node: Node, operands: Sequence[Var]) -> tuple[Var, ...]:
        """Appends a node of another function to operands of the same types; outputs are renamed if names are taken."""
        if node.op == "constant":
            return (self.constant(node.attrs["value"], node.attrs["dtype"], out=node.outputs[0].name),)
        hint = " ".join(o.name for o in node.outputs)
        return self._append(node.op, operands, node.attrs, hint, [o.type for o in node.outputs])

    def _check_path(self, name: str) -> str:
        """The name of a param or of a called module, as a str. Raises OpError if PyTorch does not allow it."""
        parts = name.split(".") if name else []
        if "" in parts or "training" in parts:
            why = "nn.Module has an attribute `training`" if "training" in parts else "a part of it is empty"
            raise OpError(f"`{name}` in {self.name} is no state-dict path: {why}; choose another name")
        return str(name)

    # ---- ops with more than one node or with params

    def dense(
        self,
        name: str,
        x: Var,
        features: int,
        bias: bool = True,
        init: str = "linear_default",
        out: str = "",
        **args: Any,
    ) -> Var:
        """A Linear `name` from x's last axis to `features`: params `name.weight` [features, in], `name.bias`."""
        width, dtype = x.shape[-1], x.type.dtype
        default = init == "linear_default"
        if default:
            args = {"fan_in": width}
        ins = [x, self.param(f"{name}.weight", TensorType(dtype, (features, width)), init, **args)]
        if bias:
            type = TensorType(dtype, (features,))
            ins.append(self.param(f"{name}.bias", type, init if default else "zeros", **(args if default else {})))
        return self.op("linear", *ins, out=out)  # type: ignore[no-any-return]

    def fill_like(self, x: Var, value: float) -> Var:
        """A tensor of x's type with every element `value`."""
        filled = self.scalar(value, x)
        if any(isinstance(d, Sym) for d in x.shape[1:]):
            filled = self.op("where", self.op("equal", x, x), filled, filled)
        elif x.type.rank:
            filled = self.op("full", x, shape=x.shape[1:], value=value, dtype=x.type.dtype)
        return filled

    # ---- other functions

    def sub(self, name: str, block: BlockBody, /, *operands: Var, out: str = "", **static: Any) -> Any:
        """Applies a block under state-dict prefix `name`, building its function at first use."""
        # Without the numbers that make names unique here, so that one block reads the same wherever it is used.
        names = [re.sub(r"_\d+$", "", x.value.name) for x in operands]
        fn = self.module.define(block, [x.type for x in operands], static, names)
        return self.call(fn, name, *operands, args=static, out=out)

    def call(self, fn: str, name: str, *operands: Var, args: Mapping[str, Any] | None = None, out: str = "") -> Any:
        """Calls a function of the module under state-dict prefix `name`; `args` are its static arguments."""
        attrs: dict[str, Any] = {"fn": fn, "name": self._check_path(name), "args": dict(args or {})}
        if isinstance(name, Item):
            attrs["count"] = name.length
        types = self._call_types("call", operands, operands, attrs)
        hint = out or (operands[0].value.name.split("_")[0] if operands and len(types) == 1 else "y")
        outs = self._append("call", operands, attrs, hint, types)
        return outs[0] if len(outs) == 1 else outs

    def guided(
        self,
        fn: str,
        name: str,
        operands: Sequence[Var],
        kinds: Sequence[str],
        nulls: Sequence[Var],
        scale: Var,
        guides: Sequence[str] = ("guided",),
        channels: int | None = None,
        out: str = "",
    ) -> Any:
        """A call under classifier-free guidance; see `ops.control`."""
        attrs = {
            "fn": fn,
            "name": self._check_path(name),
            "kinds": tuple(kinds),
            "guides": tuple(guides),
            "channels": channels,
        }
        ins = [*operands, *nulls, scale]
        outs = self._append("guided", ins, attrs, out or "guided", self._call_types("guided", operands, ins, attrs))
        return outs[0] if len(outs) == 1 else outs

    def gradient(
        self,
        fn: str,
        name: str,
        operands: Sequence[Var],
        *,
        of: int = 0,
        wrt: Sequence[int] = (0,),
        out: str = "",
    ) -> tuple[Var, ...]:
        """Calls `fn` and returns its output number `of`, then the gradient of that output's sum by each input in `wrt`.

        `name` is the state-dict prefix, as for `call`. The gradients can be differentiated again.
        """
        hint = out or " ".join(["y", *(f"d_{operands[i].value.name}" for i in wrt)])
        return self._derivative("gradient", fn, name, operands, (), of, wrt, hint)

    def jvp(
        self,
        fn: str,
        name: str,
        operands: Sequence[Var],
        tangents: Sequence[Var],
        *,
        of: int = 0,
        wrt: Sequence[int] = (0,),
        out: str = "",
    ) -> tuple[Var, ...]:
        """Calls `fn` and returns its output number `of`, and that output's derivative along `tangents`.

        There is one tangent for each input in `wrt`, of that input's type; the other inputs are constant.
        """
        return self._derivative("jvp", fn, name, operands, tangents, of, wrt, out or "y tangent")

    def _derivative(
        self,
        op: str,
        fn: str,
        name: str,
        operands: Sequence[Var],
        tangents: Sequence[Var],
        of: int,
        wrt: Sequence[int],
        out: str,
    ) -> tuple[Var, ...]:
        attrs = {"fn": fn, "name": self._check_path(name), "of": of, "wrt": tuple(wrt)}
        ins = [*operands, *tangents]
        return self._append(op, ins, attrs, out, self._call_types(op, operands, ins, attrs))

    def _call_types(
        self, op: str, operands: Sequence[Var], ins: Sequence[Var], attrs: Mapping[str, Any]
    ) -> list[TensorType]:
        """Output types of a call, its sizes in this function's expressions."""
        callee = self.module.functions[attrs["fn"]]
        try:
            types = CONTROL[op].types(callee, [x.type for x in ins], attrs)
        except (OpError, TypeError) as error:
            raise OpError(f"{op} of {callee.name} as {attrs['name']!r} in {self.name}: {error}") from None
        # Gradients have the types of the operands, which are written in this function's expressions already.
        called = types[:1] if op == "gradient" else types
        return in_caller(called, callee, [x.value for x in operands], attrs.get("args", {})) + types[len(called) :]

    def loop(
        self,
        name: str,
        trip: int,
        body: Callable[..., Any],
        *,
        invariants: Sequence[Var] = (),
        carried: Sequence[Var] = (),
        tables: Sequence[Var] = (),
        names: Sequence[str] = (),
        until: int | None = None,
    ) -> tuple[Var, ...]:
        """Runs `body(b, i, invariants, carried, rows)` trip times; it returns (new carried, values to stack).

        Returns the last carried values, then the stacks. The body becomes a function of its own: everything it needs
        from outside is passed as `invariants`. `names` are those of its carried and row inputs; by default they are
        called as the values passed in. `until`: number of the carried value that may end it; see `ops.control`.
        """
        inner = Builder(self.module, self.module.unique(name), None)
        i = inner.input("i", i64())
        kept = tuple(inner.input(x.value.name, x.type) for x in invariants)
        named = names or [x.value.name for x in (*carried, *tables)]
        state = tuple(inner.input(name, x.type) for name, x in zip(named, carried, strict=False))
        rows = tuple(
            inner.input(name, x.type.with_shape(x.type.shape[1:]))
            for name, x in zip(named[len(carried) :], tables, strict=True)
        )
        new, stacked = body(inner, i, kept, state, rows)
        inner.output(*new, *stacked)
        fn = inner.finish()
        attrs: dict[str, Any] = {"body": fn, "trip": trip, "invariants": len(kept), "carried": len(state)}
        if until is not None:
            attrs["until"] = until
        ins = [*invariants, *carried, *tables]
        types = CONTROL["loop"].types(self.module.functions[fn], [x.type for x in ins], attrs)
        return self._append("loop", ins, attrs, "y", types)

    def finish(self, doc: str = "") -> str:
        """Adds the function to the module and returns its name."""
        used = {v for n in self._nodes for v in n.inputs} | set(self._outputs)
        nodes = tuple(n for n in self._nodes if n.op != "constant" or n.outputs[0] in used)
        self.module.functions[self.name] = Function(
            self.name,
            tuple(self._inputs),
            tuple(self._params.values()),
            nodes,
            tuple(self._outputs),
            self.origin,
            doc,
        )
        return self.name


# Modules


class ModuleBuilder:
    """Collects functions, beginning with those of `module`; a block is built once per operand types and arguments."""

    def __init__(self, module: Module | None = None) -> None:
        self.functions: dict[str, Function] = dict(module.functions) if module else {}
        self.entries: dict[str, str] = dict(module.entries) if module else {}
        self._built: dict[Any, str] = {}
        self._names = Names(mark="#")

    def function(self, name: str) -> Builder:
        """A builder of a function that belongs to no class: a sampler, a loss."""
        return Builder(self, self.unique(name), None)

    def define(
        self,
        block: BlockBody,
        types: Sequence[TensorType],
        static: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> str:
        """Name of the function of a block for these operand types and static arguments, built at first use.

        Operands get the names of the body's parameters; those of its `*args` get the caller's `names`. Raises OpError
        if an operand has not the shape that the block declares.
        """
        traced = {k: Named(int(v), k) if is_size(v) else v for k, v in static.items()}
        words = block.operands(len(types), names)
        try:
            own = in_callee(types, traced, static, [block.shapes.get(w) for w in words])
        except ValueError as error:
            raise OpError(f"{block.cls}.{block.method}: {error}") from None
        key = (block.body, block.method, signature(own), tuple(own), frozen(static))
        if self._built.get(key) not in self.functions:
            b = Builder(self, self.unique(f"{block.cls}.{block.method}"), Origin(block.cls, traced, block.method))
            b.output(block.body(b, *(b.input(w, t) for w, t in zip(words, own, strict=True)), **traced))
            self._built[key] = b.finish(doc=(block.body.__doc__ or "").strip())
        return self._built[key]

    def finish(self) -> Module:
        return Module(dict(self.functions), dict(self.entries))

    def forget_unused(self) -> None:
        """Removes the functions that no entry reaches."""
        self.functions = {name: self.functions[name] for name in reachable(self.finish())}

    def unique(self, name: str) -> str:
        """A name for a function that no other has: `name`, `name#2`, …"""
        self._names.taken.update(self.functions)
        return self._names.fresh(name)


class Rewriter(Builder):
    """Builds a function with the inputs, params and origin of `fn`; the names of its values stay taken."""

    def __init__(self, owner: ModuleBuilder, fn: Function) -> None:
        super().__init__(owner, fn.name, fn.origin)
        self._inputs = list(fn.inputs)
        self._params = {p.name: p for p in fn.params}
        # Names of the old nodes stay taken, so that golden texts show only what a pass changed.
        self._names = Names(v.name for v in fn.values())

    def own_values(self) -> dict[Value, Var]:
        """The inputs and params as handles: {value of the function: its Var}."""
        return {v: Var(v, self) for v in (*self._inputs, *(p.value for p in self._params.values()))}


__all__ = [
    "B",
    "BlockBody",
    "Builder",
    "Item",
    "ModuleBuilder",
    "Rewriter",
    "Var",
    "as_tuple",
    "f32",
    "i64",
    "items",
    "module_class",
    "source_of",
]
