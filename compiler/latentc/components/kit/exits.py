"""Early exits: the methods by which a network can be left behind some of its blocks, made by rewriting its `forward`.

Behind a block stands what later nodes read: its features, and what else was computed before (`frontier`). What follows
the last block is the tail, of which every exit has one of its own. Features are tokens [B, T, D], or the maps
[B, C, ...] of a U-Net, which blocks on its way down and in its middle have at a lower resolution. Symbols: B batch,
T tokens, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentc.components.backbone import public
from latentc.components.capabilities import TRAINING, Role
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.controls import joins, leading_blocks
from latentc.components.kit.methods import derived_method
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Function, Node, Origin, Value, live


@dataclass(frozen=True)
class Cuts:
    """A function that can be left behind its blocks number `after`, counted from 1."""

    fn: Function
    after: tuple[int, ...]

    @property
    def blocks(self) -> list[Node]:
        """The calls of its blocks, in order: those of tokens, with what stands between them, or those of a U-Net."""
        leading = leading_blocks(self.fn)
        if self.of_maps:
            return self._blocks_of_maps()
        if not leading:
            return []
        nodes, of = self.fn.nodes, sizes(leading[0].outputs[0])
        between = nodes[nodes.index(leading[0]) : nodes.index(leading[-1]) + 1]
        return [n for n in between if n.op == "call" and (n in leading or sizes(n.outputs[0]) == of)]

    @property
    def of_maps(self) -> bool:
        """Whether it is a U-Net: its decoder concatenates skips."""
        return bool(joins(self.fn))

    def _blocks_of_maps(self) -> list[Node]:
        """The calls that return maps computed from the state, the first input; not one that returns the output."""
        reached, rank = {self.fn.inputs[0]}, self.fn.outputs[0].type.rank
        found = []
        for node in self.fn.nodes:
            if reached.isdisjoint(node.inputs):
                continue
            reached.update(node.outputs)
            inner = self.fn.outputs[0] not in node.outputs
            found += [node] if node.op == "call" and inner and node.outputs[0].type.rank == rank else []
        return found

    def cut(self, number: int) -> int:
        """The first node behind block `number`."""
        return self.fn.nodes.index(self.blocks[number - 1]) + 1

    @property
    def tail(self) -> tuple[Node, ...]:
        """The nodes behind the last block."""
        return self.fn.nodes[self.cut(len(self.blocks)) :]

    def features(self, number: int) -> tuple[Value, ...]:
        """What block `number` returns of what the tail reads of the last. ValueError: it returns less."""
        read = {v for node in live(self.tail, self.fn.outputs) for v in node.inputs}
        places = [i for i, v in enumerate(self.blocks[-1].outputs) if v in read]
        own = self.blocks[number - 1].outputs
        if not places or places[-1] >= len(own):
            raise ValueError(f"the layers after its last block read more than block {number} returns")
        return tuple(own[i] for i in places)

    @property
    def last(self) -> tuple[Value, ...]:
        """The features that the tail reads."""
        return self.features(len(self.blocks))

    @property
    def stem(self) -> Value | None:
        """The first features of a U-Net, at the tail's resolution, that the last skip brings; computed before the
        first block."""
        skip = joins(self.fn)[-1].inputs[1] if self.of_maps else None
        before = {v for node in self.fn.nodes[: self.cut(1) - 1] for v in node.outputs}
        return skip if skip in before and sizes(skip)[1:] == sizes(self.last[0])[1:] else None

    def frontier(self, number: int) -> tuple[Value, ...]:
        """What nodes and exits behind block `number` read of what was computed before, its features first."""
        at, own = self.cut(number), self.features(number)
        found = self._read(self.fn.nodes[:at], self.fn.nodes[at:], own)
        return *found, *(v for v in self.context if v not in found)

    @property
    def context(self) -> tuple[Value, ...]:
        """What exits read beside the features. ValueError: something that depends on the last block but one."""
        before, last = self.fn.nodes[: self.cut(1) - 1], self.last
        found = self._read(before, self.tail, last)[len(last) :]
        known = {v for node in before for v in node.outputs} | set(self.fn.inputs) | self._fixed()
        inner = {v for node in self.tail for v in node.outputs} | set(last)
        if any(v not in known and v not in inner for node in live(self.tail, self.fn.outputs) for v in node.inputs):
            raise ValueError("the layers after its last block read more than its features")
        return (*found, *([self.stem] if self.stem is not None and self.stem not in found else []))

    def _fixed(self) -> set[Value]:
        """Params, and what follows from them and from constants alone."""
        fixed = {p.value for p in self.fn.params}
        for node in self.fn.nodes:
            if node.op != "call" and all(v in fixed for v in node.inputs):
                fixed.update(node.outputs)
        return fixed

    def _read(self, before: Sequence[Node], after: Sequence[Node], own: tuple[Value, ...]) -> tuple[Value, ...]:
        fixed = self._fixed()
        made = [v for node in before for v in node.outputs if v not in fixed] + list(self.fn.inputs)
        read = {v for node in live(after, self.fn.outputs) for v in node.inputs}
        return *own, *(v for v in made if v in read and v not in own)


def sizes(value: Value) -> tuple[int, ...]:
    """The sizes of a value [B, ...] behind the batch."""
    return tuple(int(d) for d in value.type.shape[1:])  # type: ignore[arg-type]


def cuts(mb: ModuleBuilder, network: Network, after: Sequence[int] | None) -> Cuts:
    """Where a network can be left; `after`: the numbers of the blocks, None: all but the last.

    ValueError: it cannot.
    """
    if network.adapters:
        raise ValueError("adapters change its blocks")
    if TRAINING in network.methods:
        raise ValueError("it behaves differently in training")
    found = with_exits(mb, network, after)
    count, numbers = len(found.blocks), found.after
    if not count:
        raise ValueError("it has neither a list of blocks of tokens nor skip connections")
    if not numbers or any(not 0 < n < count for n in numbers) or list(numbers) != sorted(set(numbers)):
        names = ", ".join(f"{i} `{node.attrs['name']}`" for i, node in enumerate(found.blocks, 1))
        raise ValueError(
            f"it has {count} blocks, so exits must follow increasing blocks from 1 to {count - 1}; blocks: {names}"
        )
    _ = found.context
    for number in numbers:
        for own, read in zip(found.features(number), found.last, strict=True):
            fits = factors(own, read) is not None if found.of_maps else sizes(own) == sizes(read)
            if not fits:
                message = f"features after block {number} are {public(own.type)}, but those after the last"
                raise ValueError(f"{message} {public(read.type)}")
    return found


def factors(features: Value, read: Value) -> tuple[int, ...] | None:
    """By how much the maps that the tail reads are larger than these along each axis, None if by no whole numbers."""
    pairs = list(zip(sizes(features)[1:], sizes(read)[1:], strict=True))
    return None if any(large % small for small, large in pairs) else tuple(large // small for small, large in pairs)


def with_exits(mb: ModuleBuilder, network: Network, after: Sequence[int] | None) -> Cuts:
    """Where a network is left that has exits."""
    fn = mb.functions[network.methods["forward"].function]
    return Cuts(fn, tuple(range(1, len(Cuts(fn, ()).blocks))) if after is None else tuple(after))


def _method(
    mb: ModuleBuilder,
    cut: Cuts,
    name: str,
    doc: str,
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
) -> str:
    """A method of the network's class: the nodes that `outputs` depend on, from `inputs` and weights."""
    fixed = cut._fixed()
    constant = [node for node in cut.fn.nodes if node.op != "call" and node.outputs[0] in fixed]
    own = [node for node in nodes if node not in constant]
    return derived_method(mb, cut.fn, name, doc, [*constant, *own], inputs, outputs)


