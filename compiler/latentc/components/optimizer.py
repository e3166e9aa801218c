"""Base class of optimisers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from latentc.components import Component, load

Unit = Annotated[float, Field(ge=0, lt=1)]


def default_optimizer() -> Component:
    """AdamW with its defaults."""
    return load("optimizers")["adamw"].model_validate({"kind": "adamw"})


class Optimizer(Component):
    """Moves the weights of a network against the gradient. templates/project/optimizers.py has its PyTorch text."""

    lr: float = Field(1e-4, gt=0, description="learning rate once warmed up")
    weight_decay: float = Field(0.0, ge=0, description="per step and unit of learning rate; not of biases and norms")
    decay_embeddings: bool = Field(False, description="whether embedding tables decay too")
    sam: float | None = Field(
        None,
        gt=0,
        description="radius within which the loss is to be flat (Foret et al. 2020, arXiv:2010.01412): two backward "
        "passes per step; null: one",
    )
