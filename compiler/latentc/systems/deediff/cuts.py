"""Early exits: the methods by which a network can be left after some of its blocks, made by rewriting its `forward`.

After a block, later nodes read its features and earlier values (`frontier`). The nodes after the last block are the
tail, of which every exit has one of its own. Features are tokens [B, T, D] or maps [B, C, ...], which some blocks of a
network of several resolutions have at a lower one; there a layer of the exit's own maps them to the input of the tail.
Symbols: B batch, T tokens, D width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from latentc.components.backbone import public
from latentc.components.capabilities import TRAINING, Role
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.listed_blocks import in_list, joins, leading_blocks
from latentc.components.kit.methods import derived_method
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Function, Node, Origin, Value, live


@dataclass(frozen=True)
class Cuts:
    """A function that can be left after its blocks number `after`, counted from 1."""

    fn: Function
    after: tuple[int, ...]

    @property
    def blocks(self) -> list[Node]:
        """The calls of its blocks, in order: those of tokens, with what stands between them, or, if it has several
        resolutions, all that return maps or tokens computed from the state.
        """
        if self.restores:
            return [node for node in self._of_state if self.places(node.outputs[0]) is not None]
        leading = [node for node in leading_blocks(self.fn) if node in self._of_state]
        if not leading:
            return []
        nodes, of = self.fn.nodes, sizes(leading[0].outputs[0])
        between = nodes[nodes.index(leading[0]) : nodes.index(leading[-1]) + 1]
        return [n for n in between if n.op == "call" and (n in leading or sizes(n.outputs[0]) == of)]

    @property
    def restores(self) -> bool:
        """True if layers of the exits compute from their features what the tail reads: of a U-Net, whose decoder
        concatenates skips, and of a network with lists of blocks at several resolutions.
        """
        return bool(joins(self.fn)) or len(self._resolutions) > 1

    @cached_property
    def _of_state(self) -> list[Node]:
        """The calls that compute from the state, the first input; not one that returns the output."""
        reached, found = {self.fn.inputs[0]}, []
        for node in self.fn.nodes:
            if not reached.isdisjoint(node.inputs):
                reached.update(node.outputs)
                found += [node] if node.op == "call" and self.fn.outputs[0] not in node.outputs else []
        return found

    @property
    def _resolutions(self) -> set[tuple[int, ...]]:
        """The resolutions at which blocks in lists work, of a network of images."""
        listed = [node for node in self._of_state if in_list(node)]
        return {places for node in listed if (places := self.places(node.outputs[0])) is not None}

    def is_map(self, value: Value) -> bool:
        """True for maps [B, C, ...], False for tokens."""
        return value.type.rank == self.fn.outputs[0].type.rank

    def places(self, value: Value) -> tuple[int, ...] | None:
        """The sizes of maps [B, C, ...] after the channels, or of the grid of tokens [B, T, D] of an image."""
        space = sizes(self.fn.outputs[0])[1:]
        if self.is_map(value):
            return sizes(value)[1:]
        if value.type.rank != 3 or len(space) != 2:
            return None
        (height, width), tokens = space, sizes(value)[0]
        patch = math.isqrt(height * width // tokens)
        whole = patch and height % patch == 0 == width % patch
        grid = (height // patch, width // patch) if whole else (0, 0)
        return grid if math.prod(grid) == tokens else None

    def cut(self, number: int) -> int:
        """The first node after block `number`."""
        return self.fn.nodes.index(self.blocks[number - 1]) + 1

    @property
    def tail(self) -> tuple[Node, ...]:
        """The nodes after the last block."""
        return self.fn.nodes[self.cut(len(self.blocks)) :]

    def own(self, number: int) -> tuple[Value, ...]:
        """Outputs of block `number` in place of those of the last that the tail reads. ValueError: it returns fewer."""
        read = {v for node in live(self.tail, self.fn.outputs) for v in node.inputs}
        places = [i for i, v in enumerate(self.blocks[-1].outputs) if v in read]
        own = self.blocks[number - 1].outputs
        if not places or places[-1] >= len(own):
            raise ValueError(f"the layers after its last block read more than block {number} returns")
        return tuple(own[i] for i in places)

    def sources(self, number: int) -> tuple[Value, ...]:
        """Inputs from which an exit computes each of `last`: outputs of block `number`, and sums of earlier blocks."""
        before = {v for node in self.fn.nodes[: self.cut(number)] for v in node.outputs}
        own = self.own(number)
        return *own, *(v if v in before else own[0] for v in self._added)

    def features(self, number: int) -> tuple[Value, ...]:
        """The features after block `number`: its `sources`, each once."""
        return tuple(dict.fromkeys(self.sources(number)))

    @property
    def last(self) -> tuple[Value, ...]:
        """The features that the tail reads."""
        return *self.own(len(self.blocks)), *self._added

    @property
    def _added(self) -> tuple[Value, ...]:
        """Values of earlier blocks that the tail reads, such as what a U-Net's levels add to its output; if exits
        restore features.
        """
        known, own = self._known(), self.own(len(self.blocks))
        inner = {v for node in self.tail for v in node.outputs} | set(own)
        read = dict.fromkeys(v for node in live(self.tail, self.fn.outputs) for v in node.inputs)
        return tuple(v for v in read if v not in known and v not in inner) if self.restores else ()

    def _known(self) -> set[Value]:
        """Values that are known before the first block."""
        before = self.fn.nodes[: self.cut(1) - 1]
        return {v for node in before for v in node.outputs} | set(self.fn.inputs) | self._fixed()

    @property
    def stem(self) -> Value | None:
        """The first features at the tail's resolution, if exits restore features: what the last skip of a U-Net
        brings, or what the first block of another network takes; computed before the first block."""
        if not self.restores:
            return None
        joined, first = joins(self.fn), self.blocks[0]
        found = joined[-1].inputs[1] if joined else first.inputs[0]
        before = {v for node in self.fn.nodes[: self.cut(1) - 1] for v in node.outputs}
        return found if found in before and self.places(found) == self.places(self.last[0]) else None

    def factors(self, features: Value, read: Value) -> tuple[tuple[int, ...], int] | None:
        """By how much what the tail reads is larger than these along each axis, or by how much smaller along all.

        None: by no whole numbers.
        """
        own, other = self.places(features), self.places(read)
        if own is None or other is None:
            return None
        pairs = list(zip(own, other, strict=True))
        if not any(n % m for m, n in pairs):
            return tuple(n // m for m, n in pairs), 1
        smaller = [m // n if m % n == 0 else 0 for m, n in pairs]
        return ((1,) * len(pairs), smaller[0]) if len(set(smaller)) == 1 and smaller[0] else None

    def frontier(self, number: int) -> tuple[Value, ...]:
        """Earlier values that nodes and exits after block `number` read, its features first."""
        at, own = self.cut(number), self.features(number)
        found = self._read(self.fn.nodes[:at], self.fn.nodes[at:], own)
        return *found, *(v for v in self.context if v not in found)

    @property
    def context(self) -> tuple[Value, ...]:
        """Values that exits read beside the features. ValueError: something that depends on the last block but one."""
        before, last, known = self.fn.nodes[: self.cut(1) - 1], self.last, self._known()
        found = self._read(before, self.tail, last)[len(last) :]
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
    """Shape without the batch axis."""
    return tuple(int(d) for d in value.type.shape[1:])  # type: ignore[arg-type]


def cuts(mb: ModuleBuilder, network: Network, after: Sequence[int] | None) -> Cuts:
    """Where a network can be left; `after`: the numbers of the blocks, None: all but the last.

    ValueError: it cannot.
    """
    if network.adapters:
        raise ValueError("adapters change its blocks")
    if TRAINING in network.methods:
        raise ValueError("it behaves differently in training: tokens skip blocks, or it returns more")
    if any(port.role == "memory" for port in network.methods["forward"].outputs):
        raise ValueError(
            "it passes what its last block returns to the next evaluation, and an exit has nothing to pass"
        )
    found = with_exits(mb, network, after)
    count, numbers = len(found.blocks), found.after
    if not count:
        raise ValueError("it has no list of blocks, nor skip connections")
    if not numbers or any(not 0 < n < count for n in numbers) or list(numbers) != sorted(set(numbers)):
        names = ", ".join(f"{i} `{node.attrs['name']}`" for i, node in enumerate(found.blocks, 1))
        raise ValueError(
            f"it has {count} blocks, so exits must follow increasing blocks from 1 to {count - 1}; blocks: {names}"
        )
    _ = found.context
    for number in numbers:
        for own, read in zip(found.sources(number), found.last, strict=True):
            fits = found.factors(own, read) is not None if found.restores else sizes(own) == sizes(read)
            if not fits:
                message = f"features after block {number} are {public(own.type)}, but those after the last"
                raise ValueError(f"{message} {public(read.type)}")
    return found


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
    """The network with a method for its loss: `forward`, which also returns features of exits and the context."""
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
    """Two methods of a network of exits, for the one after block `number`.

    `exit_NUMBER` (features, context) -> the prediction; `uncertainty_NUMBER` (features, time) -> f32[B].
    """
    fn, i = mb.functions[exits.methods["forward"].function], cut.after.index(number)
    time, *given = fn.inputs
    counts = [len(cut.features(each)) for each in cut.after]
    start = sum(counts[:i])
    features, context = given[start : start + counts[i]], given[sum(counts) :]
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
