"""Truncation of styles, and the noise images of a style-based generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc import api
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime.sources import RandomSource, SettingSource

SIZES = [
    "data.shape=[3, 8, 8]",
    "data.classes=3",
    "backbone.channel_base=64",
    "backbone.channel_max=4",
    "backbone.latent_dim=6",
    "backbone.style_dim=5",
]
LAYERS = 4


def system(*sampler: str) -> tuple[Any, Any, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(its program, an interpreter of it, its inputs, the same by which the network is called)."""
    lowered = lower(load_spec("stylegan2", None, [*SIZES, *sampler]))
    (program,) = lowered.programs
    module = lowered.module
    rng = np.random.default_rng(0)
    own = {}
    for method in lowered.networks["main"].methods.values():
        for path, param in sorted(parameters(module, method.function).items()):
            own.setdefault(path, rng.standard_normal(tuple(map(int, param.type.shape))))
    inputs = {"z": rng.standard_normal((2, 6)), "y": np.array([0, 2]), "psi": np.array([1.0, 0.5])}
    noises = lowered.networks["main"].methods["synthesize"].inputs_of("noise")
    inputs |= {p.name: rng.standard_normal((2, *map(int, p.type.shape[1:]))) for p in noises}
    weights = own | {f"main.{path}": value for path, value in own.items()}
    return (
        program,
        Interpreter(module, weights),
        inputs,
        {v.name: inputs[v.name] for v in module.entry("sample.1").inputs},
    )


@pytest.mark.parametrize("cutoff", [None, 1])
def test_styles_move_towards_their_average_by_psi(cutoff: int | None) -> None:
    _, run, inputs, given = system(*([] if cutoff is None else [f"sampler.cutoff={cutoff}"]))
    w, average = run.run("main.map", inputs["z"], inputs["y"])
    ws = np.repeat(w[:, None], LAYERS, 1)
    truncated = average + inputs["psi"][:, None, None] * (ws - average)
    ws = np.concatenate([truncated[:, :cutoff], ws[:, LAYERS if cutoff is None else cutoff :]], 1)
    noises = [value for name, value in inputs.items() if name.startswith("noise")]
    (wanted,) = run.run("main.synthesize", ws, *noises)
    (found,) = run.run("sample.1", *given.values())
    assert np.allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_psi_is_a_setting_and_noise_is_drawn_per_convolution() -> None:
    program, *_ = system("sampler.psi=0.7")
    assert program.sources["psi"] == SettingSource("psi") and program.settings[0].default == 0.7
    drawn = [name for name, source in program.sources.items() if isinstance(source, RandomSource)]
    assert drawn == ["z", "noise_0", "noise_1", "noise_2"]


@pytest.mark.parametrize("noise", ["const", "none"])
def test_noise_that_is_not_drawn(noise: str) -> None:
    _, run, inputs, given = system(f"sampler.noise={noise}")
    assert list(given) == ["z", "y", "psi"]
    given["psi"] = np.ones(2)
    (found,) = run.run("sample.1", *given.values())
    (const,) = run.run("main.forward", inputs["z"], inputs["y"])
    w, _ = run.run("main.map", inputs["z"], inputs["y"])
    zeros = [np.zeros_like(value) for name, value in inputs.items() if name.startswith("noise")]
    (none,) = run.run("main.synthesize", np.repeat(w[:, None], LAYERS, 1), *zeros)
    assert np.allclose(found, const if noise == "const" else none, rtol=1e-9, atol=1e-9)
    assert not np.allclose(const, none, atol=1e-3)


def test_a_bundle_is_verified_without_weights_that_its_sampler_does_not_use(tmp_path: Path) -> None:
    """Drawn noise leaves out the generator's own noise images."""
    lowered = lower(load_spec("stylegan2", None, SIZES))
    rng = np.random.default_rng(0)
    shapes = {
        path: tuple(map(int, param.type.shape))
        for method in lowered.networks["main"].methods.values()
        for path, param in parameters(lowered.module, method.function).items()
    }
    arrays = {path: Array(rng.standard_normal(shape).astype(np.float32)) for path, shape in shapes.items()}
    write_safetensors(tmp_path / "w.safetensors", arrays)
    api.compile("stylegan2", [str(tmp_path / "w.safetensors")], tmp_path / "bundle", overrides=SIZES, run=False)
    assert api.verify(tmp_path / "bundle").ok
