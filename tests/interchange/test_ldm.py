"""The U-Net of latent diffusion, which attends to a sequence: of features, of one class, of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_export_diffusers import same_weights, settings
from tiny_model import write_random_weights
from tiny_pipelines import images_of, ours, texts_to_images, unet_condition

from latentc import api
from latentc.diagnostics import DiagnosticError

SMALL = """
latentc: 1
name: small
extends: ldm
data: {kind: npz, path: x.npz, classes: 5, shape: [4, 4, 4]}
backbone: {width: 8, multipliers: [1, 2], blocks: 1, attention: [1], block: {groups: 4}}
conditioning: {time: {frequencies: 8}, class: {width: 12}}
"""
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"use_linear_projection": True, "transformer_layers_per_block": 2, "freq_shift": 1},
    "heads": {
        "attention_head_dim": (2, 4),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "downsample_padding": 0,
        "resnet_time_scale_shift": "scale_shift",
    },
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_u_net_that_attends_to_a_sequence_there_and_back(kind: str, tmp_path: Path) -> None:
    net = unet_condition(**SHAPES[kind])
    net.save_pretrained(tmp_path / "unet")
    found = api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")
    chance = np.random.default_rng(0)
    x, t = chance.standard_normal((2, 4, 4, 4)).astype(np.float32), [3.0, 700.0]
    context = chance.standard_normal((2, 5, 12)).astype(np.float32)
    lengths = [f"data.fields.{name}.shape=[5, 12]" for name in ("context", "context_null")]
    inputs = {"x": x, "t": np.array(t, np.float32), "context": context}
    made = api.forward(found.spec, None, inputs, overrides=lengths)
    wanted = net(torch.from_numpy(x), torch.tensor(t), torch.from_numpy(context)).sample.detach().numpy()
    assert np.abs(made - wanted).max() < 1e-5 * np.abs(wanted).max()
    notes = api.export_diffusers(found.spec, tmp_path / "after").notes
    after = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "after", subfolder="unet")
    back = net.state_dict()
    if kind == "linear":  # the same layers, as convolutions
        back = {k: v[..., None, None] if ".proj_" in k and v.ndim == 2 else v for k, v in back.items()}
    assert all(torch.equal(back[name], tensor) for name, tensor in after.state_dict().items())
    lost = {"use_linear_projection"}
    assert {k: v for k, v in settings(net).items() if k not in lost} == {
        k: v for k, v in settings(after).items() if k not in lost
    }
    assert notes


def test_texts_become_the_same_images(tmp_path: Path) -> None:
    """The program encodes tokens; guidance contrasts with a text without words, padded as the pipeline pads it."""
    pipe = texts_to_images(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    assert found.notes == ("requests pass context as tokens of tokenizer, 77 with its padding",)
    assert "kind: padded_text" in found.spec.read_text()
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=3"])
    texts = ["a red fox", "blue house"]
    expected = images_of(pipe, texts, num_inference_steps=3, guidance_scale=3.0)
    assert expected.std() > 0.02
    tokens = pipe.tokenizer(texts, padding="max_length", max_length=77, return_tensors="np").input_ids
    made = ours(tmp_path / "bundle", None, (4, 4, 4), 2, {"context": tokens}, 3.0)
    assert np.abs(made - expected).max() < 1e-4
    with pytest.raises(DiagnosticError, match="takes numbers, not the text"):
        api.sample(tmp_path / "bundle", given={"context": texts})
    written = api.export_diffusers(found.spec, tmp_path / "after")
    assert written.pipeline is None and "no LDMTextToImagePipeline, whose text encoders" in "".join(written.notes)
    same_weights(pipe.unet, diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "after", subfolder="unet"))


def test_without_the_text_encoder_requests_pass_features(tmp_path: Path) -> None:
    """Those of the texts, and those of the text without words."""
    pipe = texts_to_images(tmp_path / "theirs")
    index = tmp_path / "theirs/model_index.json"
    kept = {k: v for k, v in json.loads(index.read_text()).items() if k not in ("bert", "tokenizer")}
    index.write_text(json.dumps(kept))
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    assert found.notes == ("without bert, requests pass context and context_null: features of texts",)
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=2"])
    given = {}
    for name, text in {"context": "red house", "context_null": ""}.items():
        tokens = pipe.tokenizer([text], padding="max_length", max_length=77, return_tensors="pt").input_ids
        given[name] = pipe.bert(tokens)[0].detach().numpy()
    expected = images_of(pipe, ["red house"], num_inference_steps=2, guidance_scale=2.0)
    assert np.abs(ours(tmp_path / "bundle", None, (4, 4, 4), 1, given, 2.0) - expected).max() < 1e-4


def test_a_class_is_one_token_of_its_table(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(SMALL)
    write_random_weights(own, tmp_path / "w.safetensors", 0.1)
    made = api.export_diffusers(own, tmp_path / "out", tmp_path / "w.safetensors")
    assert "class_embedder.weight is left out: the network is given what it embeds" in made.notes
    net = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet")
    chance = np.random.default_rng(0)
    x, t, y = chance.standard_normal((2, 4, 4, 4)).astype(np.float32), [3.0, 700.0], [4, 5]  # the last one is no class
    inputs = {"x": x, "t": np.array(t, np.float32), "y": np.array(y)}
    expected = api.forward(own, tmp_path / "w.safetensors", inputs)
    rows = load_file(tmp_path / "w.safetensors")["class_embedder.weight"][y]
    found = net(torch.from_numpy(x), torch.tensor(t), rows[:, None]).sample.detach().numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
