"""Two methods added to a network by rewriting its `forward`: one embeds a label, the other takes the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from latentc.components.contract import Method, Network, Port
from latentc.components.kit.methods import added_method, derived_method
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Function, Value
from latentc.ir.types import Sym


def embed(operand: str) -> str:
    """The method that embeds an operand."""
    return f"embed_{operand}"


def embedded(operand: str) -> str:
    """The method that takes the embedding in place of an operand."""
    return f"forward_embedded_{operand}"


def embedding(operand: str) -> str:
    """The port that takes the embedding."""
    return f"{operand}_embedding"


def with_embedding(mb: ModuleBuilder, network: Network, view: Network, operand: str) -> tuple[Network, Network]:
    """The network with methods that embed an operand, and that take its embedding in its place.

    The embedding f32[B, ...] is what `forward` computes from that operand and weights alone. `view` is the network with
    the method in place of `forward` that is split; the second result is that of the new one. ValueError: the embedding
    is not one array of numbers per sample.
    """
    forward = view.methods["forward"]
    fn = mb.functions[forward.function]
    at = [port.name for port in forward.inputs].index(operand)
    source = fn.inputs[at]
    own = _alone(fn, source)
    used = [v for node in fn.nodes if node.outputs[0] not in own for v in node.inputs if v in own]
    frontier = list(dict.fromkeys([*used, *(v for v in fn.outputs if v in own)]))
    outside = any(source in node.inputs for node in fn.nodes if not own.intersection(node.outputs))
    if len(frontier) != 1 or outside or not frontier[0].type.is_float:
        raise ValueError(f"network `{network.name}` does not embed `{operand}` as one array")
    (value,) = frontier
    given = Value(embedding(operand), value.type)
    inputs = tuple(given if v is source else v for v in fn.inputs)
    alone = _copied(mb, fn, embed(operand), f"The embedding of {operand}.", (source,), (value,))
    doc = f"As forward, with the embedding of {operand} in its place."
    rest = _copied(mb, fn, embedded(operand), doc, inputs, fn.outputs, own, {value: given})
    type = value.type.with_shape(d if isinstance(d, Sym) else int(d) for d in value.type.shape)  # type: ignore[call-overload]
    port = Port(given.name, type, "condition")
    split = Method(alone, (forward.inputs[at],), (Port(given.name, type, "output"),))
    network = added_method(mb, network, embed(operand), split)
    ports = tuple(port if p.name == operand else p for p in forward.inputs)
    network = added_method(mb, network, embedded(operand), Method(rest, ports, forward.outputs))
    return network, replace(network, methods={**network.methods, "forward": network.methods[embedded(operand)]})


def _alone(fn: Function, source: Value) -> frozenset[Value]:
    """The values that depend on `source` and weights alone."""
    fixed, own = {p.value for p in fn.params}, set[Value]()
    for node in fn.nodes:
        if all(v in fixed for v in node.inputs):
            fixed.update(node.outputs)
        elif all(v in fixed or v in own or v is source for v in node.inputs):
            own.update(node.outputs)
    return frozenset(own)


def _copied(
    mb: ModuleBuilder,
    fn: Function,
    method: str,
    doc: str,
    inputs: tuple[Value, ...],
    outputs: tuple[Value, ...],
    without: frozenset[Value] = frozenset(),
    given: Mapping[Value, Value] | None = None,
) -> str:
    """A method with the nodes of `fn` that its outputs depend on, but those that compute `without`."""
    swap = given or {}
    nodes = [node for node in fn.nodes if not without.intersection(node.outputs)]
    kept = [replace(node, inputs=tuple(swap.get(v, v) for v in node.inputs)) for node in nodes]
    return derived_method(mb, fn, method, doc, kept, inputs, outputs)
