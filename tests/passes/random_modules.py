"""Random small modules for differential tests: functions that share weights, calls under one name, loops in loops with
invariants, tables and stacks, guidance, several entries, values and params returned twice."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Module, own_parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, Sym, TensorType, f32, i64
from latentc.ir.verify import verify

BATCH = 3
_SHAPES: tuple[tuple[Any, ...], ...] = ((B, 4), (B, 2, 4), (B,), (4,), (1, 4), (2, 4), (), (2 * B, 4), (B, 1, 4))


class Generator:
    """Draws one module with `random`; each function has at most `size` nodes drawn."""

    def __init__(self, random: Random, size: int = 8, guided: bool = True, varied: bool = False) -> None:
        self.random, self.size, self.guided = random, size, guided
        self.kinds = _KINDS + _VARIED * varied
        self.mb = ModuleBuilder()
        self.leaves: list[str] = []

    def module(self) -> Module:
        for n in range(self.random.randint(1, 2)):
            self.leaves.append(self.function(f"leaf{n}", depth=0))
        if self.random.random() < 0.5:
            self.leaves.append(self.function("middle", depth=1))
        for n in range(self.random.randint(1, 2)):
            self.mb.entries[f"entry{n}"] = self.function(f"main{n}", depth=2)
        if self.random.random() < 0.2:
            self.mb.entries["again"] = self.mb.entries["entry0"]
        return verify(self.mb.finish())

    def function(self, name: str, depth: int) -> str:
        b = self.mb.function(name)
        shapes = [(B, 4), *(self.random.choice(_SHAPES) for _ in range(self.random.randint(0, 2)))]
        values = [b.input(f"x{i}", f32(*s)) for i, s in enumerate(shapes)]
        if self.random.random() < 0.5:
            values.append(b.input("y", i64(B)))
        self.nodes(b, values, depth)
        b.output(*self.outputs(b, values))
        return b.finish()

    def outputs(self, b: Builder, values: list[Var]) -> list[Var]:
        """The last value, and others: some of them twice, inputs, params or constants."""
        chosen = [values[-1], *(self.random.choice(values) for _ in range(self.random.randint(0, 2)))]
        return [self.tame(b, v) for v in chosen] if self.random.random() < 0.5 else chosen

    @staticmethod
    def tame(b: Builder, x: Var) -> Var:
        return b.tanh(x) if x.type.is_float else x

    def nodes(self, b: Builder, values: list[Var], depth: int) -> None:
        for _ in range(self.random.randint(1, self.size)):
            kind = self.random.random()
            made: Any
            if depth and kind < 0.2:
                made = self.call(b, values)
            elif depth and kind < 0.45:
                made = self.loop(b, values, depth)
            else:
                made = self.op(b, values)
            if made is None:
                continue
            for v in made if isinstance(made, tuple | list) else [made]:
                values.append(v)

    # ---- picking

    def pick(self, values: list[Var], fits: Any = lambda v: True) -> Var | None:
        found = [v for v in values if fits(v)]
        return self.random.choice(found) if found else None

    def typed(self, b: Builder, values: list[Var], type: TensorType) -> Var:
        """A value of a type, made where there is none."""
        found = self.pick(values, lambda v: v.type == type)
        odd = any(isinstance(d, Sym) for d in type.shape[1:])  # a shape that nothing makes afresh
        lender = self.pick(values, _lends)
        if found is not None and (odd or lender is None or self.random.random() < 0.8):
            return found
        size = next((d for d in type.shape if isinstance(d, Sym)), None)
        number = self.random.choice([0, 1, 2]) if not type.is_float else self.random.choice([0.0, 1.0, 0.5])
        if size is None:
            shape = [int(d) for d in type.shape]
            if type.is_float and self.random.random() < 0.5:
                return b.param(f"p{'x'.join(map(str, shape))}", type, "normal", std=0.5)
            return b.constant(np.full(shape, number), type.dtype)
        assert lender is not None
        return b.full(lender, shape=type.shape[1:], value=number, dtype=type.dtype, factor=size.factor)

    # ---- nodes of other functions

    def call(self, b: Builder, values: list[Var]) -> Any:
        fn = self.mb.functions[self.random.choice(self.leaves)]
        double = self.random.random() < 0.2
        name = self.random.choice(["net", "net", "other", "p4", ""])
        # One path has one type, whoever is called there.
        kinds = [v.type for v in fn.inputs]
        if double:
            kinds = [t.with_shape([2 * d if isinstance(d, Sym) else d for d in t.shape]) for t in kinds]
        name = f"{name}.{fn.name}" if name else fn.name
        operands = [self.typed(b, values, t) for t in kinds]
        guidable = all(o.type.rank and o.type.shape[0] == B and o.type.is_float for o in fn.outputs)
        fixed = any(t.rank and t.shape[0] != B for t in kinds)  # what is no row of a sample cannot be doubled
        if self.guided and guidable and not double and not fixed and self.random.random() < 0.6:
            kinds_ = [self.random.choice(["shared", "conditional"]) if x.type.rank else "shared" for x in operands]
            nulls = [self.typed(b, values, x.type) for x, k in zip(operands, kinds_, strict=True) if k == "conditional"]
            scale = self.typed(b, values, f32(B))
            channels = None
            if all(o.type.rank > 1 and o.type.shape[1] > 1 for o in fn.outputs) and self.random.random() < 0.4:
                channels = 1
            return b.guided(
                fn.name, name, operands, kinds_, nulls, scale, ["guided"] * len(fn.outputs), channels=channels
            )
        return b.call(fn.name, name, *operands)

    def loop(self, b: Builder, values: list[Var], depth: int) -> Any:
        random, trip = self.random, self.random.choice([1, 2, 4, 4, 6])
        invariants = [random.choice(values) for _ in range(random.randint(0, 3))]
        carried = [random.choice(values) for _ in range(random.randint(0 if invariants else 1, 2))]
        if not any(map(_lends, (*invariants, *carried))):
            invariants.append(next(filter(_lends, values)))
        tables = []
        for _ in range(random.randint(0, 2)):
            shape = random.choice([(), (4,), (2, 4), (1, 4)])
            tables.append(b.constant(np.linspace(-1, 1, trip * int(np.prod(shape, dtype=int))).reshape(trip, *shape)))
        if random.random() < 0.2:
            tables.append(b.constant(np.arange(trip) % 3))
        found = self.pick(values, lambda v: v.type.rank and v.shape[0] == trip and v.type.rank < 3)
        if found is not None and random.random() < 0.3:
            tables.append(found)

        def body(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> Any:
            inner = [*kept, *state, *rows, i]
            lender = self.pick([*kept], _lends)
            if lender is not None and random.random() < 0.7:  # what hoisting makes tables of
                time = self.pick([*rows], lambda v: not v.type.rank and v.type.is_float) or b.cast(i, to="f32")
                column = b.reshape(b.broadcast_to(time, lender, shape=(B,)), shape=(B, 1))
                inner += [b.sin(b.broadcast_to(column, lender, shape=(B, 4))), lender * time] * 2
            self.nodes(b, inner, depth - 1)
            new = [self.typed(b, inner[len(kept) :][::-1], x.type) for x in state]
            return [self.tame(b, x) for x in new], [
                random.choice(inner) for _ in range(random.randint(0 if state else 1, 2))
            ]

        outs = b.loop(f"{b.name}.step", trip, body, invariants=invariants, carried=carried, tables=tables)
        return outs or None

    # ---- plain nodes

    def op(self, b: Builder, values: list[Var]) -> Any:
        r = self.random
        x = r.choice(values)
        floats = x.type.is_float
        last, rank = x.type.rank - 1, x.type.rank
        width = x.shape[-1] if rank else 0
        if any(isinstance(d, Sym) for d in x.shape[1:]):
            return b.tanh(x) if floats else None
        plain = rank and not isinstance(width, Sym)
        kind = r.choice(self.kinds)
        if kind == "binary":
            other = self.pick(values, lambda v: v.type.dtype == x.type.dtype and _broadcasts(v, x))
            other = r.choice([other, 0, 1, 2]) if other is not None else 1
            op = r.choice(["add", "sub", "mul", "maximum", "minimum"])
            pair = [x, other]
            if x.type.dtype == "bool":
                return None
            if r.random() < 0.5:
                pair.reverse()
            return b.op(op, *pair)
        if kind == "where":
            other = self.pick(values, lambda v: v.type.dtype == x.type.dtype and _broadcasts(v, x))
            return b.where(b.less(x, other), x, other) if other is not None and x.type.dtype != "bool" else None
        if kind == "cast":
            if x.type.dtype == "i64":
                return b.cast(x, to="f32")
            return None
        if kind == "broadcast":
            if rank == 2 and isinstance(x.shape[1], Sym):
                return None
            if rank <= 1 and not any(isinstance(d, Sym) for d in x.shape):
                lender = self.pick(values, lambda v: v.type.rank and isinstance(v.shape[0], Sym))
                return b.broadcast_to(x, lender, shape=(lender.shape[0], *x.shape)) if lender is not None else None
            if rank and x.shape[0] == 1:
                lender = self.pick(values, lambda v: v.type.rank and isinstance(v.shape[0], Sym))
                return b.broadcast_to(x, lender, shape=(lender.shape[0], *x.shape[1:])) if lender is not None else None
            return None
        if kind == "concat":
            other = self.pick(values, lambda v: v.type == x.type)
            if not rank or other is None or (rank == 3 and r.random() < 0.5):
                return None
            axis = 0 if isinstance(x.shape[0], Sym) and x.shape[0].factor == 1 else None
            return b.concat(x, other, axis=axis) if axis is not None else None
        if kind == "halves":
            size = x.shape[0] if rank else 1
            if isinstance(size, Sym) and size.factor == 2:
                return b.split(x, axis=0, sizes=(size // 2, size // 2))
            return None
        if kind == "reshape":
            if rank == 2 and width == 4:
                wide = b.reshape(x, shape=(x.shape[0], 2, 2))
                return b.reshape(b.transpose(wide, perm=(0, 2, 1)), shape=x.shape)
            if rank == 2 and not isinstance(x.shape[0], Sym):
                return b.reshape(b.transpose(x, perm=(1, 0)), shape=x.shape)
            if rank == 3:
                turned = b.transpose(b.transpose(x, perm=(1, 2, 0)), perm=(0, 2, 1))
                return b.transpose(turned, perm=(2, 1, 0))
            return None
        if kind == "split" and plain and width == 4:
            first, second = b.split(x, axis=r.choice([-1, last]), sizes=(1, 3))
            return b.concat(second, first, axis=last)
        if kind == "unbind" and rank == 3 and not isinstance(x.shape[1], Sym):
            return b.unbind(x, axis=r.choice([1, -2]))
        if kind == "slice" and plain and width == 4:
            return b.pad(b.slice(x, axis=last, start=1, stop=3), axis=-1, before=0, after=2, value=r.choice([0, 1]))
        if kind == "take" and floats:
            index = self.pick(values, lambda v: v.type.dtype == "i64" and v.type.rank < 2)
            table = self.pick(
                values, lambda v: v.type.is_float and v.type.rank == 2 and not isinstance(v.shape[0], Sym)
            )
            if index is None or table is None:
                return None
            return b.take(table, b.clamp(index, low=0, high=int(table.shape[0]) - 1), axis=0)
        if kind == "embedding":
            index = self.pick(values, lambda v: v.type == i64(B))
            if index is None:
                return None
            return b.embedding(b.param("table.weight", f32(4, 4), "normal", std=0.5), b.clamp(index, low=0, high=3))
        if kind == "literal":
            literal = b.constant(
                np.array(r.choice([[0, 1, 3, 2], [[1], [0]], 2])), r.choice(["i32", "i8", "u8", "i64"])
            )
            return b.cast(b.equal(literal, literal) if r.random() < 0.3 else literal, to="f32")
        if kind == "choice":
            return b.where(b.equal(x, x), b.constant(1.0), b.constant(0.0)) if x.type.dtype != "bool" else None
        if not floats:
            return None
        if kind == "dotted" and plain and width == 4:
            name = r.choice(["fc.scale", "deep.er.scale", "fc.inner.scale", "0.scale", "class.in"])
            return x * b.param(name, f32(4), "normal")
        if kind == "tied" and plain and width == 4 and rank > 1:  # the table of the embedding, or a Linear without bias
            return b.linear(x, b.param(r.choice(["table.weight", "fc.weight"]), f32(4, 4), "normal", std=0.5))
        if kind == "shared" and plain and width == 4:  # a weight of what is called as `net` or `other`
            return x + b.param(r.choice(["net.leaf0.norm.weight", "other.leaf0.norm.weight"]), f32(4), "ones")
        if kind == "large" and plain and width == 4:
            return x + b.mean(b.constant(np.sin(np.arange(400.0)).reshape(100, 4)), axes=(0,), keepdims=False)
        if kind == "masked" and rank == 3 and width == 4:
            q = b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:]))
            rows = r.choice([(1, 1, 1), (1, 1, int(x.shape[1])), (1, int(x.shape[1])), ()])
            values = np.arange(int(np.prod(rows, dtype=int)) * int(x.shape[1])).reshape(*rows, int(x.shape[1])) % 2
            mask = b.constant(values == 0 if r.random() < 0.5 else values * -1.0)
            return b.reshape(b.attention(q, q, q, mask, causal=False, scale=None), shape=x.shape)
        if kind == "unary":
            return b.op(r.choice(["tanh", "sigmoid", "silu", "neg", "abs", "relu", "sin"]), x)
        if kind == "dropout":
            return b.dropout(x, p=0.5) if r.random() < 0.5 else b.stop_gradient(x)
        if kind == "embed_time" and rank == 1 and isinstance(x.shape[0], Sym):
            return b.timestep_embedding(x, dim=4, max_period=100.0)
        if kind == "linear" and plain and width == 4 and rank > 1:
            name = r.choice(["fc", "fc", "fd"])
            return b.dense(name, x, 4)
        if kind == "gated" and plain and width == 4 and rank > 1:
            scale, shift = b.split(b.dense("gate", x, 8), axis=last, sizes=(4, 4))
            return b.layer_norm(x, eps=1e-2) * (scale + 1.0) + shift
        if kind == "norm" and plain:
            weight = b.param("norm.weight", f32(4), "ones")
            if width != 4:
                return None
            return b.rms_norm(x, weight, eps=1e-2) if r.random() < 0.5 else b.layer_norm(x, weight, eps=1e-2)
        if kind == "softmax" and plain:
            axis = last if self.guided else r.randrange(rank)  # guidance is of networks that see samples one by one
            return b.softmax(x, axis=axis - rank) if r.random() < 0.5 else b.cumsum(x, axis=axis)
        if kind == "reduce" and rank:
            axis = r.randrange(rank)
            if isinstance(x.shape[axis], Sym) and (self.guided or r.random() < 0.7):
                axis = last
            if self.guided and isinstance(x.shape[axis], Sym):
                return None
            return b.op(r.choice(["sum", "mean", "max"]), x, axes=(axis,), keepdims=r.random() < 0.6)
        if kind == "matmul" and rank == 3 and width == 4:
            return b.matmul(b.matmul(x, b.transpose(x, perm=(0, 2, 1))), x)
        if kind == "attention" and rank == 3 and width == 4:
            q = b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:]))
            return b.reshape(b.attention(q, q, q, causal=False, scale=None), shape=x.shape)
        if kind == "update" and rank == 2 and width == 4:
            start = self.pick(values, lambda v: v.type == i64())
            if start is None:
                return None
            return b.update_slice(x, b.slice(x, axis=1, start=0, stop=1), b.clamp(start, low=0, high=3), axis=1)
        return None


_KINDS = (
    *("binary",) * 5,
    *("unary",) * 2,
    *("linear",) * 3,
    "where", "cast", "broadcast", "broadcast", "concat", "halves", "reshape", "split", "unbind", "slice", "take",
    "embedding", "embedding", "dropout", "embed_time", "gated", "norm", "softmax", "softmax", "reduce", "reduce",
    "matmul", "attention", "update",
)  # fmt: skip


# What only emission is tried with.
_VARIED = ("literal", "choice", "dotted", "tied", "shared", "large", "masked")


def _lends(v: Var) -> bool:
    """Whether a value says how large the batch is, and no more."""
    return v.type.rank > 0 and v.type.is_float and v.shape[0] == B and not any(isinstance(d, Sym) for d in v.shape[1:])


def _broadcasts(v: Var, x: Var) -> bool:
    shape = (1,) * (x.type.rank - v.type.rank) + v.type.shape
    return v.type.rank <= x.type.rank and all(p in (1, q) for p, q in zip(shape, x.shape, strict=True))


def inputs_of(module: Module, entry: str, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    made = []
    for v in module.entry(entry).inputs:
        shape = [BATCH * d.factor if isinstance(d, Sym) else int(d) for d in v.type.shape]
        made.append(rng.integers(0, 4, shape) if v.type.dtype == "i64" else rng.uniform(-1, 1, shape))
    return made


def weights_of(module: Module, seed: int = 0) -> dict[str, Any]:
    """Random weights for every entry."""
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for fn in module.entries.values():
        params |= own_parameters(module, fn)
    return {path: rng.uniform(-1, 1, [int(d) for d in p.type.shape]) for path, p in params.items()}


def results_of(module: Module, weights: Any, float_dtype: str = "f64") -> dict[str, Any]:
    run = Interpreter(module, weights, float_dtype).run
    return {entry: run(entry, *inputs_of(module, entry)) for entry in module.entries}
