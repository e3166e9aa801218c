"""Early exits: the methods by which a network can be left behind some of its blocks, made by rewriting its `forward`.

Behind a block stands what later nodes read: the tokens, and what else was computed before (`frontier`). What follows
the last block is the tail, of which every exit has one of its own. Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentc.components.backbone import public
from latentc.components.capabilities import TRAINING, Role
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.controls import leading_blocks
from latentc.components.kit.methods import derived_method
from latentc.ir.blocks import Item
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Node, Origin, Value, live


@dataclass(frozen=True)
class Cuts:
    """A function that can be left behind its blocks number `after`, counted from 1."""

    fn: Function
    after: tuple[int, ...]

    @property
    def blocks(self) -> list[Node]:
        return leading_blocks(self.fn)

    def cut(self, number: int) -> int:
        """The first node behind block `number`."""
        return self.fn.nodes.index(self.blocks[number - 1]) + 1

    @property
    def tail(self) -> tuple[Node, ...]:
        """The nodes behind the last block."""
        return self.fn.nodes[self.cut(len(self.blocks)) :]

    def tokens(self, number: int) -> Value:
        """What block `number` returns, f32[B, T, D]."""
        return self.blocks[number - 1].outputs[0]

    def frontier(self, number: int) -> tuple[Value, ...]:
        """What nodes behind block `number` read of those before, the tokens first."""
        at = self.cut(number)
        return self._read(self.fn.nodes[:at], self.fn.nodes[at:], self.tokens(number))

    @property
    def context(self) -> tuple[Value, ...]:
        """What the tail reads beside the tokens. ValueError: something that depends on the last block but one."""
        before = self.fn.nodes[: self.cut(1)]
        found = self._read(before, self.tail, self.tokens(len(self.blocks)))[1:]
        known = {v for node in before for v in node.outputs} | set(self.fn.inputs) | self._fixed()
        inner = {v for node in self.tail for v in node.outputs} | {self.tokens(len(self.blocks))}
        if any(v not in known and v not in inner for node in self.tail for v in node.inputs):
            raise ValueError("the layers after its last block read more than the tokens")
        return found

    def _fixed(self) -> set[Value]:
        """Params, and what follows from them and from constants alone."""
        fixed = {p.value for p in self.fn.params}
        for node in self.fn.nodes:
            if node.op != "call" and all(v in fixed for v in node.inputs):
                fixed.update(node.outputs)
        return fixed

    def _read(self, before: Sequence[Node], after: Sequence[Node], tokens: Value) -> tuple[Value, ...]:
        fixed = self._fixed()
        made = [v for node in before for v in node.outputs if v not in fixed] + list(self.fn.inputs)
        read = {v for node in live(after, self.fn.outputs) for v in node.inputs}
        return tokens, *(v for v in made if v in read and v is not tokens)


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
    if not numbers or any(not 0 < n < count for n in numbers) or list(numbers) != sorted(set(numbers)):
        raise ValueError(
            f"it has {count} blocks of tokens, so exits must follow increasing blocks from 1 to {count - 1}"
        )
    _ = found.context
    return found


def with_exits(mb: ModuleBuilder, network: Network, after: Sequence[int] | None) -> Cuts:
    """Where a network is left that has exits."""
    fn = mb.functions[network.methods["forward"].function]
    return Cuts(fn, tuple(range(1, len(leading_blocks(fn)))) if after is None else tuple(after))


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
    """The network up to block `number`: its method `to_NUMBER` returns the tokens and the tail's context."""
    forward, name = network.methods["forward"], f"to_{number}"
    nodes, outputs = cut.fn.nodes[: cut.cut(number)], (cut.tokens(number), *cut.context)
    made = _method(mb, cut, name, f"The tokens after block {number}.", nodes, cut.fn.inputs, outputs)
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
    """The network with a method for its loss: as `forward`; behind the output the tokens of every exit, the context."""
    forward = network.methods["forward"]
    more = (*(cut.tokens(n) for n in cut.after), *cut.context)
    outputs = (*cut.fn.outputs, *more)
    doc = "As forward; also returns the tokens after the blocks with an exit."
    made = _method(mb, cut, TRAINING, doc, cut.fn.nodes, cut.fn.inputs, outputs)
    mb.entries[f"{network.name}.{TRAINING}"] = made
    method = Method(made, forward.inputs, (*forward.outputs, *_ports(more, "features")))
    return replace(network, methods={**network.methods, TRAINING: method})


