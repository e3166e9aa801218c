"""Base class of optimisers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from latentc.components import Component, find

Unit = Annotated[float, Field(ge=0, lt=1)]


def default_optimizer() -> Component:
    """AdamW with its defaults."""
    usual = find("optimizers", "adamw")
    assert usual is not None
    return usual.model_validate({"kind": "adamw"})


class Optimizer(Component):
    """Moves the weights of a network against the gradient.

    `TORCH` is the expression that constructs it in a training project, from `settings`, the values of these fields by
    name, and `groups`: parameter groups with `params`, `lr`, `weight_decay` and `matrices`, which is true for weights
    of two or more dimensions outside embeddings. `SOURCE` defines what the expression needs besides `torch`.
    `layer_decay` is layer-wise decay of the learning rate (BEiT, Bao et al. 2021, arXiv:2106.08254).
    """

    lr: float = Field(1e-4, gt=0, description="peak learning rate, after warm-up")
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay per step, in units of the learning rate; not applied to biases and norms"
    )
    decay_embeddings: bool = Field(False, description="also decay embedding tables")
    undecayed: tuple[str, ...] = Field(
        (), description="patterns of weights, such as `*pos_embed`, that do not decay either"
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="block i of N, from 0, learns at this to the power of N - i (BEiT); null: all alike",
    )
    first_layer: tuple[str, ...] = Field(
        (), description="patterns of weights, such as embeddings, that learn at `layer_decay` to the power of N + 1"
    )
    sam: float | None = Field(
        None,
        gt=0,
        description="radius of sharpness-aware minimisation (arXiv:2010.01412), which takes two backward passes; "
        "null: none",
    )
    orthogonal: float | None = Field(
        None,
        gt=0,
        description="strength of orthogonal regularisation (arXiv:1809.11096), half the squared products of "
        "different rows of a matrix, except embeddings; null: none",
    )
    TORCH: ClassVar[str] = ""
    SOURCE: ClassVar[str] = ""
    EXTRAS: ClassVar[tuple[str, ...]] = ("sam", "orthogonal")
    """Settings that take a file of a training project, which it has only if one of its optimisers uses them."""
    OPTIONAL: ClassVar[tuple[str, ...]] = (*EXTRAS, "undecayed", "layer_decay", "first_layer")
    """Settings that a training project has only if one of its optimisers uses them."""

    @model_validator(mode="after")
    def _first_layer_decays(self) -> Self:
        if self.first_layer and self.layer_decay is None:
            raise ValueError("`first_layer` says where `layer_decay` ends, which is not set: set it to 0.75, say")
        return self

    @property
    def extras(self) -> frozenset[str]:
        """Those of `OPTIONAL` that it uses."""
        return frozenset(name for name in self.OPTIONAL if getattr(self, name))

    def state_of(self, shapes: Iterable[tuple[int, ...]]) -> int:
        """Bytes of its state for weights of these shapes."""
        counts = [0, 0]
        for shape in shapes:
            counts[len(shape) >= 2] += math.prod(shape)
        return self.state_bytes(counts[1], counts[0])

    def state_bytes(self, matrices: int, others: int) -> int:
        """Bytes of its state for this many weights in matrices and in vectors: by default two float32 averages."""
        return 8 * (matrices + others)
