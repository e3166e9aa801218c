"""Writing IR: a function is built by ordinary Python over `Var` handles; shapes are inferred as nodes are appended.

    def attention(b, x, *, dim, heads):
        q, k, v = b.split(b.linear("qkv", x, 3 * dim), ...)

    out = b.sub("attn", module_class("Attention")(attention), x, dim=width, heads=8)

`b.NAME(...)` appends op NAME (see `ops`). Static arguments reach the body as `Named` ints, so the IR knows that 1152
was written `3 * dim`; that is what the emitter prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from latentc.ir.appending import Appending
from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Recipe, Value, frozen, same_recipe
from latentc.ir.ops import OPS, OpError
from latentc.ir.ops.control import call_types, gradient_types, guided_types, jvp_types, loop_types
from latentc.ir.recipes import MADE, recipe_type
from latentc.ir.sizes import in_callee, in_caller, is_size, signature
from latentc.ir.types import B, Named, Sym, TensorType, f32, i64, product, source_of
from latentc.ir.var import Var

Array = np.ndarray[Any, Any]


class BlockBody:
    """A Python function that builds a method of an emitted class; see `module_class`."""

    def __init__(self, body: Callable[..., Any], cls: str, method: str, shapes: Mapping[str, str]) -> None:
        self.body, self.cls, self.method, self.shapes = body, cls, method, shapes
        self.__doc__ = body.__doc__

    def operands(self, count: int, names: Sequence[str]) -> list[str]:
        """Names of `count` operands: the body's own, then `names` for those that its `*` takes."""
        code = self.body.__code__
        own = code.co_varnames[1 : code.co_argcount][:count]
        star = code.co_varnames[code.co_argcount + code.co_kwonlyargcount] if code.co_flags & 4 else "x"
        return [*own, *(names[i] if i < len(names) else star for i in range(len(own), count))]


def module_class(cls: str, method: str = "forward", **shapes: str) -> Callable[[Callable[..., Any]], BlockBody]:
    """Marks `body(b, *operands, **static)` as the `method` of class `cls` in the emitted code.

    `shapes` declare operands: `x="B channels H W"` names static arguments, expressions of them without blanks
    (`width//heads`), and labels of other sizes, which are in capitals, with a meaning if they have one (`T=grid**2`). A
    dimension that is not declared is named by the caller's expression, which is ambiguous if two arguments have it.
    """
    return lambda body: BlockBody(body, cls, method, shapes)


class Item(str):
    """The name of module `i` of a list, such as `blocks.3`.

    `length` is the size that says how many there are. `i` is the number as a size of that name: static arguments may
    depend on it (`dilation=2 ** (name.i % cycle)`).
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


class ModuleBuilder:
    """Collects functions; a block with the same class, static arguments and operand types is built once."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.entries: dict[str, str] = {}
        self._built: dict[Any, str] = {}
        self._taken: set[str] = set()  # names of functions still being built

    def function(self, name: str) -> Builder:
        """A builder of a free function (no class): a sampler, a loss."""
        return Builder(self, self.unique(name), None)

    def define(
        self,
        block: BlockBody,
        types: Sequence[TensorType],
        static: Mapping[str, Any],
        names: Sequence[str] = (),
    ) -> str:
        """Name of the function of a block for these operand types and static arguments, built at first use.

        Operands are called as the body calls them; those its `*` takes are called by `names`, the caller's. OpError
        where an operand is not of the shape that the block declares.
        """
        traced = {k: Named(int(v), k) if is_size(v) else v for k, v in static.items()}
        words = block.operands(len(types), names)
        try:
            own = in_callee(types, traced, static, [block.shapes.get(w) for w in words])
        except ValueError as error:
            raise OpError(f"{block.cls}.{block.method}: {error}") from None
        key = (block.body, block.method, signature(own), tuple(own), frozen(static))
        if key not in self._built:
            b = Builder(self, self.unique(f"{block.cls}.{block.method}"), Origin(block.cls, traced, block.method))
            b.output(block.body(b, *(b.input(w, t) for w, t in zip(words, own, strict=True)), **traced))
            self._built[key] = b.finish(doc=(block.body.__doc__ or "").strip())
        return self._built[key]

    def finish(self) -> Module:
        return Module(dict(self.functions), dict(self.entries))

    def unique(self, name: str) -> str:
        candidate, n = name, 1
        while candidate in self.functions or candidate in self._taken:
            n += 1
            candidate = f"{name}#{n}"
        self._taken.add(candidate)
        return candidate

    def adopt(self, module: Module) -> None:
        """Takes over the functions and entries of a finished module. Raises ValueError where a name means another."""
        for name, fn in module.functions.items():
            if self.functions.get(name, fn) is not fn:
                raise ValueError(f"both modules have a function {name}")
        self.functions.update(module.functions)
        self.entries.update(module.entries)


