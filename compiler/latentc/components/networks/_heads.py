"""Shared by heads, networks that denoise tokens given what network `main` says of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from latentc.components.backbone import Backbone
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def features_of_main(spec: Spec) -> tuple[int, int] | None:
    """(C, D): channels of a token and of its features; None if network `main` has none."""
    main = spec.networks.get("main")
    shaped = spec.data.shape is not None and len(spec.data.shape) == 3
    return main.token_features(spec) if isinstance(main, Backbone) and shaped else None


def problems_of_head(head: Backbone, spec: Spec) -> Iterator[Problem]:
    """Problems of a head of network `main`."""
    if features_of_main(spec) is None:
        message = f"a {head.kind} denoises tokens given the features of a network such as a masked_autoencoder"
        yield Problem((), message, "make `networks.main` a masked_autoencoder, and name this one `head`")


__all__ = ["features_of_main", "problems_of_head"]
