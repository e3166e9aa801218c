"""What objectives share: dropped labels, means a sample, and how a loss becomes entries of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentc.components.contract import Draw, Network, Update
from latentc.components.parts import ClassCondition
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def drop_labels(b: Builder, y: Var, drop: Var, network: Network, spec: Spec) -> Var:
    """y i64[B] with the null class where drop f32[B] (uniform) falls below the dropout probability."""
    label = spec.conditioning.class_
    if not isinstance(label, ClassCondition) or network.null_class is None:
        return y
    return b.where(b.less(drop, label.dropout), b.scalar(network.null_class, y), y, out="y")  # type: ignore[no-any-return]


def per_sample_mean(b: Builder, x: Var, out: str = "") -> Var:
    """f32[B]: the mean over everything but the batch."""
    return b.mean(x, axes=tuple(range(1, x.type.rank)), keepdims=False, out=out)  # type: ignore[no-any-return]


def publish(
    mb: ModuleBuilder, names: tuple[str, ...], batch: tuple[str, ...], draws: tuple[Draw, ...]
) -> tuple[Update, ...]:
    """Entries `loss.terms` (the function of that name: a value a sample) and `loss` (their means over the batch)."""
    terms = mb.functions["loss.terms"]
    b = mb.function("loss")
    operands = [b.input(v.name, v.type) for v in terms.inputs]
    values = b.call("loss.terms", "", *operands, out=" ".join(names))
    values = values if isinstance(values, tuple) else (values,)
    b.output(*(b.mean(v, axes=(0,), keepdims=False, out=n) for v, n in zip(values, names, strict=True)))
    b.finish("The loss to minimise, then what it is made of.")
    mb.entries |= {"loss.terms": "loss.terms", "loss": "loss"}
    return (Update("loss", ("main",), batch, draws, names),)
