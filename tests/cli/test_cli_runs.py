"""Commands that run parts of a spec on given arrays: methods of networks, losses, and samples by every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import write_random_weights

RNG = np.random.default_rng(5)


def errors(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert list(a) == list(b)
    return max(float(np.abs(a[k] - b[k]).max() / (np.abs(a[k]).max() + 1e-12)) for k in a)


def read(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_any_method_with_all_its_outputs(latentc: Any, backend: str) -> None:
    Path("spec.yaml").write_text(
        "latentc: 1\nname: tiny-tokens\nextends: digits_llamagen\n"
        "backbone: {width: 16, depth: 2, block: {mixer: {heads: 2}}}\n"
    )
    write_random_weights(Path("spec.yaml"), Path("weights.safetensors"), 0.2)
    np.savez("y.npz", y=np.array([3, 10]))
    line = ["forward", "spec.yaml", "-w", "weights.safetensors", "-i", "y.npz", "--method", "prefill"]
    for name in ("oracle", backend):
        done = latentc(*line, "--backend", name, "-o", f"{name}.npz")
        assert done.status == 0, done.err
    expected, found = read("oracle.npz"), read(f"{backend}.npz")
    assert len(expected) == 5 and expected["logits"].shape == (2, 17)
    assert errors(expected, found) < 1e-5
    refused = latentc(*line[:-1], "invert", "-o", "out.npz")
    assert refused.status == 1 and "its methods are forward, prefill, decode" in refused.err


def test_a_loss_is_the_same_by_oracle_and_torch(latentc: Any, tiny: Any) -> None:
    x, noise = RNG.standard_normal((2, 4, 1, 8, 8)).astype(np.float32)
    given = {"x": x, "y": np.arange(4), "t": np.array([0, 10, 500, 999]), "noise": noise, "drop": np.full(4, 0.05)}
    np.savez("given.npz", **given)
    line = ["loss", str(tiny.spec), "-w", str(tiny.weights), "-i", "given.npz"]
    by_oracle = json.loads(latentc(*line, "--json").out)
    by_torch = json.loads(latentc(*line, "--backend", "torch", "-o", "loss.npz", "--json").out)
    assert list(by_oracle) == ["loss"] and by_torch["loss"] == pytest.approx(by_oracle["loss"], rel=1e-5)
    assert float(read("loss.npz")["loss"]) == pytest.approx(by_torch["loss"])
    np.savez("fewer.npz", **{k: v for k, v in given.items() if k != "noise"})
    refused = latentc(*line[:-1], "fewer.npz")
    assert refused.status == 1 and "the input `noise` is missing" in refused.err


def test_one_of_several_losses(latentc: Any) -> None:
    Path("spec.yaml").write_text(
        "latentc: 1\nname: tiny-gan\nextends: digits_biggan\n"
        "networks: {main: {width: 8}, discriminator: {width: 8}}\ntrain: {ema: null}\n"
    )
    write_random_weights(Path("spec.yaml"), Path("weights.safetensors"), 0.2)
    np.savez("given.npz", z=RNG.standard_normal((4, 32)), labels=np.arange(4))
    line = ["loss", "spec.yaml", "-w", "weights.safetensors", "-i", "given.npz", "--json"]
    found = [
        json.loads(latentc(*line, "--update", "generator", "--backend", backend).out)["loss"]
        for backend in ("oracle", "torch")
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    refused = latentc(*line, "--update", "generatr")
    assert refused.status == 1 and "did you mean `generator`?" in refused.err


def test_samples_by_every_backend(latentc: Any, tiny: Any) -> None:
    noise = RNG.standard_normal((3, 1, 8, 8)).astype(np.float32)
    np.savez("noise.npz", x=noise)
    line = ["sample", str(tiny.bundle), "--class", "1,5,7", "--noise", "noise.npz"]
    for backend in ("engine", "oracle", "torch"):
        done = latentc(*line, "--backend", backend, "--raw", f"{backend}.npz", "-o", f"{backend}.png")
        assert done.status == 0, done.err
    expected = read("oracle.npz")
    assert expected["samples"].shape == (3, 1, 8, 8)
    assert errors(expected, read("engine.npz")) < 1e-4 and errors(expected, read("torch.npz")) < 1e-4
