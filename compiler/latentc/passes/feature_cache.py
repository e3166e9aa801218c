"""Block caching: some steps of a sampler compute a range of blocks, the other steps reuse what the blocks added then.

What a run of blocks adds to its input changes little between neighbouring steps (DeepCache, Ma et al. 2023; Delta-DiT,
Chen et al. 2024). The network gets two more methods (see `feature_cache_methods`): `forward_caching` also returns that
sum, and `forward_cached` takes it instead of running the blocks, so it reads none of their weights. Loops over steps
become loops over groups of one computing step and the steps that reuse its sum. The grouping is fixed at compile time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, pairwise

import numpy as np

from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.core import Function, Module, Node, Value, in_order
from latentc.passes.feature_cache_methods import CACHED, CACHING, Methods, feature_cache_methods
from latentc.passes.rewrite import rewrite_function

WRITTEN_OUT = 4
"""Longest group that is unrolled in a loop's body; longer ones have an inner loop over the steps that reuse."""

Computes = Callable[[int, int], bool]
"""(number of a step in the sampler, its number in its loop), both from 0 -> whether the step computes the blocks."""


def cache(
    module: Module,
    network: str,
    blocks: tuple[int, int] | None,
    computes: Computes,
    parts: Sequence[str] = (),
    among: str | None = None,
) -> Module:
    """Caches blocks `blocks[0]` to `blocks[1] - 1` of `network` in the sampling programs of the module.

    `among` names the list of blocks if the network has several. With `parts`, the calls of these names in each block
    are cached instead of the sum of the blocks; without `blocks` they are calls of the network. The first step of a
    loop always computes: nothing cached passes from loop to loop. The new methods become entries
    `NETWORK.forward_caching` and `NETWORK.forward_cached`. Returns the module unchanged if every step computes.

    Raises ValueError for blocks or parts that the network does not have, and if no program evaluates it in a loop.
    """
    owner = ModuleBuilder(module)
    methods = feature_cache_methods(owner, network, module.entries[f"{network}.forward"], blocks, parts, among)
    names = [fn for name, fn in module.entries.items() if name.split(".")[0] == "sample"]
    loops = [_Loops(owner, module.functions[name], methods, computes) for name in names]
    changed = [each.changed() for each in loops]
    if not any(each.found for each in loops):
        raise ValueError(f"no sampling program evaluates network {network} in a loop over steps")
    if all(owner.functions[name] is module.functions[name] for name in names):
        return module
    entries = {**module.entries, f"{network}.{CACHING}": methods.caching, f"{network}.{CACHED}": methods.cached}
    return in_order(Module({**owner.functions, **{fn.name: fn for fn in changed}}, entries))


# ---- the sampler's loops


