"""The learning rate schedule, and rounds: equal parts of training, each with a schedule of its own."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Round:
    """A part of training: its number, its first step, and the first step after it."""

    number: int
    first: int
    end: int


def round_of(step: int, steps: int, count: int) -> Round:
    """The round of a step of `steps`."""
    number = step * count // steps
    return Round(number, -(-number * steps // count), -(-(number + 1) * steps // count))


def rate_of(course: dict[str, Any], at: int, steps: int) -> float:
    """The fraction of the learning rate at step `at` of `steps`: linear warm-up, hold, then the schedule."""
    warmup, final = course["warmup"], course["final"]
    if at < warmup:
        return (at + 1) / warmup
    held = warmup + course["hold"] * steps
    progress = max(0, at - held) / max(1, steps - held)
    match course["kind"]:
        case "cosine":
            return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return 1 - (1 - final) * progress
        case "exponential":
            return final**progress
        # region decay
        case "inverse_sqrt":
            return max(at / course["decay_from"], 1) ** -0.5
        # endregion
    return 1.0


@torch.no_grad()
def start_round(
    rounds: dict[str, Any],
    networks: dict[str, nn.Module],
    averages: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
) -> None:
    """Copies the last round's student, or its average, to teacher and student; resets the optimisers."""
    student, teacher = networks[rounds["student"]], networks[rounds["teacher"]]
    learned = averages.get(rounds["student"], student)
    for network in (teacher, student):
        for tensors in (nn.Module.parameters, nn.Module.buffers):
            for kept, new in zip(tensors(network), tensors(learned), strict=True):
                kept.copy_(new)
    for optimizer in optimizers.values():
        optimizer.state.clear()
