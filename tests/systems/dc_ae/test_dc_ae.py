"""DC-AE's sizes that do not fit are refused, its shortcuts hold no weights, and it is a first stage of a denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.dc_ae import parts

TINY = ["data.shape=[3, 8, 8]", "backbone.widths=[8, 16]", "backbone.blocks=[1, 1]", "backbone.decoder_blocks=[1, 1]"]
TINY += ["backbone.attention=1", "backbone.head_width=4", "backbone.channels=4", "backbone.batch_normed=0"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.blocks=[1, 1, 1]"], "3 `blocks` for 2 levels"),
        (["backbone.blocks=[1, 0]"], "only the first level may have no blocks"),
        (["backbone.blocks=[0, 1]"], "in encoder and decoder, or in neither"),
        (["backbone.widths=[6, 16]"], "do not divide into squares"),
        (["backbone.widths=[8, 24]"], "not a multiple of the 24"),
        (["backbone.head_width=5"], "heads of 5 channels do not divide 16"),
        (["backbone.channels=5"], "not a multiple of 5 latent ones"),
        (["backbone.scales=[2]"], "it must be odd"),
        (["backbone.batch_normed=2"], "blocks with attention have no batch norms"),
        (["data.shape=[3, 9, 9]"], "multiples of 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("dc_ae", overrides=[*TINY, *overrides])


def test_pixels_move_into_channels_as_in_pytorch() -> None:
    """Squares of pixels as channels and back; means and copies of channels (equations 1 and 2 of the paper)."""
    mb = ModuleBuilder()
    b = mb.function("moved")
    x = b.input("x", f32(2, 4, 4, 6))
    channels = parts.unshuffled(b, x)
    b.output(channels, parts.shuffled(b, x), parts.averaged(b, channels, 8), parts.repeated(b, x, 8))
    mb.entries["moved"] = b.finish("Moves pixels.")
    given = np.random.default_rng(0).standard_normal((2, 4, 4, 6)).astype(np.float32)
    made = Interpreter(mb.finish(), {}).run("moved", given)
    x = torch.from_numpy(given)
    apart = F.pixel_unshuffle(x, 2)
    wanted = apart, F.pixel_shuffle(x, 2), apart.unflatten(1, (8, 2)).mean(2), x.repeat_interleave(2, dim=1)
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-6)


def test_samples_of_its_latents_are_images() -> None:
    stage = "{spec: dc_ae, scale: 0.3189, names: diffusers, weights: dc_ae.safetensors}"
    spec = load_spec("dit", "S/2", overrides=["data.shape=[32, 8, 8]", f"data.first_stage={stage}"])
    lowered = lower(spec)
    (sample,) = (program for program in lowered.programs if program.name == "sample")
    assert lowered.module.entry(sample.entry).outputs[0].type.shape[1:] == (3, 256, 256)