def head(mb: ModuleBuilder, cut: Cuts, cls: str) -> str:
    """A function of a class of its own with the tail of the network: tokens and context -> outputs."""
    fn = cut.fn
    assert fn.origin is not None
    name = mb.unique(f"{cls}.forward")
    fixed = cut._fixed()
    nodes = [node for node in fn.nodes if node in cut.tail or (node.op != "call" and node.outputs[0] in fixed)]
    tokens = cut.tokens(len(cut.blocks))
    given = Value("x", tokens.type)
    nodes = [replace(node, inputs=tuple(given if v is tokens else v for v in node.inputs)) for node in nodes]
    doc = "Predicts from tokens as the network does from those after its last block."
    origin = Origin(cls, fn.origin.args)
    made = Function(name, (given, *cut.context), fn.params, live(nodes, fn.outputs), fn.outputs, origin, doc)
    mb.functions[name] = made.without_unused_params()
    return name


def exit_methods(mb: ModuleBuilder, exits: Network, number: int, i: int) -> tuple[str, str]:
    """Two methods of a network of exits, for the one behind block `number`, its `i`-th.

    `exit_NUMBER` (tokens, context) -> the prediction; `uncertainty_NUMBER` (tokens, time) -> f32[B].
    """
    fn = mb.functions[exits.methods["forward"].function]
    assert fn.origin is not None
    calls = {node.attrs["name"]: node for node in fn.nodes if node.op == "call"}
    made = []
    for kind, base, doc in (
        ("exit", "heads", f"The prediction from the tokens after block {number}."),
        ("uncertainty", "estimators", f"The uncertainty of the prediction after block {number}."),
    ):
        node, name = calls[f"{base}.{i}"], f"{kind}_{number}"
        b = Builder(mb, mb.unique(f"{fn.origin.cls}.{name}"), replace(fn.origin, method=name))
        env: dict[Value, Var] = {node.inputs[0]: b.input("x", node.inputs[0].type)}
        item = Item(base, i, node.attrs["count"])
        for own in live(fn.nodes, node.inputs):
            for v in own.inputs:
                if v not in env:
                    env[v] = b.input(v.name, v.type)
            env.update(zip(own.outputs, b.copied(own, [env[v] for v in own.inputs]), strict=True))
        for v in node.inputs:
            if v not in env:
                env[v] = b.input(v.name, v.type)
        operands = [env[v] for v in node.inputs]
        b.output(b.call(node.attrs["fn"], item, *operands, args=node.attrs["args"], out=kind))
        made.append(b.finish(doc))
        mb.entries[f"{exits.name}.{name}"] = made[-1]
    return made[0], made[1]


def left(mb: ModuleBuilder, network: Network, exits: Network, cut: Cuts, number: int) -> Network:
    """The network that evaluates `network` up to block `number` and leaves it by the exit there."""
    name = f"exit_{number}"
    if f"{exits.name}.{name}" not in mb.entries:
        exit_methods(mb, exits, number, cut.after.index(number))
    function = mb.entries[f"{exits.name}.{name}"]
    fn = mb.functions[function]
    method = Method(function, _ports(fn.inputs, "control"), _ports(fn.outputs, "output"))
    return replace(exits, methods={"forward": method}, adapters=(until(mb, network, cut, number),))


def _ports(values: Sequence[Value], role: Role) -> tuple[Port, ...]:
    return tuple(Port(v.name, public(v.type), role) for v in values)


__all__ = ["Cuts", "cuts", "exit_methods", "head", "left", "stage", "trained", "until", "with_exits"]
