"""Checkpoints with the full training state, and weights files with plain state-dict names.

What sharded checkpoints need is imported where they are read or written, because it takes PyTorch seconds.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .changes import changes
from .parallel import Run
from .storage import inherited, load_tensors, misfit, remove_whole, save_tensors, with_counts, write_whole

States = dict[str, dict[str, Tensor]]
WEIGHTS = ("networks", "averages", "others")


@dataclass
class State:
    """Everything in training that changes, by network.

    `others` are averages of other widths, and clusters of the data.
    """

    networks: dict[str, nn.Module]
    averages: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    others: dict[str, nn.Module] = field(default_factory=dict)


def joined(states: States) -> dict[str, Tensor]:
    """Tensors by the names of a weights file: plain for a lone `main`, else `network.name`."""
    alone = list(states) == ["main"]
    return {k if alone else f"{n}.{k}": v for n, state in states.items() for k, v in state.items()}


def parted(tensors: dict[str, Tensor], names: list[str]) -> States:
    """The inverse of `joined`."""
    return {"main": tensors} if names == ["main"] else {name: of_network(tensors, name) for name in names}


def of_network(tensors: dict[str, Tensor], name: str, like: str | None = None) -> dict[str, Tensor]:
    """A network's part of a weights file, else that of the network it is like; the file may hold it alone."""
    for prefix in [f"{name}.", *([f"{like}."] if like else [])]:
        if own := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            return own
    return tensors


def save_weights(states: States, path: Path) -> None:
    """A safetensors file of the networks."""
    write_whole(path, partial(save_tensors, joined(states)))


def load_weights(network: nn.Module, name: str, path: Path, fresh: Sequence[str] = (), like: str | None = None) -> None:
    """Loads a network from a file that holds it alone, or under its name. SystemExit if it does not fit.

    Weights whose names match a pattern in `fresh` stay as they were initialised. `like`: another name that it
    may have in the file.
    """
    if not path.is_file():
        raise SystemExit(f"roles.{name}.pretrained: there is no file {path}")
    try:
        tensors = of_network(load_tensors(path), name, like)
        tensors = with_counts(inherited(tensors, network, fresh), network)
    except ValueError as error:
        raise SystemExit(f"roles.{name}.pretrained: {error}") from None
    if why := misfit(tensors, network):
        raise SystemExit(f"roles.{name}.pretrained: {path} does not fit: {why}")
    network.load_state_dict(tensors)


