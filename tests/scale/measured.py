"""What the emitted project of a spec really keeps in memory, counted on the CPU."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from emitted import emitted

from latentc.components.contract import Lowered
from latentc.spec import Spec


@dataclass(frozen=True)
class Measured:
    """Bytes that autograd saves per sample (without weights and their copies), of all weights, and of all moments."""

    activations: float
    weights: int
    state: int


def measure(lowered: Lowered, spec: Spec, folder: Path, batch: int = 16) -> Measured:
    """Runs the first update's loss and one optimiser step of the emitted project with random data."""
    low = spec.train.precision == "bf16"
    with emitted(lowered, spec, folder) as project:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        networks = {name: build(**config["model"][name]) for name, build in project.model.NETWORKS.items()}
        update = project.objective.UPDATES[0]
        for name, network in networks.items():
            network.train().requires_grad_(name in update.trained)
        weights = [p for name in update.trained for p in networks[name].parameters()]
        known = {
            t.untyped_storage().data_ptr()
            for network in networks.values()
            for t in (*network.parameters(), *network.buffers())
        }
        saved: dict[int, torch.Tensor] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in known:
                saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        generator = torch.Generator().manual_seed(0)
        inputs = {name: _random(lowered, spec, name, batch, generator) for name in update.batch}
        inputs |= update.draws(batch, generator)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=low),
        ):
            out = update.loss(*[networks[name] for name in update.networks], **inputs)
        copies = 2 * sum(p.numel() for p in weights if p.ndim >= 2) if low else 0
        bytes_saved = sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) - copies
        (out[0] if isinstance(out, tuple) else out).backward()
        sys.path.insert(0, str(folder))
        try:
            module = importlib.import_module("latentc_support.optimizers")
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("optimizers", None)
        optimizer = module.make_optimizer(networks[update.trained[0]], config["train"]["optimizer"])
        optimizer.step()
        moments = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.ndim]
        return Measured(
            bytes_saved / batch,
            sum(p.numel() * p.element_size() for network in networks.values() for p in network.parameters()),
            sum(t.numel() * t.element_size() for t in moments),
        )


def _random(lowered: Lowered, spec: Spec, name: str, batch: int, generator: torch.Generator) -> torch.Tensor:
    field = spec.data.fields[name]
    if field.classes:
        return torch.randint(field.classes, (batch, *field.shape), generator=generator)
    return torch.randn((batch, *field.shape), generator=generator)
