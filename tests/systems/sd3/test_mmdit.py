"""MM-DiT and FLUX beside diffusers: files of the authors, steps, labels as the second stream, and what is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from random_weights import weights_of

from latentc.checkpoint import computed, network_params, symbols, write_weights
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, export_weights, read_safetensors
from latentc.weights.read import materialise

TEXTS = [f"data.fields.{name}.shape={shape}" for name, shape in (("caption", [5, 8]), ("pooled", [6]))]
SD3 = [
    *(*TEXTS, "data.fields.caption_null.shape=[5, 8]", "data.fields.pooled_null.shape=[6]", "data.shape=[4, 8, 8]"),
    *("backbone.width=16", "backbone.depth=4", "backbone.dual=2", "backbone.heads=2"),
    *("backbone.positions.side=6", "backbone.positions.extent=4"),
]
FLUX = [
    *(*TEXTS, "data.shape=[4, 8, 8]", "backbone.width=16", "backbone.depth=2", "backbone.single=2"),
    *("backbone.heads=2", "backbone.positions.axes=[2, 4, 2]"),
]


def converters() -> dict[str, Any]:
    """diffusers' conversions of official files; FLUX's has the published width in its text."""
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert "inner_dim = 3072" in source
    scope = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 16"), scope)
    return {
        "sd3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
        "flux": scope["convert_flux_transformer_checkpoint_to_diffusers"],
    }


@pytest.mark.parametrize(("system", "variant", "sizes"), [("sd3", "3.5-medium", SD3), ("flux", "dev", FLUX)])
def test_official_files_are_those_that_diffusers_converts(
    system: str, variant: str, sizes: list[str], tmp_path: Path
) -> None:
    spec = load_spec(system, variant, sizes)
    low, files = lower(spec), []
    drawn = {n.removeprefix("main."): Array(a.astype(np.float32)) for n, a in weights_of(low, 0.2).items()}
    for names in ("official", "diffusers"):
        files.append(tmp_path / f"{names}.safetensors")
        write_weights(spec, low, {"main": drawn}, files[-1], names)
    official, expected = map(read_safetensors, files)
    tensors = {name: torch.from_numpy(np.array(materialise(one))) for name, one in official.items()}
    converted = converters()[system](tensors)
    assert tensors == {} and converted.keys() == expected.keys()
    for name, one in expected.items():
        assert np.array_equal(converted[name].numpy(), materialise(one)), name


@pytest.mark.parametrize("lowest", ["shifted", "unshifted"])
def test_steps_are_those_of_the_scheduler(lowest: str) -> None:
    spacing = f"sampler.spacing={{kind: shifted_timesteps, shift: 3.0, lowest: {lowest}}}"
    spec = load_spec("digits_sd3", overrides=[spacing, "sampler.steps=7"])
    times = spec.sampler.table(spec.objective.parameterization()).columns["t"]
    dynamic = {"use_dynamic_shifting": True} if lowest == "unshifted" else {"shift": 3.0}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**dynamic)
    scheduler.set_timesteps(7, **({"mu": np.log(3.0)} if dynamic else {}))
    assert np.abs(times - scheduler.timesteps.numpy() / 1000).max() < 1e-6


NETS = {
    "sd3": lambda: diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    ),
    "flux": lambda: diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        axes_dims_rope=(2, 4, 2),
    ),
}


@pytest.mark.parametrize("system", NETS)
def test_a_label_is_the_vector_and_the_one_token(system: str) -> None:
    """The prediction is that of diffusers' network for this vector and token, without its layers for texts."""
    overrides = ["backbone.width=16", "backbone.depth=2", "backbone.heads=2"]
    overrides += ["backbone.single=1", "backbone.positions.axes=[2, 4, 2]"] * (system == "flux")
    low = lower(load_spec(f"digits_{system}", overrides=overrides))
    network, weights = low.networks["main"], weights_of(low, 0.2)
    x, t, y = np.random.default_rng(0).standard_normal((2, 1, 8, 8)), np.array([0.03, 0.125]), np.array([3, 10])
    (out,) = Interpreter(low.module, weights).run(network.methods["forward"].function, x, t, y, prefix="main")

    told = torch.from_numpy(weights.pop("main.y_embedder.weight")[y])
    rules, kept = load_spec(system).weights["diffusers"]["main"], network_params(low, network)
    ours = {n: Array(a) for n, a in ((n.removeprefix("main."), a) for n, a in weights.items()) if not computed(kept[n])}
    theirs = {
        n: torch.from_numpy(np.array(materialise(e)))
        for n, e in export_weights(ours, rules, symbols(low, network)).items()
    }
    net = NETS[system]().double()
    net.time_text_embed.text_embedder = net.context_embedder = torch.nn.Identity()
    missing, unexpected = net.load_state_dict(theirs, strict=False)
    assert set(missing) <= {"pos_embed.pos_embed"} and unexpected == []
    given = {"encoder_hidden_states": told[:, None], "pooled_projections": told}
    patches = torch.from_numpy(x)
    if system == "flux":
        patches = diffusers.FluxPipeline._pack_latents(patches, 2, 1, 8, 8)
        places = diffusers.FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float64)
        given |= {"img_ids": places, "txt_ids": torch.zeros(1, 3), "timestep": torch.from_numpy(t)}
    else:
        given["timestep"] = torch.from_numpy(1000 * t)
    with torch.no_grad():
        expected = net(hidden_states=patches, **given).sample
    if system == "flux":
        expected = diffusers.FluxPipeline._unpack_latents(expected, 8, 8, 1)
    assert np.abs(out - expected.numpy()).max() < 1e-5 * np.abs(out).max()


REFUSED = {
    "dual": ("digits_sd3", ["backbone.dual=4"], "`dual` (4) is not below `depth` (4)"),
    "heads": ("digits_sd3", ["backbone.heads=5"], "5 heads do not divide a width of 48"),
    "table": ("digits_sd3", ["backbone.positions.side=3"], "the table of positions has 3 rows, but there are 4"),
    "no condition": ("digits_sd3", ["conditioning.class=null", "sampler.guidance=null"], "needs a condition"),
    "added positions": ("digits_flux", ["backbone.positions={kind: sincos_2d}"], "are added"),
    "axes": ("digits_flux", ["backbone.positions.axes=[4, 4, 2]"], "whose sum is the 12 of a head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit(case: str) -> None:
    system, overrides, message = REFUSED[case]
    with pytest.raises(DiagnosticError) as error:
        lower(load_spec(system, overrides=overrides))
    assert message in str(error.value)