def network_state(network: nn.Module, run: Run) -> dict[str, Tensor]:
    """A network's whole state dict; with FSDP, on the first process only."""
    if run.parallel != "fsdp":
        return network.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def seed_generators(*key: int) -> None:
    """Seeds every random number generator of this process."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)


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


def write_checkpoint(content: dict[str, Any], run: Run, folder: Path | None) -> None:
    """A folder: tensors in safetensors files, all else in state.json, each with checksums.

    state.json also has the checksums of the other files, so files of two checkpoints do not mix. With FSDP
    all processes call it, and each writes files of its own; only the first has to know the folder.
    """
    moments = {path: value for path, value in content["moments"].items() if isinstance(value, Tensor)}
    state = {**content, "moments": content["moments"] | dict.fromkeys(moments), "checksums": {}}
    state |= {kind: list(content[kind]) for kind in WEIGHTS}
    tensors = {kind: joined(content[kind]) for kind in WEIGHTS}
    tensors = {kind: held for kind, held in tensors.items() if held} | {"optimizers": moments}
    if run.parallel == "fsdp":
        from .sharded import save_shards

        state["files"] = save_shards(tensors, folder, run)
    else:
        folder.mkdir()
        for kind, held in tensors.items():
            state["checksums"][kind] = save_tensors(held, folder / f"{kind}.safetensors")
    if run.main:
        text = json.dumps(state, default=str)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        (folder / "state.json").write_text(f'{{"sha256": "{sha256}",\n"state": {text}}}\n')


def read_checkpoint(folder: Path, run: Run | None = None) -> dict[str, Any]:
    """The content of state.json and, unless the checkpoint is sharded, `tensors`: {kind: tensors}.

    The files of a sharded one are verified, each process a part of them. ValueError if it is damaged or
    incomplete.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file, not a folder")
    try:
        found = json.loads((folder / "state.json").read_bytes())
        state = found["state"]
        if found["sha256"] != hashlib.sha256(json.dumps(state).encode()).hexdigest():
            raise ValueError("its checksum does not match")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'state.json'} is damaged: {error}") from None
    if "files" in state:
        from .sharded import check_shards

        check_shards(folder, state["files"], run)
    else:
        kinds = [*(kind for kind in WEIGHTS if state[kind]), "optimizers"]
        sums = state.get("checksums", {})  # absent in checkpoints of older projects
        state["tensors"] = {k: load_tensors(folder / f"{k}.safetensors", sums.get(k)) for k in kinds}
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The averages of a checkpoint, or its networks if it has none. ValueError if it is damaged."""
    state = read_checkpoint(folder)
    kind = "averages" if state["averages"] else "networks"
    if "files" not in state:
        return state["tensors"][kind]
    from .sharded import load_shards

    return load_shards(folder / kind, {})


class Checkpoints:
    """The newest `keep` checkpoints of a run, a folder each."""

    def __init__(self, out: Path, keep: int):
        self.folder, self.keep = out / "checkpoints", keep
        self.changes: list[str] = []  # settings that changed when the run was resumed

    def all(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + "[0-9]" * 8))

    def save(self, step: int, state: State, config: dict[str, Any], run: Run) -> None:
        """Writes a checkpoint; every process must call it."""
        content = {
            "step": step,  # also the position in the data, which depends only on seed and step
            "world": run.world,
            **{kind: {n: m.state_dict() for n, m in getattr(state, kind).items()} for kind in WEIGHTS},
            "moments": {p: v for n, one in state.optimizers.items() for p, v in moments(n, state.networks[n], one)},
            "random": run.gathered(random_state()),
            "config": config,
            "changes": self.changes,
        }
        if run.main:
            write_whole(self.folder / f"step-{step:08d}", partial(write_checkpoint, content, run))
            for old in self.all()[: -self.keep]:
                remove_whole(old)
        elif run.parallel == "fsdp":
            write_checkpoint(content, run, None)

    def newest_intact(self, run: Run) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint whose checksums match. Damaged ones are renamed, so that none is taken again.

        SystemExit if there is none. The processes verify it together, and skip it if one finds damage.
        """
        damaged = []
        for path in run.agreed(self.all()[::-1]):
            if blind := [rank for rank, seen in enumerate(run.gathered(path.exists())) if not seen]:
                raise SystemExit(f"{path} is not on the disk of process {blind[0]}: share `--out` between nodes")
            content, why = {}, None
            try:
                content = read_checkpoint(path, run)
            except (ValueError, FileNotFoundError) as error:
                why = str(error)
            whys = [found for found in run.gathered(why) if found]
            if not whys:
                break
            damaged.append(path)
            if run.main:
                print(f"skipped {path.name}: {whys[0]}")
        else:
            message = f"{self.folder} holds no intact checkpoint: `--out` starts elsewhere"
            raise SystemExit(message if run.main else 1)
        if run.main:
            for worse in damaged:
                worse.rename(worse.with_name(f"{worse.name}.damaged"))
        return path, content

    def resume(self, state: State, config: dict[str, Any], run: Run) -> int:
        """Restores the newest intact checkpoint; returns its step. SystemExit if it does not fit.

        It may have been written by another number of processes, or with other settings as far as changes.py
        permits, which then take effect.
        """
        path, content = self.newest_intact(run)
        if "moments" not in content:
            raise SystemExit(f"{path} was written by an older version of train.py, which has to continue it")
        said = changes(path, content["step"], content["config"], config)
        self.changes = [*content["changes"], *said]
        if set(content["networks"]) != set(state.networks):
            found = ", ".join(content["networks"])
            raise SystemExit(f"{path} belongs to another model, with networks {found}")

        def stored(kind: str, likes: dict[str, Tensor]) -> dict[str, Tensor]:
            if "files" not in content and run.parallel != "fsdp":
                return content["tensors"][kind]
            from .sharded import load_shards, spread

            if "files" in content:
                return load_shards(path / kind, likes)
            return {n: spread(tensor, likes.get(n)) for n, tensor in content["tensors"][kind].items()}

        for kind in WEIGHTS:
            held = getattr(state, kind)
            likes = {name: network.state_dict() for name, network in held.items()}
            states = parted(stored(kind, joined(likes)), list(held)) if held else {}
            for name, network in held.items():
                if why := misfit(states[name], network):
                    raise SystemExit(f"{path} belongs to another model: in {name}, {why}")
                network.load_state_dict(states[name])
        weights = {f"{n}/{name}": p for n in state.optimizers for name, p in state.networks[n].named_parameters()}
        likes = {path: weights[path.rpartition("/")[0]] for path in content["moments"]}
        restored = content["moments"] | stored("optimizers", likes)
        for n, optimizer in state.optimizers.items():
            restore_moments(n, state.networks[n], optimizer, restored)
        if content["world"] == run.world:
            set_random_state(content["random"][run.rank])
        else:
            seed_generators(content["config"]["train"]["seed"], 5, run.rank, content["step"])
        if run.main:
            of = f", written by {content['world']} process(es)" if content["world"] != run.world else ""
            print("\n".join([f"resumed from {path}{of}", *said]))
        return content["step"]


def moments(name: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """("network/weight/key", value) of an optimiser's state, whatever groups of settings the weights are in."""
    for weight, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{weight}/{key}", value


def restore_moments(name: str, network: nn.Module, optimizer: torch.optim.Optimizer, restored: dict[str, Any]) -> None:
    """The inverse of `moments`; the optimiser keeps its own settings."""
    held: dict[str, dict[str, Any]] = {}
    for path, value in restored.items():
        owner, weight, key = path.split("/")
        if owner == name:
            held.setdefault(weight, {})[key] = value
    names = {parameter: weight for weight, parameter in network.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: held[weight] for index, weight in enumerate(order) if weight in held}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
