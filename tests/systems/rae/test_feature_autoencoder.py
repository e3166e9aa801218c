"""RAE's first stage: recorded results of the authors' decoder, and features of DINOv2 by the package they call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_data import Numbers, error, excess, load

from latentc import api
from latentc.components.layers import MEAN, STD
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

transformers = pytest.importorskip("transformers")

SPEC = "rae_autoencoder"
TINY = [
    "data.shape=[3, 16, 16]",
    *(f"backbone.{field}" for field in ("pretrained=null", "fresh_weights=[]", "width=48", "depth=2", "patch=4")),
    "backbone.vision={width: 8, depth: 2, heads: 2, patch: 3, registers: 2, side: 5, image: 12, levels: [1]}",
    "backbone.block.mixer.heads=3",
    "backbone.block.feed_forward.ratio=2",
]
PUBLISHED = {f"attention.{short}_proj": f"attention.attention.{name}" for short, name in
             (("q", "query"), ("k", "key"), ("v", "value"))}  # fmt: skip
PUBLISHED["attention.o_proj"] = "attention.output.dense"
"""Names in the package's modules and in published files."""


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return load("rae.decoder")


@pytest.fixture(scope="module")
def encoder() -> Any:
    """DINOv2 with registers, small and random, without the last scale and shift, in float64."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 15, "patch_size": 3}
    model = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=2, layer_norm_eps=1e-6)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.layernorm.weight.fill_(1)
        model.layernorm.bias.zero_()
    return model.double().eval()


@pytest.fixture(scope="module")
def file(numbers: Numbers, encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' state dict, with the statistics of the features; the decoder's input is the latents themselves."""
    theirs = {f"decoder.{name}": array for name, array in numbers.weights.items()}
    for name, tensor in encoder.state_dict().items():
        if not name.startswith("layernorm."):
            for own, published in PUBLISHED.items():
                name = name.replace(own, published)
            theirs[f"encoder.encoder.{name}"] = tensor.float().numpy()
    theirs["latent_mean"] = np.zeros((8, 4, 4), np.float32)
    theirs["latent_var"] = np.full((8, 4, 4), 1 - 1e-5, np.float32)
    folder = tmp_path_factory.mktemp("rae")
    write_safetensors(folder / "theirs.safetensors", {name: _held(array) for name, array in theirs.items()})
    api.convert_weights(SPEC, folder / "theirs.safetensors", folder / "own.safetensors", "official", overrides=TINY)
    return folder / "own.safetensors"


def _held(array: np.ndarray) -> Any:
    return Array(np.ascontiguousarray(array))


def run(file: Path, inputs: dict[str, np.ndarray], method: str, backend: str = "oracle") -> np.ndarray:
    out = api.run_method(SPEC, file, inputs, backend, method=method, overrides=TINY)
    return np.asarray(next(iter(out.values())))


def test_latents_are_decoded_as_by_the_authors(numbers: Numbers, file: Path) -> None:
    mean, deviation = (np.array(values)[:, None, None] for values in (MEAN, STD))
    found = run(file, {"z": numbers.inputs["z"]}, "decode")
    assert excess(((found + 1) / 2 - mean) / deviation, numbers.outputs["out"], "rae.decoder") < 4


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx"])
def test_features_are_those_of_the_vision_model(file: Path, encoder: Any, backend: str) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    pixels = torch.nn.functional.interpolate((torch.from_numpy(x).double() + 1) / 2, size=12, mode="bicubic")
    mean, deviation = (torch.tensor(values).double().reshape(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        features = encoder((pixels - mean) / deviation).last_hidden_state[:, 3:]
    wanted = features.transpose(1, 2).reshape(2, 8, 4, 4).numpy()
    found = run(file, {"x": x}, "encode", backend)
    assert error(found[:, :8], wanted) < (1e-6 if backend == "oracle" else 1e-5) and (found[:, 8:] == -30).all()


def test_training_decodes_features_with_noise() -> None:
    lowered = lower(load_spec(SPEC, None, TINY))
    assert [draw.name for draw in lowered.updates[0].draws] == ["noise", "level"]
    assert not lower(load_spec(SPEC, None, [*TINY, "backbone.noise=0"])).updates[0].draws


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.shape=[1, 16, 16]", "square images of 3 channels"),
        ("backbone.vision.levels=[0, 1]", "the features of one block"),
        ("backbone.patch=5", "no images of a side of 16"),
        ("backbone.vision.image=13", "do not tile a side of 13"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec(SPEC, None, [*TINY, change])