def until(mb: ModuleBuilder, network: Network, cut: Cuts, number: int) -> Network:
    """The network up to block `number`: its method `to_NUMBER` returns its features and the exits' context."""
    forward, name = network.methods["forward"], f"to_{number}"
    nodes, outputs = cut.fn.nodes[: cut.cut(number)], (*cut.features(number), *cut.context)
    made = _method(mb, cut, name, f"The features after block {number}.", nodes, cut.fn.inputs, outputs)
    results = _ports(outputs, "output")
    mb.entries[f"{network.name}.{name}"] = made
    return replace(network, methods={name: Method(made, forward.inputs, results)})


def stage(mb: ModuleBuilder, network: Network, cut: Cuts, first: int, last: int) -> Method:
    """Blocks `first` + 1 to `last`: from the frontier (with `first` 0 the inputs) to the next, or to the outputs."""
    forward, end = network.methods["forward"], len(cut.blocks)
    start = cut.cut(first) if first else 0
    nodes = cut.fn.nodes[start:] if last == end else cut.fn.nodes[start : cut.cut(last)]
    given = cut.frontier(first) if first else cut.fn.inputs
    outputs = cut.fn.outputs if last == end else cut.frontier(last)
    name, doc = f"blocks_{first}_{last}", f"From after block {first} to after block {last}."
    passed = [v for v in outputs if v not in given]
    made = _method(mb, cut, name, doc, nodes, given, passed)
    ports = _ports(given, "features") if first else forward.inputs
    mb.entries[f"{network.name}.{name}"] = made
    return Method(made, ports, _ports(passed, "output"))


