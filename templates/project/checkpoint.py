"""Checkpoints that hold all that training depends on, and weights files with plain state-dict names."""

import hashlib
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from storage import load_tensors, misfit, remove_whole, save_tensors, write_whole

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
States = dict[str, dict[str, Tensor]]


def joined(states: States) -> dict[str, Tensor]:
    """Tensors by the names of a weights file: plain for a lone `main`, else `network.name`."""
    alone = list(states) == ["main"]
    return {k if alone else f"{n}.{k}": v for n, state in states.items() for k, v in state.items()}


def parted(tensors: dict[str, Tensor], names: list[str]) -> States:
    """The inverse of `joined`."""
    return {"main": tensors} if names == ["main"] else {name: of_network(tensors, name) for name in names}


def of_network(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """A network's part of a weights file, which may hold it alone."""
    own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
    return own or tensors


def save_weights(states: States, path: Path) -> None:
    """A safetensors file of the networks."""
    write_whole(path, partial(save_tensors, joined(states)))


def load_weights(network: nn.Module, name: str, path: Path) -> None:
    """Loads a network from a file that holds it alone, or under its name. SystemExit if it does not fit."""
    if not path.is_file():
        raise SystemExit(f"roles.{name}.pretrained: there is no file {path}")
    try:
        tensors = of_network(load_tensors(path), name)
    except ValueError as error:
        raise SystemExit(f"roles.{name}.pretrained: {error}") from None
    if why := misfit(tensors, network):
        raise SystemExit(f"roles.{name}.pretrained: {path} does not fit: {why}")
    network.load_state_dict(tensors)


def network_state(network: nn.Module, run: Any) -> dict[str, Tensor]:
    """A network's whole state dict; with FSDP, on the first process only."""
    return get_model_state_dict(network, options=WHOLE) if run.parallel == "fsdp" else network.state_dict()


def random_state() -> dict[str, Any]:
    """The state of every random number generator of this process."""
    name, words, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [name, words.tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, words, *rest = state["numpy"]
    np.random.set_state((name, np.array(words, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nested value with {"tensor": path} in place of each tensor, which goes into `tensors`."""
    match value:
        case Tensor():
            tensors[path] = value
            return {"tensor": path}
        case dict():
            return {key: apart(inner, f"{path}/{key}", tensors) for key, inner in value.items()}
        case list() | tuple():
            return [apart(inner, f"{path}/{at}", tensors) for at, inner in enumerate(value)]
    return value


def together(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `apart` took apart; keys are numbers again, which JSON has made text."""
    match value:
        case {"tensor": path}:
            return tensors[path]
        case dict():
            return {int(k) if k.isdigit() else k: together(v, tensors) for k, v in value.items()}
        case list():
            return [together(inner, tensors) for inner in value]
    return value


def write_checkpoint(content: dict[str, Any], folder: Path) -> None:
    """A folder: tensors in safetensors files, all else in state.json, each with checksums."""
    moments: dict[str, Tensor] = {}
    state = {**content, "optimizers": apart(content["optimizers"], "optimizer", moments)}
    state |= {kind: list(content[kind]) for kind in ("networks", "averages")}
    folder.mkdir()
    save_tensors(joined(content["networks"]), folder / "networks.safetensors")
    if content["averages"]:
        save_tensors(joined(content["averages"]), folder / "averages.safetensors")
    save_tensors(moments, folder / "optimizers.safetensors")
    text = json.dumps(state, default=str)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    (folder / "state.json").write_text(f'{{"sha256": "{sha256}",\n"state": {text}}}\n')


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What `write_checkpoint` was given. ValueError if it is damaged or incomplete."""
    try:
        found = json.loads((folder / "state.json").read_bytes())
        state = found["state"]
        if found["sha256"] != hashlib.sha256(json.dumps(state).encode()).hexdigest():
            raise ValueError("its checksum does not match")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'state.json'} is damaged: {error}") from None
    for kind in ("networks", "averages"):
        names = state[kind]
        state[kind] = parted(load_tensors(folder / f"{kind}.safetensors"), names) if names else {}
    state["optimizers"] = together(state["optimizers"], load_tensors(folder / "optimizers.safetensors"))
    return state


class Checkpoints:
    """The newest `keep` checkpoints of a run, a folder each."""

    def __init__(self, out: Path, keep: int):
        self.folder, self.keep = out / "checkpoints", keep

    def all(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + "[0-9]" * 8))

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
            write_whole(self.folder / f"step-{step:08d}", partial(write_checkpoint, content))
            for old in self.all()[: -self.keep]:
                remove_whole(old)

    def newest_intact(self, run: Any) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint whose checksums match. Damaged ones are renamed, so that none is taken again.

        SystemExit if there is none. The first process chooses for all.
        """
        chosen, damaged = [None], []
        if run.main:
            for path in reversed(self.all()):
                try:
                    content = read_checkpoint(path)
                except (ValueError, FileNotFoundError) as error:
                    damaged.append(path)
                    print(f"skipped {path.name}: {error}")
                else:
                    chosen = [path]
                    break
            else:
                raise SystemExit(f"{self.folder} holds no intact checkpoint: `--out` starts elsewhere")
            for path in damaged:
                path.rename(path.with_name(f"{path.name}.damaged"))
        if run.world > 1:
            dist.broadcast_object_list(chosen)
        return chosen[0], content if run.main else read_checkpoint(chosen[0])

    def resume(
        self,
        networks: dict[str, nn.Module],
        averages: dict[str, nn.Module],
        optimizers: list[torch.optim.Optimizer],
        run: Any,
    ) -> int:
        """Puts the newest intact checkpoint back; returns its step. SystemExit if it does not fit."""
        path, content = self.newest_intact(run)
        if content["world"] != run.world:
            raise SystemExit(f"{path} was written by {content['world']} process(es); resume with as many")
        if set(content["averages"]) != set(averages):
            raise SystemExit(f"{path} was written with another setting of `ema`")
        if set(content["networks"]) != set(networks):
            raise SystemExit(f"{path} is of another model: its networks are {', '.join(content['networks'])}")
        for held, kind in ((networks, "networks"), (averages, "averages")):
            for name, network in held.items():
                tensors = content[kind][name]
                if why := misfit(tensors, network):
                    raise SystemExit(f"{path} is of another model: in {name}, {why}")
                if run.parallel == "fsdp":
                    set_model_state_dict(network, tensors, options=WHOLE)
                else:
                    network.load_state_dict(tensors)
        groups = [[set(group) for group in o["param_groups"]] for o in content["optimizers"]]
        if groups != [[set(group) for group in o.param_groups] for o in optimizers]:
            raise SystemExit(f"{path} was written with another kind of optimizer")
        for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
            if run.parallel == "fsdp":
                set_optimizer_state_dict(nn.ModuleDict(networks), optimizer, state, options=WHOLE)
            else:
                optimizer.load_state_dict(state)
        set_random_state(content["random"][run.rank])
        if run.main:
            print(f"resumed from {path}")
        return content["step"]
