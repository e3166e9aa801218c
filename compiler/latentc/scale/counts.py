"""Compute and memory of one training step of a spec, whatever the number of accelerators."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from latentc.checkpoint import network_params
from latentc.components.contract import Lowered
from latentc.components.fields import FIRST_STAGE
from latentc.components.optimizer import Optimizer
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import Param
from latentc.ir.saved import Activations
from latentc.spec import Spec

_BLOCK = re.compile(r"(.*?\.\d+)\..*")  # a weight of a module list's member, which FSDP shards by itself


@dataclass(frozen=True)
class Weights:
    """Numbers of weights, over all networks.

    `averaged` counts the networks whose moving average is kept, `block` the largest block, `root` what is in no block.
    `matrices` are copied by autocast; `outer_matrices` are those in no block, `block_matrices` those of the largest.
    """

    trained: int
    frozen: int
    averaged: int
    block: int
    root: int
    matrices: int
    outer_matrices: int
    block_matrices: int
    state_bytes: int  # of all optimisers

    @property
    def all(self) -> int:
        return self.trained + self.frozen


@dataclass(frozen=True)
class Saving:
    """Bytes of activations per sample: what autograd saves, also with `recompute`, and the least a compiler keeps."""

    eager: int
    recompute: int
    compiled: int


@dataclass(frozen=True)
class Counts:
    """Costs of one training step per sample of the batch: FLOPs, activations, bytes of data read.

    `flops` are forward and backward passes of all updates, `again_flops` the forward passes of blocks that run again
    with `recompute`.
    """

    weights: Weights
    saving: Saving
    flops: int
    again_flops: int
    data_bytes: int


def count(spec: Spec, lowered: Lowered) -> Counts:
    """The counts of a spec. DiagnosticError E0708 if it has no objective."""
    if not lowered.updates:
        mend = "add an `objective:` section (docs/training.md)"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no objective to train", help=mend)
    autocast = spec.train.half
    flops = again = 0
    savings = []
    for update in lowered.updates:
        made = [
            Activations(lowered.module, update.networks, autocast, recompute, matrix_only)
            for recompute, matrix_only in ((False, False), (True, False), (False, True))
        ]
        share = Fraction(update.span, update.every)
        times = Fraction(update.repeats * update.batch_multiple, update.reference)
        times *= 1 - share if update.rests else share
        passes = 1
        if any(_optimizer(spec, n).sam for n in update.networks):
            passes = 3 if update.climbs else 2
        forward, backward, _ = made[0].flops_of_loss(update.loss)
        flops += int(times * (forward + backward) * passes)
        again += int(times * made[1].flops_of_loss(update.loss)[2] * passes)
        part = Fraction(update.batch_multiple, update.reference)
        savings.append([int(part * activations.of_loss(update.loss)) for activations in made])
    eager, recompute, compiled = (max(column) for column in zip(*savings, strict=True))
    return Counts(_weights(spec, lowered), Saving(eager, recompute, compiled), flops, again, _data_bytes(spec))


def _optimizer(spec: Spec, network: str) -> Optimizer:
    found = spec.train.optimizers.get(network, spec.train.optimizer)
    assert isinstance(found, Optimizer)
    return found


def _weights(spec: Spec, lowered: Lowered) -> Weights:
    trained = {name for update in lowered.updates for name in update.networks}
    counts = dict.fromkeys(("trained", "frozen", "averaged", "root", "matrices", "outer_matrices", "state_bytes"), 0)
    blocks: dict[str, list[int]] = {}  # weights and matrices of each
    for name, network in lowered.networks.items():
        if name == FIRST_STAGE:  # its codes are cached before training
            continue
        params = {n: p for n, p in network_params(lowered, network).items() if p.kind == "weight"}
        matrices = sum(p.type.count() for p in params.values() if _is_matrix(p))
        total = sum(p.type.count() for p in params.values())
        patterns = getattr(spec.networks[name], "frozen_weights", ()) if name in trained else ("*",)
        kept = {n: p for n, p in params.items() if any(fnmatchcase(n, pattern) for pattern in patterns)}
        frozen = sum(p.type.count() for p in kept.values())
        counts["trained"] += total - frozen
        counts["frozen"] += frozen
        counts["averaged"] += total * spec.train.averages if name in lowered.sampled else 0
        counts["matrices"] += matrices
        if name in trained:
            moved = (tuple(int(d) for d in p.type.shape) for n, p in params.items() if n not in kept)  # type: ignore[arg-type]
            counts["state_bytes"] += _optimizer(spec, name).state_of(moved)
        for path, param in params.items():
            number, matrix = param.type.count(), param.type.count() if _is_matrix(param) else 0
            if member := _BLOCK.fullmatch(f"{name}.{path}"):
                held = blocks.setdefault(member[1], [0, 0])
                held[0] += number
                held[1] += matrix
            else:
                counts["root"] += number
                counts["outer_matrices"] += matrix
    largest = max(blocks.values(), default=[0, 0])
    return Weights(block=largest[0], block_matrices=largest[1], **counts)


def _is_matrix(param: Param) -> bool:
    return param.type.rank >= 2


def _data_bytes(spec: Spec) -> int:
    """Bytes read per sample: pixels as 8 bits; codes of a first stage as cached, latents as mean and deviation."""
    total = 0
    for field in spec.data.fields.values():
        size = 1 if field.medium in ("image", "video") else {"f32": 4, "i64": 8, "bool": 1}[field.dtype]
        cached = 2 if spec.data.first_stage is not None and field.dtype == "f32" and field.shape else 1
        total += math.prod(field.shape) * size * cached
    return total
