"""Distillation into a network whose weights and activations are rounded as a quantised engine rounds them.

Symbols: B batch, V values of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Method, Need, Network, Update
from latentc.components.kit import per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, teacher_problems
from latentc.components.parts import Problem, Refusal, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.core import Function, Node, Value, live, reachable

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization


class QuantizationDistillation(Objective):
    """Trains the rounded `main` to predict what `teacher`, the same network in full precision, predicts.

    Both get the inputs that the loss of another objective, `of`, gives `main`. The loss is the mean squared difference
    of their outputs, or, of logits, the KL divergence from the teacher's distribution. `layers` are rounded in training
    by the scheme of `optimize.quantize`, with straight-through gradients (Jacob et al. 2018, arXiv:1712.05877); the
    scales of their inputs, `….input_scale`, are in the weights that training starts from. `latentc train --quantize`
    writes such a spec.
    """

    kind: Literal["quantization_distillation"]
    of: Annotated[Objective, OneOf("objectives")] = Field(description="objective that the teacher was trained with")
    layers: tuple[str, ...] = Field(
        min_length=1, max_length=1_000_000, description="weights of `main` that are rounded: `blocks.0.attn.qkv.weight`"
    )
    narrow: bool = Field(False, description="round int8 weights to 7 bits, for CPUs without VNNI")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "quantization_distillation",
        "of": {"kind": "diffusion"},
        "layers": ["blocks.0.attn.qkv.weight"],
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        own = tuple(replace(need, place=("of", *need.place)) for need in self.of.needs(spec))
        return own + tuple(replace(need, network=TEACHER) for need in own if need.network == "main")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("main",)

    @property
    def rounded(self) -> tuple[str, ...]:
        return self.layers

    @property
    def rounds_narrowly(self) -> bool:
        return self.narrow

    def parameterization(self) -> Parameterization | None:
        return self.of.parameterization()

    def out_channels(self, channels: int) -> int:
        return self.of.out_channels(channels)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from teacher_problems(spec)
        if self.of.DISTILS or self.of.in_rounds is not None or self.of.clustering is not None:
            message = f"`{self.of.kind}` trains in its own way, with a teacher, in rounds or on clusters"
            yield Problem(("of",), message, "name the objective that the full-precision network was trained with")
        how = spec.optimize.quantize
        if how is None:
            message = "`optimize.quantize` does not say how the engine will round"
            yield Problem((), message, "set `optimize.quantize.scheme`, such as int8")
        elif how.scheme == "int8_dynamic" or how.smooth is not None:
            what = "ranges at run time" if how.scheme == "int8_dynamic" else "smoothing vectors"
            mend = "use `scheme: int8`" if how.scheme == "int8_dynamic" else "leave `optimize.quantize.smooth` out"
            yield Problem((), f"training rounds by fixed scales, without {what}", mend)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        before = {*mb.entries}
        updates = [update for update in self.of.build(mb, networks, spec) if "main" in update.networks]
        losses = {name: mb.entries.pop(name) for name in {*mb.entries} - before}
        pairs = ((update, _calling(mb, losses[update.loss], networks["main"])) for update in updates)
        update, given = next(((u, fn) for u, fn in pairs if fn is not None and u.rollout is None), (None, None))
        if update is None or given is None:
            message = f"no loss of `{self.of.kind}` calls `main` directly on inputs that a teacher could be given"
            raise Refusal(message, "train with another objective of the network", path=("of",))
        for name in losses.values():  # what is left of the other objective's losses
            mb.functions.pop(name, None)
        read = _distances(mb, given, networks["main"], networks[TEACHER])
        batch = tuple(name for name in update.batch if name in read)
        draws = tuple(draw for draw in update.draws if draw.name in read)
        (made,) = publish(mb, ("loss",), batch, draws, ("main",))
        return (replace(made, batch_multiple=update.batch_multiple, reference=update.reference, partial=True),)


def _calling(mb: ModuleBuilder, loss: str, network: Network) -> Function | None:
    """The function of a loss that calls methods of the network itself, rather than derivatives of them."""
    for name in reversed(reachable(mb.finish(), (loss,))):
        fn = mb.functions[name]
        if fn.origin is None and any(_method(node, network) for node in fn.nodes):
            return fn
    return None


def _method(node: Node, network: Network) -> str | None:
    """The method of the network that a node calls."""
    if node.op != "call" or node.attrs["name"] != network.name:
        return None
    return next(name for name, method in network.methods.items() if method.function == node.attrs["fn"])


def _distances(mb: ModuleBuilder, given: Function, main: Network, teacher: Network) -> set[str]:
    """Adds the distance of both networks' outputs, a value per sample, and returns the names of its inputs.

    `given` calls `main`; the nodes that compute the inputs of these calls are kept.
    """
    calls = [node for node in given.nodes if _method(node, main)]
    kept = live(given.nodes, [value for node in calls for value in node.outputs])
    read = {value for node in kept for value in node.inputs}
    b = mb.function("loss.terms")
    env: dict[Value, Var] = {v: b.input(v.name, v.type) for v in given.inputs if v in read}
    distances: list[Var] = []
    for node in kept:
        operands = [env[v] for v in node.inputs]
        outs = b.copied(node, operands)
        env.update(zip(node.outputs, outs, strict=True))
        name = _method(node, main)
        if name is not None:
            distances += _of_call(b, teacher, name, main.methods[name], operands, outs)
    b.output(weighted_sum(b, "loss", *((1.0, distance) for distance in distances)))
    b.finish("The distance of the rounded network's outputs from the teacher's, one value per sample.")
    return {v.name for v in env if v in given.inputs}


def _of_call(
    b: Builder, teacher: Network, name: str, method: Method, operands: Sequence[Var], outs: Sequence[Var]
) -> Iterator[Var]:
    """The distances f32[B] of the outputs of a call from those of the teacher."""
    if name not in teacher.methods:
        message = f"the loss calls `{name}` of `main`, which `{TEACHER}` lacks"
        raise Refusal(message, f"use `networks.{TEACHER}: {{kind: like}}`")
    names = " ".join(f"{own.value.name}_of_teacher" for own in outs)
    wanted = as_tuple(b.call(teacher.methods[name].function, TEACHER, *operands, out=names))
    for port, own, theirs in zip(method.outputs, outs, wanted, strict=True):
        if not own.type.is_float:
            continue
        target = b.stop_gradient(theirs, out="target")
        if port.role == "logits":
            logs = b.log_softmax(target, axis=-1, out="wanted_logs")
            apart = b.mul(b.exp(logs), logs - b.log_softmax(own, axis=-1, out="logs"), out="apart")
            divergence = b.sum(apart, axes=(-1,), keepdims=False, out="divergence")
            yield per_sample_mean(b, divergence, out="distance") if divergence.type.rank > 1 else divergence
        else:
            error = b.op("sub", own, target, out="error")
            yield per_sample_mean(b, error * error, out="distance")