class Builder(Appending):
    """Builds one function. Every method that appends a node returns its output `Var` (a tuple where it has several)."""

    def __init__(self, owner: ModuleBuilder, name: str, origin: Origin | None) -> None:
        self.module, self.name, self.origin = owner, name, origin
        self._inputs: list[Value] = []
        self._params: dict[str, Param] = {}
        self._nodes: list[Node] = []
        self._outputs: list[Value] = []
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}  # how far the numbering of a name has come
        self._constants: dict[Any, Var] = {}

    # ---- values

    @property
    def params(self) -> Mapping[str, Param]:
        """The params so far, by name."""
        return self._params

    @property
    def names(self) -> Set[str]:
        """Names that are taken."""
        return self._names

    def fresh(self, name: str, type: TensorType) -> Value:
        """A value under `name`, numbered if that is taken: an output for a node to `append`."""
        return Value(self._fresh(name), type)

    def _fresh(self, name: str) -> str:
        candidate, n = name, self._counts.get(name, 1)
        while candidate in self._names:
            n += 1
            candidate = f"{name}_{n}"
        self._counts[name] = n
        self._names.add(candidate)
        return candidate

    def input(self, name: str, type: TensorType) -> Var:
        value = Value(self._fresh(name), type)
        self._inputs.append(value)
        return Var(value, self)

    def param(self, name: str, type: TensorType, init: str, kind: str = "weight", **args: Any) -> Var:
        """A weight or buffer of this function under `name` (`qkv.weight`); asked for twice, it is the same one."""
        if name not in self._params:
            self._names.add(name)
            self._params[name] = Param(Value(name, type), Init(init, args), kind)
        elif self._params[name].type != type:
            raise OpError(f"param {name} is {self._params[name].type} and {type} in {self.name}")
        return Var(self._params[name].value, self)

    def made(self, name: str, recipe: Recipe) -> Var:
        """A param `name` made of the model's weights; asked for twice, it is the same one.

        OpError where it is ill-typed, or where the name means something else.
        """
        if name not in self._params:
            if name in self._names:
                raise OpError(f"{name} is a value of {self.name} already")
            self._names.add(name)
            self._params[name] = Param(Value(name, recipe_type(recipe)), MADE, "weight", recipe)
        elif not same_recipe(self._params[name].recipe, recipe):
            raise OpError(f"param {name} of {self.name} is another already")
        return Var(self._params[name].value, self)

    def constant(self, value: Any, dtype: str | None = None, out: str = "c") -> Var:
        """A literal; floats default to f32 (kept in float64), integers to i64."""
        array = np.asarray(value)
        if dtype is None:
            dtype = {"f": "f32", "i": "i64", "u": "i64", "b": "bool"}[array.dtype.kind]
        array = array.astype({"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}[array.dtype.kind])
        key = (dtype, array.shape, array.tobytes()) if array.size <= 16 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        made = self._append("constant", [], {"value": array, "dtype": dtype}, out)[0]
        if key is not None:
            self._constants[key] = made
        return made

    def arange(self, count: int, out: str = "index") -> Var:
        """0 … count - 1 as i64[count]; the emitted code computes it from the size."""
        array = np.arange(int(count))
        return self._append("constant", [], {"value": array, "dtype": "i64"}, out, [i64(count)])[0]

    def scalar(self, value: float, like: Var) -> Var:
        """A rank-0 constant of `like`'s dtype; of a size, the emitted code has its expression."""
        if isinstance(value, Named):
            number = np.float64(value) if like.type.is_float else np.int64(value)
            attrs = {"value": np.asarray(number), "dtype": like.type.dtype, "size": value}
            return self._append("constant", [], attrs, "c")[0]
        return self.constant(np.float64(value) if like.type.is_float else np.int64(value), like.type.dtype)

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
        """Appends a node as it is and returns its outputs; `verify` checks what nobody checks here."""
        self._nodes.append(node)
        return tuple(Var(o, self) for o in node.outputs)

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
        """Appends another function's node, applied to operands of the types it had there."""
        if node.op == "constant":
            return (self.constant(node.attrs["value"], node.attrs["dtype"], out=node.outputs[0].name),)
        hint = " ".join(o.name for o in node.outputs)
        return self._append(node.op, operands, node.attrs, hint, [o.type for o in node.outputs])

    # ---- leaves: an op and its params under one name, as torch.nn has them

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
        width = x.shape[-1]
        if init == "linear_default":
            args = {"fan_in": width}
        ins = [x, self.param(f"{name}.weight", TensorType(x.type.dtype, (features, width)), init, **args)]
        if bias:
            bias_init: tuple[str, dict[str, Any]] = ("zeros", {}) if init != "linear_default" else (init, args)
            ins.append(self.param(f"{name}.bias", TensorType(x.type.dtype, (features,)), bias_init[0], **bias_init[1]))
        return self.op("linear", *ins, out=out)  # type: ignore[no-any-return]

    def flatten_rows(self, x: Var) -> Var:
        """[..., D] as [rows, D]."""
        return x if x.type.rank == 2 else self.op("reshape", x, shape=(product(x.shape[:-1]), x.shape[-1]))

    def fill_like(self, x: Var, value: float) -> Var:
        """A tensor of x's type, every element `value`."""
        filled = self.scalar(value, x)
        if any(isinstance(d, Sym) for d in x.shape[1:]):
            filled = self.op("where", self.op("equal", x, x), filled, filled)
        elif x.type.rank:
            filled = self.op("full", x, shape=x.shape[1:], value=value, dtype=x.type.dtype)
        return filled

    def sum_to(self, g: Var, type: TensorType) -> Var:
        """Sums a gradient over the axes that broadcasting added."""
        if g.type.shape == type.shape:
            return g
        extra = g.type.rank - type.rank
        axes = tuple(range(extra)) + tuple(
            i + extra for i, d in enumerate(type.shape) if d == 1 and g.shape[i + extra] != 1
        )
        summed: Var = self.op("sum", g, axes=axes, keepdims=False) if axes else g
        if summed.type.shape != type.shape:
            summed = self.op("reshape", summed, shape=type.shape)
        return summed

    # ---- other functions

    def sub(self, name: str, block: BlockBody, *operands: Var, out: str = "", **static: Any) -> Any:
        """Applies a block under state-dict prefix `name`, building its function at first use."""
        fn = self.module.define(block, [x.type for x in operands], static, [x.value.name for x in operands])
        return self.call(fn, name, *operands, args=static, out=out)

    def call(self, fn: str, name: str, *operands: Var, args: Mapping[str, Any] | None = None, out: str = "") -> Any:
        callee = self.module.functions[fn]
        try:
            types = call_types(fn, callee.inputs, callee.outputs, [x.type for x in operands])
        except OpError as error:
            raise OpError(f"call of {fn} as {name!r} in {self.name}: {error}") from None
        attrs: dict[str, Any] = {"fn": fn, "name": str(name), "args": dict(args or {})}
        if isinstance(name, Item):
            attrs["count"] = name.length
        hint = out or (operands[0].value.name.split("_")[0] if operands and len(types) == 1 else "y")
        outs = self._append(
            "call", operands, attrs, hint, in_caller(types, callee, [x.value for x in operands], attrs["args"])
        )
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
        attrs = {"fn": fn, "name": name, "kinds": tuple(kinds), "guides": tuple(guides), "channels": channels}
        ins = [*operands, *nulls, scale]
        callee = self.module.functions[fn]
        types = guided_types(callee, [x.type for x in ins], attrs)
        types = in_caller(types, callee, [x.value for x in operands], {})
        outs = self._append("guided", ins, attrs, out or "guided", types)
        return outs[0] if len(outs) == 1 else outs

    def gradient(
        self,
        fn: str,
        name: str,
        operands: Sequence[Var],
        *,
        of: int = 0,
        wrt: Sequence[int] = (0,),
        args: Mapping[str, Any] | None = None,
        out: str = "",
    ) -> tuple[Var, ...]:
        """Calls `fn` and returns its output number `of`, then the gradient of that output's sum by each input in `wrt`.

        `name` is the state-dict prefix and `args` are static arguments, as for `call`. The gradients can be
        differentiated again.
        """
        attrs = {"fn": fn, "name": name, "args": dict(args or {}), "of": of, "wrt": tuple(wrt)}
        hint = " ".join(["y", *(f"d_{operands[i].value.name}" for i in wrt)])
        return self._derivative("gradient", gradient_types, operands, operands, attrs, out or hint)

    def jvp(
        self,
        fn: str,
        name: str,
        operands: Sequence[Var],
        tangents: Sequence[Var],
        *,
        of: int = 0,
        wrt: Sequence[int] = (0,),
        args: Mapping[str, Any] | None = None,
        out: str = "",
    ) -> tuple[Var, ...]:
        """Calls `fn` and returns its output number `of`, and that output's derivative along `tangents`.

        There is one tangent for each input in `wrt`, of that input's type; the other inputs are constant.
        """
        attrs = {"fn": fn, "name": name, "args": dict(args or {}), "of": of, "wrt": tuple(wrt)}
        return self._derivative("jvp", jvp_types, operands, [*operands, *tangents], attrs, out or "y tangent")

    def _derivative(
        self, op: str, rule: Any, operands: Sequence[Var], ins: Sequence[Var], attrs: Mapping[str, Any], out: str
    ) -> tuple[Var, ...]:
        callee = self.module.functions[attrs["fn"]]
        try:
            types = rule(callee, [x.type for x in ins], attrs)
        except (OpError, TypeError) as error:
            raise OpError(f"{op} of {attrs['fn']} in {self.name}: {error}") from None
        (output,) = in_caller(types[:1], callee, [x.value for x in operands], attrs["args"])
        return self._append(op, ins, attrs, out, [output if t is types[0] else t for t in types])

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
    ) -> tuple[Var, ...]:
        """Runs `body(b, i, invariants, carried, rows)` trip times; it returns (new carried, values to stack).

        The result holds the last carried values, then the stacks. The body is a function of its own: what it needs
        from outside is passed as `invariants`. Input names are those of the values passed in, or (of carried values,
        then tables) `names`.
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
        attrs = {"body": fn, "trip": trip, "invariants": len(kept), "carried": len(state)}
        ins = [*invariants, *carried, *tables]
        types = loop_types(self.module.functions[fn], [x.type for x in ins], attrs)
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


# Names of outputs that nobody named.
_HINTS = {"linear": "h", "reshape": "x", "transpose": "x", "add": "x", "mul": "x", "sub": "x", "div": "x"}
_HINTS |= {"layer_norm": "h", "rms_norm": "h", "group_norm": "h", "batch_norm": "h"}

__all__ = [
    "B",
    "BlockBody",
    "Builder",
    "ModuleBuilder",
    "Var",
    "f32",
    "i64",
    "items",
    "module_class",
    "source_of",
]
