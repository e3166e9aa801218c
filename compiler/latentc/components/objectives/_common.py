"""Shared by losses: their entries in the module, noise and the training step as inputs, the cross-entropy of tokens.

Symbols: B batch, T tokens of a sample, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Annotated, Literal

from pydantic import Field

from latentc.components.contract import Draw, Method, Update
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64

ShareSchedule = Literal["arccos", "cosine", "cubic", "linear", "power_2.5", "root", "square"]
Concentration = Annotated[float, Field(gt=0, le=10_000)]
"""A parameter of a beta distribution."""


def publish(
    mb: ModuleBuilder,
    names: tuple[str, ...],
    batch: tuple[str, ...],
    draws: tuple[Draw, ...],
    trained: tuple[str, ...] = ("main",),
) -> tuple[Update, ...]:
    """Entries `loss.terms` (the function finished last: one value per sample) and `loss` (means over the batch)."""
    terms = mb.functions[next(reversed(mb.functions))]
    b = mb.function("loss")
    operands = [b.input(v.name, v.type) for v in terms.inputs]
    values = b.call(terms.name, "", *operands, out=" ".join(names))
    values = values if isinstance(values, tuple) else (values,)
    b.output(*(b.mean(v, axes=(0,), keepdims=False, out=n) for v, n in zip(values, names, strict=True)))
    b.finish("The loss to minimise and its parts, as means over the batch.")
    mb.entries |= {"loss.terms": terms.name, "loss": b.name}
    return (Update("loss", trained, tuple(dict.fromkeys(batch)), draws, names),)


def noise_inputs(b: Builder, method: Method) -> tuple[list[Var], tuple[Draw, ...]]:
    """Adds the noise of a method as inputs; also returns how they are drawn, as its ports say."""
    ports = method.inputs_of("noise")
    draws = tuple(Draw(port.name, port.distribution) for port in ports if port.distribution is not None)
    return [b.input(port.name, port.type) for port in ports], draws


STEP = "training_step"
"""The input of a loss that is the step of training, counted from 0."""


def step_of(b: Builder) -> Var:
    """The step of training i64[], an input of the loss."""
    return b.given(STEP) or b.input(STEP, i64())


def step_operand(b: Builder, method: Method) -> dict[str, Var]:
    """The step of training, by its role, for a method that takes it."""
    return {"position": step_of(b)} if method.inputs_of("position") else {}


def risen(b: Builder, steps: int, out: str = "risen") -> Var:
    """f32[]: a share that rises linearly from 0, in the first step of training, to 1 after `steps`."""
    return b.minimum(b.cast(step_of(b), to="f32") * (1 / steps), 1.0, out=out)


def token_losses(b: Builder, logits: Var, tokens: Var, out: str = "losses") -> Var:
    """f32[B, T]: the cross-entropy of each of tokens i64[B, T] under logits f32[B, T, V], in nats."""
    batch, length = tokens.shape
    rows = batch * length
    flat = b.reshape(logits, shape=(rows, logits.shape[2]))
    losses = b.cross_entropy(flat, b.reshape(tokens, shape=(rows,)))
    return b.reshape(losses, shape=(batch, length), out=out)


def smoothed(b: Builder, losses: Var, logits: Var, weight: float) -> Var:
    """f32[B, T]: cross-entropies of logits f32[B, T, V], with the uniform distribution of that weight in the target."""
    uniform = b.neg(b.mean(b.log_softmax(logits, axis=2), axes=(2,), keepdims=False), out="uniform")
    return b.add(losses * (1 - weight), uniform * weight, out="losses")


def mean_of_counted(b: Builder, losses: Var, counts: Var) -> Var:
    """f32[B]: sums of losses f32[B, T] where `counts` f32[B, T] is 1, over the mean number of such tokens of a sample.

    Its mean counts every such token of the batch alike, as published code does.
    """
    count = b.mean(b.sum(counts, axes=(1,), keepdims=False), axes=(0,), keepdims=False, out="count")
    return b.div(b.sum(losses * counts, axes=(1,), keepdims=False), count, out="loss")


def hidden_share(b: Builder, schedule: ShareSchedule, u: Var) -> Var:
    """f32[B]: the fraction of the tokens that training hides at u f32[B] in [0, 1]."""
    if schedule == "cosine":
        return b.cos(u * (pi / 2), out="fraction")
    if schedule in ("square", "power_2.5", "cubic"):
        power = u * u if schedule == "square" else u * u * u if schedule == "cubic" else u * u * b.sqrt(u)
        return b.op("sub", 1.0, power, out="fraction")
    if schedule == "root":
        return b.op("sub", 1.0, b.sqrt(u), out="fraction")
    if schedule == "linear":
        return b.op("sub", 1.0, u, out="fraction")
    return b.mul(b.acos(u), 2 / pi, out="fraction")


def chosen(b: Builder, masks: Sequence[Var], where: Var, otherwise: Var, out: str) -> Var:
    """`where` for the samples of any of the masks bool[B], else `otherwise`; both [B, ...]."""
    if where is otherwise:
        return where
    for mask in masks:
        column = mask if where.type.rank == 1 else b.reshape(mask, shape=(mask.shape[0], *[1] * (where.type.rank - 1)))
        otherwise = b.where(column, where, otherwise, out=out)
    return otherwise
