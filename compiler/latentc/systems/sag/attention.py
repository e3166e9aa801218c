"""A network's method that also returns attention, made by rewriting its `forward`.

So guidance by attention works with every network that has attention, without its knowing it.
Symbols: B batch, T tokens, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.contract import Method, Network, Port
from latentc.components.kit.methods import OtherMethod, added_method
from latentc.ir.builder import Builder, Item, ModuleBuilder, Var, as_tuple
from latentc.ir.core import Node
from latentc.ir.types import Sym

ATTENTION = "forward_attention"


def with_attention(mb: ModuleBuilder, network: Network, block: str | None) -> Network:
    """The network with a method `forward_attention`: as `forward`, and how much attention each token gets, f32[B, T].

    That is the sum over the queries and the mean over the heads of the probabilities of the attention in `block`
    (`blocks.5`, `mid_0`), or in the middle of all if None; not of cross-attention. ValueError: there is none.
    """
    forward = network.methods["forward"]
    found = [path for path, node in _attentions(mb, forward.function) if _is_self_attention(node)]
    if not found:
        raise ValueError(f"network `{network.name}` has no self-attention to take an attention map from")
    names = [".".join(path) for path in found]
    if block is None:
        chosen = found[len(found) // 2]
    else:
        fitting = [p for p, name in zip(found, names, strict=True) if name == block or name.startswith(f"{block}.")]
        if not fitting:
            raise ValueError(
                f"network `{network.name}` has no attention in `{block}`; blocks with attention: {', '.join(names)}"
            )
        chosen = fitting[0]
    function = _shown(mb, forward.function, chosen)
    shown = Port("attention", mb.functions[function].outputs[-1].type, "output")
    return added_method(mb, network, ATTENTION, Method(function, forward.inputs, (*forward.outputs, shown)))


def _attentions(mb: ModuleBuilder, function: str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """The attention nodes of a function and what it calls, with the names of the calls that lead there."""
    for node in mb.functions[function].nodes:
        if node.op == "attention":
            yield path, node
        elif node.op == "call":
            yield from _attentions(mb, node.attrs["fn"], (*path, node.attrs["name"]))


def _is_self_attention(node: Node) -> bool:
    """As many keys as queries, of whole samples (windows are more rows than the batch has)."""
    q, k = (value.type for value in node.inputs[:2])
    batch = q.shape[0]
    return int(q.shape[2]) == int(k.shape[2]) and isinstance(batch, Sym) and batch.factor == 1  # type: ignore[arg-type]


def _shown(mb: ModuleBuilder, function: str, path: tuple[str, ...]) -> str:
    """A copy of a function that also returns the attention at the end of `path`."""

    def returned(b: Builder, node: Node, operands: list[Var]) -> tuple[tuple[Var, ...], Var] | None:
        if not path and node.op == "attention":
            return b.append(node), _received(b, operands[0], operands[1], node.attrs["scale"])
        if path and node.op == "call" and node.attrs["name"] == path[0]:
            name = str(node.attrs["name"])
            if "count" in node.attrs:
                base, _, index = name.rpartition(".")
                name = Item(base, int(index), node.attrs["count"])
            inner = _shown(mb, node.attrs["fn"], path[1:])
            out = " ".join([*(o.name for o in node.outputs), "attention"])
            *outs, shown = as_tuple(b.call(inner, name, *operands, args=node.attrs["args"], out=out))
            return tuple(outs), shown
        return None

    fn = mb.functions[function]
    doc = "As forward; also returns the attention that each token receives."
    b = OtherMethod(mb, fn, ATTENTION, doc)
    shown = None
    for node in fn.nodes:
        operands = [b.env[v] for v in node.inputs]
        made = returned(b, node, operands) if shown is None else None
        if made is not None:
            outs, shown = made
        else:
            outs = b.keep(node, operands)
        b.env.update(zip(node.outputs, outs, strict=True))
    assert shown is not None
    b.output([b.env[v] for v in fn.outputs], shown)
    return b.finish(doc)


def _received(b: Builder, q: Var, k: Var, scale: float | None) -> Var:
    """f32[B, T]: the attention that each key of k [B, H_kv, T, d] gets from the queries q [B, H, T, d]."""
    batch, heads, tokens, size = q.shape
    if int(k.shape[1]) != int(heads):
        group = int(heads) // int(k.shape[1])
        k = b.reshape(k, shape=(batch, k.shape[1], 1, tokens, size))
        k = b.broadcast_to(k, q, shape=(batch, k.shape[1], group, tokens, size))
        k = b.reshape(k, shape=(batch, heads, tokens, size), out="k")
    factor = float(size) ** -0.5 if scale is None else scale
    scores = b.matmul(b.mul(q, factor, out="q"), b.transpose(k, perm=(0, 1, 3, 2)), out="scores")
    p = b.softmax(scores, axis=-1, out="p")
    return b.sum(b.mean(p, axes=(1,), keepdims=False), axes=(1,), keepdims=False, out="attention")
