"""Checkpoints that hold all that training depends on, and weights files with plain state-dict names."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def write_whole(path: Path, write: Any) -> None:
    """Calls write(temporary name), then renames: a crash leaves the old file or the new, no half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_weights(states: dict[str, dict[str, Tensor]], path: Path) -> None:
    """A safetensors file; the names of a lone network are those of its state dict, else `network.name`."""
    alone = list(states) == ["main"]
    tensors = {
        key if alone else f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
        for name, state in states.items()
        for key, tensor in state.items()
    }
    write_whole(path, lambda file: save_file(tensors, str(file)))


def load_weights(network: nn.Module, name: str, path: Path) -> None:
    """Loads a network from a file that holds it alone, or under its name. SystemExit if it does not fit."""
    if not path.is_file():
        raise SystemExit(f"roles.{name}.pretrained: there is no file {path}")
    tensors = load_file(path)
    under = {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    try:
        network.load_state_dict(under or tensors)
    except RuntimeError as error:
        raise SystemExit(f"roles.{name}.pretrained: {path} does not fit: {error}") from None


def network_state(network: nn.Module, run: Any) -> dict[str, Tensor]:
    """A network's whole state dict; with FSDP, on the first process only."""
    return get_model_state_dict(network, options=WHOLE) if run.parallel == "fsdp" else network.state_dict()


def random_state() -> dict[str, Any]:
    """The state of every random number generator of this process."""
    name, words, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Checkpoints:
    """The newest `keep` checkpoints of a folder, one file each."""

    def __init__(self, out: Path, keep: int):
        self.folder, self.keep = out / "checkpoints", keep

    def all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))

    def newest(self) -> Path | None:
        return self.all()[-1] if self.all() else None

    def save(
        self,
        step: int,
        networks: dict[str, nn.Module],
        averages: dict[str, nn.Module],
        optimizers: list[torch.optim.Optimizer],
        config: dict[str, Any],
        run: Any,
    ) -> None:
        """Writes a checkpoint; every process must call it."""
        states = [random_state()]
        if run.world > 1:
            states = [None] * run.world
            dist.all_gather_object(states, random_state())
        if run.parallel == "fsdp":
            holder = nn.ModuleDict(networks)
            kept = [get_optimizer_state_dict(holder, o, options=WHOLE) for o in optimizers]
        else:
            kept = [o.state_dict() for o in optimizers]
        content = {
            "step": step,  # also the position in the data, which depends on seed and step alone
            "world": run.world,
            "networks": {n: network_state(m, run) for n, m in networks.items()},
            "averages": {n: network_state(m, run) for n, m in averages.items()},
            "optimizers": kept,
            "random": states,
            "config": config,
        }
        if run.main:
            write_whole(self.folder / f"step-{step:08d}.pt", lambda file: torch.save(content, file))
            for old in self.all()[: -self.keep]:
                old.unlink()


def load_everything(
    path: Path,
    networks: dict[str, nn.Module],
    averages: dict[str, nn.Module],
    optimizers: list[torch.optim.Optimizer],
    run: Any,
) -> int:
    """Puts a checkpoint back; returns its step. SystemExit where it does not fit."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["world"] != run.world:
        raise SystemExit(f"{path} was written by {content['world']} process(es); resume with as many")
    if set(content["averages"]) != set(averages):
        raise SystemExit(f"{path} was written with another setting of `ema`")
    for held, kind in ((networks, "networks"), (averages, "averages")):
        for name, network in held.items():
            try:
                if run.parallel == "fsdp":
                    set_model_state_dict(network, content[kind][name], options=WHOLE)
                else:
                    network.load_state_dict(content[kind][name])
            except RuntimeError as error:
                raise SystemExit(f"{path} is of another model: {error}") from None
    for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
        if run.parallel == "fsdp":
            set_optimizer_state_dict(nn.ModuleDict(networks), optimizer, state, options=WHOLE)
        else:
            optimizer.load_state_dict(state)
    set_random_state(content["random"][run.rank])
    return content["step"]
