"""The commands that an import prints run as they are printed, whatever the class."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from tiny_pipelines import dit, pipeline, unet, vae, vq

from latentc import api
from latentc.cli import run

ONE_LEVEL = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


def unconditional(kind: Any, scheduler: Any) -> Callable[[Path], None]:
    """Saves a pipeline of a U-Net without conditions."""
    return lambda folder: kind(unet(out_channels=3, **ONE_LEVEL), scheduler).save_pretrained(folder)


PIXELS: dict[str, Any] = {"copies": False, "in_channels": 3, "out_channels": 6, "sample_size": 8}
SAVED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "DDPMPipeline": (unconditional(diffusers.DDPMPipeline, diffusers.DDPMScheduler()), "--count 8"),
    "DDIMPipeline": (unconditional(diffusers.DDIMPipeline, diffusers.DDIMScheduler()), "--count 8"),
    "DiTPipeline": (pipeline, "--class 0-7"),
    "UNet2DModel": (lambda folder: unet(**ONE_LEVEL).save_pretrained(folder), "--count 8"),
    "UNet2DModel of classes": (
        lambda folder: unet(num_class_embeds=5, **ONE_LEVEL).save_pretrained(folder),
        "--class 0-4",
    ),
    "DiTTransformer2DModel of pixels": (lambda folder: dit(**PIXELS).save_pretrained(folder), "--class 0-7"),
    "AutoencoderKL": (lambda folder: vae().save_pretrained(folder), "--given x=FILE"),
    "VQModel": (lambda folder: vq().save_pretrained(folder), "--given x=FILE"),
}


@pytest.mark.parametrize("kind", SAVED)
def test_they_work(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save, asked = SAVED[kind]
    save(Path("theirs"))
    commands = api.import_checkpoint(Path("theirs"), Path("own")).commands
    assert [command.split()[1] for command in commands] == ["show", "compile", "sample", "verify"]
    assert f" {asked} -o samples" in commands[2]
    np.save("FILE", np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    Path("FILE.npy").rename("FILE")
    for command in commands:
        few = ["--set", "sampler.steps=2"] if " compile " in command and "FILE" not in asked else []
        assert run([*shlex.split(command)[1:], *few]) == 0, command
    assert len(list(Path("samples").glob("*.png"))) == (5 if asked.endswith("4") else 8)


def test_a_transformer_of_latents_asks_for_its_autoencoder(tmp_path: Path) -> None:
    dit().save_pretrained(tmp_path / "theirs")
    commands = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own").commands
    assert " -w first_stage=FILE " in commands[1] and " --class 0-7 " in commands[2]
