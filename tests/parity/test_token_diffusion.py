"""MAR's diffusion of single tokens, given their features: its loss and its sampler alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mar import SIZES
from parity_data import LIMIT, error, excess, load

from latentc.checkpoint import arrays, network_weights
from latentc.components.kit import Conditions
from latentc.components.samplers.masked_autoregressive import TokenSets
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors


def head(numbers: Any, folder: Path, *options: str) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """(spec, what it is lowered to, the weights of the head)."""
    spec = load_spec("mar", None, [*SIZES, *options])
    lowered, file = lower(spec), folder / "mar.safetensors"
    write_safetensors(file, {name: Array(array) for name, array in numbers.weights.items()})
    found = network_weights(spec, lowered, [f"head={file}"], "official", None, ["head"])["head"]
    return spec, lowered, {f"head.{name}": array for name, array in arrays(found).items()}


def test_the_loss_of_tokens(tmp_path: Path) -> None:
    """The mean over tokens that the mask chooses."""
    numbers = load("mar.diffloss.loss")
    spec, lowered, weights = head(numbers, tmp_path)
    mb = ModuleBuilder(lowered.module)
    b = mb.function("tokens")
    inputs = {"x": f32(B, 4), "z": f32(B, 64), "t": i64(B), "noise": f32(B, 4)}
    x, z, t, noise = (b.input(name, type_) for name, type_ in inputs.items())
    b.output(*spec.objective.of_tokens(b, lowered.networks["head"], x, z, (t, noise)).values())
    mb.entries["tokens"] = b.finish("The loss of tokens.")
    given, mask = [numbers.inputs["target"], numbers.inputs["z"], *numbers.noise], numbers.inputs["mask"]
    assert 0 < mask.sum() < len(mask)
    total, mse, bound = (
        (term * mask).sum() / mask.sum() for term in Interpreter(mb.finish(), weights).run("tokens", *given)
    )
    assert min(mse, bound) > 1e-3
    assert error(total, numbers.outputs["out"]) < 1e-5
    assert excess(total, numbers.outputs["out"], numbers.name) <= LIMIT


def test_the_sampler_of_tokens(tmp_path: Path) -> None:
    """Guided, at a temperature; the authors' second half, the branch without a class, only takes the first's output."""
    numbers = load("mar.diffloss.sample")
    spec, lowered, weights = head(numbers, tmp_path, "sampler.temperature=0.9")
    sampler, networks = spec.sampler, lowered.networks
    table = sampler.table(spec, sampler.diffusion)
    mb = ModuleBuilder(lowered.module)
    sets = TokenSets(networks["main"], networks["head"], Conditions(spec, networks), (), (), table, table, "tokens")
    b = mb.function("tokens")
    z, null, scale = b.input("z", f32(B, 3, 64)), b.input("null_z", f32(B, 3, 64)), b.input("scale", f32(B))
    at = {"x": b.input("x", f32(B, 3, 4)), "noise": b.input("noise", f32(B, 5, 3, 4))}
    b.output(sets.drawn(b, at, table, z, null, b.arange(3), b.arange(3), scale))
    mb.entries["tokens"] = b.finish("Draws tokens.")
    start, *steps = numbers.noise
    both, noise = np.split(numbers.inputs["z"], 2), np.stack(steps)[:, :3]
    (found,) = Interpreter(mb.finish(), weights).run("tokens", *(a[None] for a in (*both, np.float32(2), start, noise)))
    assert error(found[0], numbers.outputs["out"][:3]) < 1e-5
    assert excess(found[0], numbers.outputs["out"][:3], numbers.name) <= LIMIT
