"""Settings of UNet2DModel become those of `adm`, and come back; its classes are embedded and given to the sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import ours, same_weights, settings, unet

from latentc import api
from latentc.spec import load_spec

BY_CONVOLUTIONS = {"downsample_type": "conv", "upsample_type": "conv"}
OPTIONS: dict[str, dict[str, Any]] = {
    "classes": {"num_class_embeds": 5},
    "data in 0 to 1": {"center_input_sample": True},
    "not square": {"sample_size": (8, 16)},
    "one head": {"attention_head_dim": None, "block_out_channels": (8, 16, 16), "layers_per_block": 2}
    | {"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")}
    | {"up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")},
    "swish": {"act_fn": "swish"},
    "by blocks alone": {**BY_CONVOLUTIONS, "down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D")}
    | {"up_block_types": ("ResnetUpsampleBlock2D", "UpBlock2D")},
    "time": {"time_embedding_dim": 16, "freq_shift": 1},
    "as DDPM's": {**BY_CONVOLUTIONS, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False}
    | {"attention_head_dim": None, "resnet_time_scale_shift": "default", "norm_eps": 1e-6, "attn_norm_num_groups": None}
    | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
}
WRITTEN = {  # what has another name for the same
    "swish": {"act_fn"},
    "as DDPM's": {"attn_norm_num_groups"},
    "by blocks alone": {"downsample_type", "upsample_type", "down_block_types", "up_block_types"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_there_and_back(option: str, tmp_path: Path) -> None:
    net = unet(**OPTIONS[option])
    net.save_pretrained(tmp_path / "unet")
    api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")
    spec = tmp_path / "imported/spec.yaml"
    x = np.random.default_rng(0).standard_normal((2, *load_spec(spec).data.shape)).astype(np.float32)
    t, y = [3.0, 700.0], [0, 4]
    labels = {"y": np.array(y)} if "num_class_embeds" in OPTIONS[option] else {}
    made = api.forward(spec, None, {"x": x, "t": np.array(t, np.float32), **labels})
    given = [torch.from_numpy(x), torch.tensor(t), *map(torch.from_numpy, labels.values())]
    wanted = net(*given).sample.detach().numpy()
    assert np.abs(made - wanted).max() < 1e-5 * np.abs(wanted).max()
    api.export_diffusers(spec, tmp_path / "back")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "back", subfolder="unet")
    same_weights(net, again)
    assert np.array_equal(again(*given).sample.detach().numpy(), wanted)
    before, after = settings(net), settings(again)
    assert {k for k in before if before[k] != after[k]} <= WRITTEN.get(option, set())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fourier": ({"time_embedding_type": "fourier"}, "only sinusoids of the timestep"),
    "classes as times": ({"class_embed_type": "timestep"}, "a class is embedded by a table"),
    "middle": ({"add_attention": False}, "the middle always attends"),
    "activation": ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
    "one way": ({"up_block_types": ("ResnetUpsampleBlock2D",) * 2}, "the levels that attend are others on the way up"),
    "both joints": ({"upsample_type": "conv"}, "some levels are joined by convolutions and some by residual blocks"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_has_no_equivalent(option: str, tmp_path: Path) -> None:
    changed, reason = REFUSED[option]
    unet(**changed).save_pretrained(tmp_path / "unet")
    with pytest.raises(Exception, match=reason):
        api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")


@torch.no_grad()
def test_images_of_a_class_conditional_u_net(tmp_path: Path) -> None:
    """DDIMPipeline has no argument for the class, which is noted; its scheduler's steps with one give our images."""
    net, scheduler = unet(num_class_embeds=5, out_channels=3), diffusers.DDIMScheduler()
    diffusers.DDIMPipeline(net, scheduler).save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    assert found.notes == ("DDIMPipeline does not pass a class to its network, which takes one",)
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=5"])
    scheduler.set_timesteps(5)
    classes = [0, 4, 2]
    x = torch.randn((3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t, torch.tensor(classes)).sample, t, x).prev_sample
    images = (x / 2 + 0.5).clamp(0, 1).numpy()
    assert images.std() > 0.05
    assert np.abs(ours(tmp_path / "bundle", classes, (3, 8, 8)) - images).max() < 1e-4


def test_the_last_class_as_the_null_class(tmp_path: Path) -> None:
    """The configuration does not say so; overrides do, and the table comes back as it was."""
    net = unet(num_class_embeds=5)
    net.save_pretrained(tmp_path / "unet")
    api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")
    null = ["data.classes=4", "conditioning.class.dropout=0.1"]
    made = api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "back", overrides=null)
    assert "no DDPMPipeline, whose network takes no condition: this one takes class" in made.notes
    same_weights(net, diffusers.UNet2DModel.from_pretrained(tmp_path / "back", subfolder="unet"))
