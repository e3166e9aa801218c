"""The U-Net over waveforms gives the numbers of a-unet's `UNetV0`, with its loss and sampler of velocities.

`unet_v0.npz` was recorded with a-unet at e0933e7 and audio-diffusion-pytorch at f4052e3 (both MIT), in float64.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

NUMBERS = np.load(Path(__file__).parent / "unet_v0.npz")
SIZES = ["data.fields.x.shape=[2, 32]", "backbone.widths=[8, 12]", "backbone.factors=[1, 4]", "backbone.blocks=[1, 2]"]
SIZES += ["backbone.attention=[1]", "backbone.heads=2", "backbone.head_width=4", "backbone.groups=4"]
SIZES += ["backbone.embedding=16", "programs=[]", "sampler={kind: ddim, timesteps: [1.0, 0.75, 0.5, 0.25]}"]
PARTS = [(0, "resnet"), (1, "modulation"), (2, "attention")]
RESNET = {"0.0": "norm1", "0.2": "conv1", "1.0": "norm2", "1.2": "conv2"}
ATTENTION = {"norm": "norm", "norm_context": "kv_norm", "to_q": "q", "to_kv": "kv", "attention.blocks.0": "proj"}


def drawn(name: str, shape: list[int]) -> np.ndarray:
    """The recorded weight of a name: normals that the CRC-32 of the name seeds, around 1 for scales of norms."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.2
    return (values + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)).astype(np.float32)


def modules(blocks: list[int], attends: list[bool]) -> dict[str, str]:
    """{a-unet's module: ours}. A level is nested in the one above, after the blocks of its way down."""
    found = {"blocks.0.to_out": "embedder.fc1", "blocks.1.blocks.1.0": "embedder.fc2"}
    prefix = "blocks.2.net"
    for level, (count, attention) in enumerate(zip(blocks, attends, strict=True)):
        stride = 2 + attention
        up = 1 + count * stride + (level + 1 < len(blocks))
        found[f"{prefix}.block.blocks.0.block"] = f"down.{level}.resample"
        found[f"{prefix}.block.blocks.{up + count * stride}.block.1"] = f"up.{level}.resample"
        found[f"{prefix}.skip.blocks.0.1"] = f"up.{level}.skip"
        for way, first in (("down", 1), ("up", up)):
            for i in range(count):
                at, ours = first + i * stride, f"{way}.{level}.blocks.{i}"
                item = f"{prefix}.block.blocks.{at}.block.blocks.0.blocks"
                found |= {f"{item}.{part}": f"{ours}.{name}" for part, name in RESNET.items()}
                found[f"{prefix}.block.blocks.{at + 1}.blocks.0.block.blocks.0.1"] = f"{ours}.modulation"
                item = f"{prefix}.block.blocks.{at + 2}.blocks.0.block"
                found |= {f"{item}.{part}": f"{ours}.attention.{n}" for part, n in ATTENTION.items() if attention}
        prefix = f"{prefix}.block.blocks.{1 + count * stride}"
    return found


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """The recorded weights under our names; the layer that a-unet applies twice has two names there."""
    shapes = json.loads(bytes(NUMBERS["shapes"]).decode())
    renamed, found = modules([1, 2], [False, True]), {}
    for name, shape in shapes.items():
        module, _, param = name.rpartition(".")
        if module != "blocks.1.blocks.0.0":
            ours = "embedder.frequencies" if name == "blocks.0.weights" else f"{renamed[module]}.{param}"
            found[ours] = drawn(name, shape)
    return found


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx"])
def test_predictions_are_those_of_a_unet(backend: Any, weights: dict[str, np.ndarray]) -> None:
    given = {"x": NUMBERS["x"], "t": NUMBERS["t"]}
    found = api.forward("music", weights, given, backend, overrides=SIZES)
    assert np.abs(found - NUMBERS["out"]).max() < 1e-5 * np.abs(NUMBERS["out"]).max()


def test_the_loss_is_that_of_its_diffusion(weights: dict[str, np.ndarray]) -> None:
    given = {"x": NUMBERS["x"], "u": NUMBERS["t"], "noise": NUMBERS["noise"]}
    found = api.loss("music", weights, given, overrides=SIZES)
    assert next(iter(found.values())) == pytest.approx(float(NUMBERS["loss"]), rel=1e-6)


def test_samples_are_those_of_its_sampler(weights: dict[str, np.ndarray]) -> None:
    lowered = lower(load_spec("music", None, SIZES))
    own = {f"main.{name}": a for name, a in weights.items()}
    (found,) = Interpreter(lowered.module, own).run(lowered.programs[0].entry, NUMBERS["noise"].astype(np.float64))
    assert np.abs(found - NUMBERS["sample"]).max() < 1e-6 * np.abs(NUMBERS["sample"]).max()


def test_a_class_is_added_to_the_embedding(weights: dict[str, np.ndarray]) -> None:
    more = [*SIZES, "data.fields.y={classes: 3}", "conditioning.class={kind: label, dropout: 0}"]
    lowered = lower(load_spec("music", None, more))
    (table,) = network_params(lowered, lowered.networks["main"]).keys() - weights.keys()
    given = {"x": NUMBERS["x"], "t": NUMBERS["t"], "y": np.array([2, 0])}
    same = api.forward("music", {**weights, table: np.zeros((3, 16), np.float32)}, given, overrides=more)
    assert np.abs(same - NUMBERS["out"]).max() < 1e-6 * np.abs(NUMBERS["out"]).max()
    other = api.forward("music", {**weights, table: np.full((3, 16), 0.5, np.float32)}, given, overrides=more)
    assert np.abs(other - NUMBERS["out"]).max() > 1e-2 * np.abs(NUMBERS["out"]).max()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.factors=[1, 4, 4]"], "3 `factors` for 2 levels"),
        (["backbone.blocks=[1]"], "1 `blocks` for 2 levels"),
        (["backbone.attention=[2]"], "level 2 is out of range: levels are 0 to 1"),
        (["backbone.groups=5"], "8 channels do not divide into 5 groups"),
        (["data.fields.x.shape=[2, 30]"], "a waveform of 30 samples is not a multiple of 4"),
        (["data.fields.x={shape: [32], medium: audio, rate: 8}"], "an audio_unet takes waveforms [channels, time]"),
        (["conditioning.time={kind: step_table, levels: 100}"], "needs features of the time"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("music", None, [*SIZES, *overrides])
    assert said in str(error.value), error.value