@dataclass
class _Loops:
    """Rewrites the loops of one sampling program."""

    owner: ModuleBuilder
    fn: Function
    methods: Methods
    computes: Computes
    found: bool = False
    step: int = 0
    literals: dict[Value, Node] = field(default_factory=dict)

    def changed(self) -> Function:
        self.literals = {node.outputs[0]: node for node in self.fn.nodes if node.op == "constant"}
        return rewrite_function(self.owner, self.fn, self._replaced)

    def _replaced(self, b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "loop":
            return None
        first, trip = self.step, int(node.attrs["trip"])
        self.step += trip
        body = self.owner.functions[node.attrs["body"]]
        if not any(map(self.methods.replace, body.nodes)):
            return None
        self.found = True
        starts = [k for k in range(trip) if k == 0 or self.computes(first + k, k)]
        sizes = [b - a for a, b in pairwise([*starts, trip])]
        if len(sizes) == trip:
            return None
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        if len(node.outputs) > carry:
            raise ValueError(f"the loop over {body.name} stacks values: its steps cannot be grouped")
        kept, tables = operands[:keep], operands[keep + carry :]
        state: Sequence[Var] = operands[keep : keep + carry]
        at = 0
        for size, run in groupby(sizes):
            count = len(list(run))
            groups = _Groups(self.methods, body, at, count, size)
            columns = [self._columns(b, table, at, count, groups.parts) for table in tables]
            state = groups.loop(
                b, kept, state, [column[part] for part in range(len(groups.parts)) for column in columns]
            )
            at += count * size
        return state

    def _columns(self, b: Builder, table: Var, at: int, count: int, parts: Sequence[slice]) -> list[Var]:
        """Rows of a table for `count` groups, from row `at` on: [count, …] or [count, steps, …] per part of a group."""
        size, name, (total, *rest) = parts[-1].stop, table.value.name, table.shape
        literal = self.literals.get(table.value)
        if literal is not None:
            value = np.asarray(literal.attrs["value"])[at : at + count * size].reshape(count, size, *map(int, rest))
            picked = [value[:, p] if p.step else value[:, p.start] for p in parts]
            return [b.constant(v, literal.attrs["dtype"], out=name) for v in picked]
        if count * size < int(total):
            table = b.slice(table, axis=0, start=at, stop=at + count * size, out=name)
        if size == 1:
            return [table]
        grouped = b.reshape(table, shape=(count, size, *rest), out=name)
        rows = [(p, b.slice(grouped, axis=1, start=p.start, stop=p.stop, out=name)) for p in parts]
        return [row if p.step else b.reshape(row, shape=(count, *rest), out=name) for p, row in rows]


@dataclass(frozen=True)
class _Groups:
    """`count` groups of `size` steps of a loop over `body`, beginning with step `at`; a group's first step computes."""

    methods: Methods
    body: Function
    at: int
    count: int
    size: int

    @property
    def parts(self) -> list[slice]:
        """The parts of a group in the body: single steps, or the steps of an inner loop (slices with a stride)."""
        if self.size <= WRITTEN_OUT:
            return [slice(k, k + 1) for k in range(self.size)]
        return [slice(0, 1), slice(1, self.size, 1)]

    @property
    def counts(self) -> bool:
        """True if the body reads the number of its step."""
        return self.body.inputs[0] in self.body.used()

    def loop(self, b: Builder, kept: Sequence[Var], state: Sequence[Var], rows: Sequence[Var]) -> Sequence[Var]:
        """Appends the loop; `rows` are its tables, part by part. Returns the last carried values."""
        name = f"{self.body.name}.{'computed' if self.size == 1 else 'cached'}"
        return b.loop(name, self.count, self._group, invariants=kept, carried=state, tables=rows)

    def _group(
        self, b: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        tables = len(rows) // len(self.parts)
        first = [b.add(b.mul(i, self.size), self.at)] if self.counts else []
        if self.size == 1:
            return self._step(b, first, kept, state, rows, None)[0], ()
        new, added = self._step(b, first, kept, state, rows[:tables], [])
        if self.size > WRITTEN_OUT:
            extra, width = (*kept, *added, *first), len(kept)

            def reuse(
                inner: Builder, k: Var, around: tuple[Var, ...], carried: tuple[Var, ...], row: tuple[Var, ...]
            ) -> tuple[Sequence[Var], Sequence[Var]]:
                held = around[width : width + len(added)]
                number = [inner.add(inner.add(v, k), 1) for v in around[width + len(added) :]]
                return self._step(inner, number, around[:width], carried, row, held)[0], ()

            name = f"{self.body.name}.reused"
            return b.loop(name, self.size - 1, reuse, invariants=extra, carried=new, tables=rows[tables:]), ()
        for k in range(1, self.size):
            number = [b.add(v, k) for v in first]
            new, _ = self._step(b, number, kept, new, rows[k * tables : (k + 1) * tables], added)
        return new, ()

    def _step(
        self,
        b: Builder,
        number: Sequence[Var],
        kept: Sequence[Var],
        state: Sequence[Var],
        rows: Sequence[Var],
        held: Sequence[Var] | None,
    ) -> tuple[list[Var], list[Var]]:
        """Appends a step and returns its new state and the tensors to cache of all its evaluations.

        `held`: None for a plain step, empty for a step that computes and caches, else the cached tensors to reuse.
        """
        given = iter(held or ())
        added: list[Var] = []
        env = dict(zip(self.body.inputs[1:], (*kept, *state, *rows), strict=True))
        env.update(zip(self.body.inputs[:1], number, strict=False))
        for node in self.body.nodes:
            operands = [env[v] for v in node.inputs]
            if held is None or not self.methods.replace(node):
                outs: Sequence[Var] = b.copied(node, operands)
            elif held:
                outs = _call(b, node, self.methods.cached, operands, list(islice(given, self.methods.kept)))
            else:
                outs = _call(b, node, self.methods.caching, operands, [], self.methods.kept)
                added += outs[len(node.outputs) :]
                outs = outs[: len(node.outputs)]
            env.update(zip(node.outputs, outs, strict=True))
        return [env[v] for v in self.body.outputs], added


def _call(
    b: Builder, node: Node, fn: str, operands: Sequence[Var], held: Sequence[Var], kept: int = 0
) -> tuple[Var, ...]:
    """A call like `node` of another method `fn`, which takes `held` too or returns `kept` more results."""
    attrs, out = node.attrs, " ".join([node.outputs[0].name, *["added"] * kept])
    if node.op == "call":
        outs = b.call(fn, attrs["name"], *operands, *held, args=attrs["args"], out=out)
    else:
        count = len(attrs["kinds"])
        kinds = (*attrs["kinds"], *["carried"] * len(held))
        guides = (*attrs["guides"], *["carried"] * kept)
        nulls, scale = operands[count:-1], operands[-1]
        ins = (*operands[:count], *held)
        outs = b.guided(fn, attrs["name"], ins, kinds, nulls, scale, guides, attrs["channels"], out)
    return as_tuple(outs)
