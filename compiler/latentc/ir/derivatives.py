"""Expands `gradient` and `jvp` nodes into ordinary calls, loops and ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentc.ir.builder import Var, as_tuple
from latentc.ir.core import Function, Module, Node, reachable, walk
from latentc.ir.forward import Forward
from latentc.ir.reverse import Differentiation, Tidy, Transcript


def expand_derivatives(module: Module, tidy: Tidy = lambda fn: fn) -> Module:
    """Expands `gradient` and `jvp` nodes; returns the module unchanged if there are none.

    `tidy` simplifies each new function. Raises OpError for an op that has no derivative.
    """
    if not any(node.op in DERIVATIVES for _, node in walk(module)):
        return module
    work = Forward(module, tidy)
    for name, fn in module.functions.items():  # callees first, so a derivative of a derivative sees ordinary nodes
        if any(node.op in DERIVATIVES for node in fn.nodes):
            work.owner.functions[name] = tidy(_expanded(work, fn))
    functions = work.owner.functions
    order = reachable(module.with_(functions=functions), tuple(functions))
    return module.with_(functions={name: functions[name] for name in order})


def _expanded(work: Forward, fn: Function) -> Function:
    b = Transcript(work.owner, fn, fn.name)
    env = b.own_values()
    for node in fn.nodes:
        operands = [env[v] for v in node.inputs]
        expansion = DERIVATIVES.get(node.op)
        outs: Sequence[Var] = b.keep(node, operands) if expansion is None else expansion(work, b, node, operands)
        env.update(zip(node.outputs, outs, strict=True))
    return fn.with_(nodes=tuple(b.take_back(0)), outputs=tuple(env[v].value for v in fn.outputs))


def _gradient(work: Differentiation, b: Transcript, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
    name, of, wrt = node.attrs["name"], node.attrs["of"], node.attrs["wrt"]
    callee = work.function(node.attrs["fn"])
    active = tuple(i in wrt for i in range(len(operands)))
    if not work.reached(callee, active)[of]:
        whole = as_tuple(b.call(callee.name, name, *operands))
        return [whole[of], *(b.fill_like(operands[i], 0.0) for i in wrt)]
    pair = work.companions(callee, tuple(i == of for i in range(len(callee.outputs))), active, (False,) * len(operands))
    whole = as_tuple(b.call(pair.saving, name, *operands))
    saved = whole[len(callee.outputs) :]
    taken = [operands[i] for i in pair.inputs]
    found = as_tuple(b.call(pair.vjp, name, *taken, *saved, b.fill_like(whole[of], 1.0)))
    by_input = dict(zip(sorted(wrt), found, strict=True))
    return [whole[of], *(by_input[i] for i in wrt)]


def _jvp(work: Forward, b: Transcript, node: Node, operands: Sequence[Var]) -> Sequence[Var]:
    name, of, wrt = node.attrs["name"], node.attrs["of"], node.attrs["wrt"]
    callee = work.function(node.attrs["fn"])
    count = len(callee.inputs)
    tangents = dict(zip(wrt, operands[count:], strict=True))
    active = tuple(i in tangents for i in range(count))
    pushed = work.pushed(callee, active)
    whole = as_tuple(b.call(pushed.name, name, *operands[:count], *(tangents[i] for i in sorted(tangents))))
    if not pushed.of[of]:
        return [whole[of], b.fill_like(whole[of], 0.0)]
    return [whole[of], whole[len(callee.outputs) + sum(pushed.of[:of])]]


DERIVATIVES: dict[str, Callable[[Forward, Transcript, Node, Sequence[Var]], Sequence[Var]]] = {
    "gradient": _gradient,
    "jvp": _jvp,
}
