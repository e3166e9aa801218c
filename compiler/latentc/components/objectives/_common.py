"""Adds a loss to the module as entries."""

from __future__ import annotations

from latentc.components.contract import Draw, Update
from latentc.ir.builder import Builder, ModuleBuilder, Var


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
    b.finish("The loss to minimise, then what it is made of.")
    mb.entries |= {"loss.terms": terms.name, "loss": b.name}
    return (Update("loss", trained, tuple(dict.fromkeys(batch)), draws, names),)


def smoothed(b: Builder, losses: Var, logits: Var, weight: float) -> Var:
    """f32[B, T]: cross-entropies of logits f32[B, T, V], with the uniform distribution of that weight in the target."""
    uniform = b.neg(b.mean(b.log_softmax(logits, axis=2), axes=(2,), keepdims=False), out="uniform")
    return b.add(losses * (1 - weight), uniform * weight, out="losses")  # type: ignore[no-any-return]
