"""Samples as the networks between first stage and model make them, and back: those of the spec that provide `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentc.components.contract import Network
from latentc.components.kit.calls import call
from latentc.components.kit.patches import patchify, unpatchify
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var


def adaptors(spec: Spec) -> tuple[str, ...]:
    """Names of these networks, in the order in which data goes through them."""
    return tuple(name for name, network in spec.networks.items() if "adapt" in network.PROVIDES)


def tokens_of(b: Builder, networks: Mapping[str, Network], spec: Spec, x: Var, patch: Any) -> Var:
    """f32[B, T, C P P] of data x f32[B, C, H, W]: the patches of what the adaptors make of it; of x f32[B, C, T], the
    vectors.
    """
    if x.type.rank == 3:
        return b.transpose(x, perm=(0, 2, 1), out="tokens")
    for name in adaptors(spec):
        x = call(b, networks[name], "forward", {}, state=x, out="adapted")
    return patchify(b, x, patch)


def sample_of(b: Builder, networks: Mapping[str, Network], spec: Spec, tokens: Var, patch: Any) -> Var:
    """The inverse of `tokens_of`."""
    assert spec.data.shape is not None
    if len(spec.data.shape) == 2:
        return b.transpose(tokens, perm=(0, 2, 1), out="x")
    channels, height, width = spec.data.shape
    x = unpatchify(b, tokens, (channels, height, width), patch=patch)
    for name in reversed(adaptors(spec)):
        x = call(b, networks[name], "inverse", {}, state=x, out="x")
    return x
