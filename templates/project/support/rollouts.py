"""Rollouts: samples drawn by the networks during training, and their rewards.

A reward of config.yaml is a saved network, or a Python function of a module beside this file.
"""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objective import ROLLOUT
from sample import declared, draw, program_of, with_first_stage

from .data import generator
from .parallel import Run
from .sources import Given

Score = Callable[[Tensor, dict[str, Tensor]], Tensor]
"""Scores f32[N] of samples [N, ...], given the conditions that they were drawn with by name."""


def load_rewards(settings: list[dict[str, Any]], device: torch.device) -> list[tuple[float, Score]]:
    """The rewards with their weights. SystemExit says what is missing."""
    loaders = {"file": saved, "python": imported}
    return [(float(one["weight"]), loaders[one["kind"]](one, device)) for one in settings]


def imported(settings: dict[str, Any], device: torch.device) -> Score:
    """The function that `function` names, as MODULE:FUNCTION."""
    module, _, name = settings["function"].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # a module that it imports is missing
            raise
        raise SystemExit(f"rewards: there is no module {module}; put {module}.py beside train.py") from None
    except AttributeError:
        raise SystemExit(f"rewards: module {module} has no function {name}") from None


def saved(settings: dict[str, Any], device: torch.device) -> Score:
    """A network of `torch.export` (.pt2) or in ONNX: it returns scores [N], or logits of classes [N, K]."""
    file = Path(__file__).parents[1] / settings["file"]
    if not file.is_file():
        raise SystemExit(f"rewards: there is no file {file}")
    if file.suffix == ".onnx":
        network = onnx(file)
    else:
        network = torch.export.load(file).module().to(device)

    def score(samples: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        found = network(samples)
        if found.ndim == 1:
            return found
        if "class" not in conditions:
            raise SystemExit(f"rewards: {file} returns {list(found.shape)}, but no class was requested")
        own = found.log_softmax(1).gather(1, conditions["class"].long()[:, None])[:, 0]
        return own if settings["of"] == "log_probability" else own.exp()

    return score


def onnx(file: Path) -> Callable[[Tensor], Tensor]:
    """A network of one input and one output that ONNX Runtime runs."""
    try:
        import onnxruntime
    except ImportError:
        raise SystemExit(f"rewards: {file} needs ONNX Runtime; `pip install onnxruntime`") from None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def network(samples: Tensor) -> Tensor:
        (found,) = session.run(None, {entry.name: samples.cpu().numpy()})
        return torch.from_numpy(found).to(samples.device)

    return network


@torch.no_grad()
def rewarded(rewards: list[tuple[float, Score]], samples: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """The weighted sum f32[N] of the rewards. SystemExit if one is no score per sample, or not finite."""
    total = torch.zeros(len(samples), device=samples.device)
    for weight, score in rewards:
        found = torch.as_tensor(score(samples, conditions), device=samples.device).float()
        if found.shape != total.shape:
            count, shape = len(samples), list(found.shape)
            raise SystemExit(f"rewards: a reward of {count} samples has shape {shape}, not [{count}]")
        total += weight * found
    if not math.isfinite(float(total.sum())):
        raise SystemExit("rewards: a reward is not finite")
    return total


def roll_out(
    rewards: list[tuple[float, Score]],
    networks: dict[str, nn.Module],
    batch: dict[str, Tensor],
    config: dict[str, Any],
    step: int,
    run: Run,
) -> dict[str, Tensor]:
    """The samples that the losses of a step learn from: a group for each condition of the batch."""
    program, size = program_of(ROLLOUT.program), len(next(iter(batch.values())))
    each = {name: values.repeat_interleave(ROLLOUT.group, 0) for name, values in batch.items()}
    count = size * ROLLOUT.group
    random = generator(config["train"]["seed"], 6, step, run.rank)
    seeds = torch.randint(2**62, (count,), generator=random).numpy().astype(np.uint64)
    values = {name: each[fields[0]].numpy() for name, fields in ROLLOUT.given.items()}
    masks = {name: each[fields[1]].numpy() for name, fields in ROLLOUT.given.items() if len(fields) > 1}
    settings = {setting.name: np.full(count, setting.value) for setting in declared(program)[1]}
    given = Given(seeds, values, masks, settings)
    modes = {name: network.training for name, network in networks.items()}
    # region staged
    networks = with_first_stage(networks, config, run.device)
    # endregion
    found = draw(networks, given, program)
    for name, network in networks.items():
        network.train(modes[name])
        if run.parallel == "fsdp":
            network.reshard()  # without a backward pass, the root's weights would stay gathered
    given = {name: torch.from_numpy(values[name]).to(run.device) for name in values}
    found["reward"] = rewarded(rewards, found.pop("samples").to(run.device), given).cpu()
    return {name: found[name].unflatten(0, (size, ROLLOUT.group)) for name in ROLLOUT.gives}