def trained(mb: ModuleBuilder, network: Network, cut: Cuts) -> Network:
    """The network with a method for its loss: as `forward`; behind the output the features of exits, the context."""
    forward = network.methods["forward"]
    more = (*(v for n in cut.after for v in cut.features(n)), *cut.context)
    outputs = (*cut.fn.outputs, *more)
    doc = "As forward; also returns the features after the blocks with an exit."
    made = _method(mb, cut, TRAINING, doc, cut.fn.nodes, cut.fn.inputs, outputs)
    mb.entries[f"{network.name}.{TRAINING}"] = made
    method = Method(made, forward.inputs, (*forward.outputs, *_ports(more, "features")))
    return replace(network, methods={**network.methods, TRAINING: method})


def head(mb: ModuleBuilder, cut: Cuts, cls: str) -> str:
    """A function of a class of its own with the tail of the network: features, context but the stem -> outputs."""
    fn = cut.fn
    assert fn.origin is not None
    name = mb.unique(f"{cls}.forward")
    fixed = cut._fixed()
    nodes = [node for node in fn.nodes if node in cut.tail or (node.op != "call" and node.outputs[0] in fixed)]
    given = {v: Value(f"x_{i}" if i else "x", v.type) for i, v in enumerate(cut.last)}
    nodes = [replace(node, inputs=tuple(given.get(v, v) for v in node.inputs)) for node in nodes]
    doc = "Predicts from the features of a block as the network does from those of its last."
    origin = Origin(cls, fn.origin.args)
    read = {v for node in live(nodes, fn.outputs) for v in node.inputs}
    inputs = (*given.values(), *(v for v in cut.context if v in read))
    made = Function(name, inputs, fn.params, live(nodes, fn.outputs), fn.outputs, origin, doc)
    mb.functions[name] = made.without_unused_params()
    return name


def exit_methods(mb: ModuleBuilder, exits: Network, cut: Cuts, number: int) -> tuple[str, str]:
    """Two methods of a network of exits, for the one behind block `number`.

    `exit_NUMBER` (features, context) -> the prediction; `uncertainty_NUMBER` (features, time) -> f32[B].
    """
    fn, i = mb.functions[exits.methods["forward"].function], cut.after.index(number)
    time, *given = fn.inputs
    count = len(cut.last)
    features, context = given[count * i : count * (i + 1)], given[count * len(cut.after) :]
    made = []
    for kind, output, inputs, doc in (
        ("exit", i, [*features, *context], f"The prediction from the features after block {number}."),
        (
            "uncertainty",
            len(cut.after) + i,
            [*features, time],
            f"How uncertain the prediction after block {number} is.",
        ),
    ):
        made.append(derived_method(mb, fn, f"{kind}_{number}", doc, fn.nodes, inputs, [fn.outputs[output]]))
        mb.entries[f"{exits.name}.{kind}_{number}"] = made[-1]
    return made[0], made[1]


def left(mb: ModuleBuilder, network: Network, exits: Network, cut: Cuts, number: int) -> Network:
    """The network that evaluates `network` up to block `number` and leaves it by the exit there."""
    name = f"exit_{number}"
    if f"{exits.name}.{name}" not in mb.entries:
        exit_methods(mb, exits, cut, number)
    function = mb.entries[f"{exits.name}.{name}"]
    fn = mb.functions[function]
    method = Method(function, _ports(fn.inputs, "control"), _ports(fn.outputs, "output"))
    return replace(exits, methods={"forward": method}, adapters=(until(mb, network, cut, number),))


def _ports(values: Sequence[Value], role: Role) -> tuple[Port, ...]:
    return tuple(Port(v.name, public(v.type), role) for v in values)


__all__ = [
    "Cuts",
    "cuts",
    "exit_methods",
    "factors",
    "head",
    "left",
    "sizes",
    "stage",
    "trained",
    "until",
    "with_exits",
]
