"""Autoencoders agree with LlamaGen's tokenizer, diffusers' AutoencoderKL and the original names of latent diffusion."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_data import error, load
from random_weights import random_weights

import latentc_runtime
from latentc import api
from latentc.checkpoint import network_params, network_types
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec, variant_names
from latentc.weights import Array, materialise, open_weights, write_safetensors

FORWARD = 1e-5
BACKENDS = ("oracle", "torch", "onnx", "openvino")
TOKENIZER = [
    "data.shape=[3, 16, 16]",
    "backbone.multipliers=[1, 1]",
    "backbone.attention=[1]",
    "backbone.features=32",
    "backbone.bottleneck.size=32",
]


# ---- LlamaGen's tokenizer


@pytest.mark.parametrize("backend", BACKENDS)
def test_llamagen_tokenizer(backend: str, tmp_path: Path) -> None:
    numbers = load("llamagen_vq")
    file = saved(tmp_path, numbers.weights)

    def run(method: str, **inputs: np.ndarray) -> Any:
        return api.forward("vq_f16", file, inputs, backend, overrides=TOKENIZER, names="official", method=method)

    tokens = run("encode", x=numbers.inputs["x"])
    assert np.array_equal(tokens, numbers.outputs["out.enc.2.2"][None])
    assert error(run("decode", z=tokens), numbers.outputs["out.dec"]) < FORWARD
    assert error(run("forward", x=numbers.inputs["x"]), numbers.outputs["out.dec"]) < FORWARD
    numbers = load("llamagen_vq.decode_code")
    assert error(run("decode", z=numbers.inputs["code"]), numbers.outputs["out"]) < FORWARD


def test_llamagen_names_both_ways(tmp_path: Path) -> None:
    numbers = load("llamagen_vq")
    both_ways("vq_f16", TOKENIZER, "official", numbers.weights, tmp_path)


# ---- diffusers


PEERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "plain": ({}, []),
    "three-levels": (
        {"block_out_channels": (8, 8, 16), "layers_per_block": 2},
        ["backbone.multipliers=[1, 1, 2]", "backbone.blocks=2"],
    ),
    "no-attention": ({"mid_block_add_attention": False}, ["backbone.middle_attention=false"]),
    "no-quant-convs": (
        {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 6},
        ["backbone.quant_conv=false", "backbone.post_quant_conv=false", "backbone.bottleneck.channels=6"],
    ),
    "attention": ({"attends": (1,)}, ["backbone.attention=[1]"]),
    "grey": ({"in_channels": 1, "out_channels": 1}, ["data.shape=[1, 8, 12]"]),
}


def peer(changed: dict[str, Any]) -> Any:
    diffusers = pytest.importorskip("diffusers")
    config = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    config |= changed
    levels, attends = range(len(config["block_out_channels"])), config.pop("attends", ())
    down = tuple("AttnDownEncoderBlock2D" if i in attends else "DownEncoderBlock2D" for i in levels)
    up = tuple("AttnUpDecoderBlock2D" if i in attends else "UpDecoderBlock2D" for i in levels)[::-1]
    torch.manual_seed(0)
    kind = diffusers.VQModel if "num_vq_embeddings" in config else diffusers.AutoencoderKL
    model = kind(**config, down_block_types=down, up_block_types=up)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return model.eval()


def small(*overrides: str) -> list[str]:
    sizes = ["data.shape=[3, 8, 12]", "backbone.width=8", "backbone.multipliers=[1, 2]", "backbone.blocks=1"]
    return [*sizes, "backbone.groups=4", *overrides]


@pytest.mark.parametrize("case", PEERS)
def test_autoencoder_kl_of_diffusers(case: str, tmp_path: Path) -> None:
    model, overrides = peer(PEERS[case][0]), small(*PEERS[case][1])
    model.save_pretrained(tmp_path / "vae")
    channels = load_spec("sd_vae", overrides=overrides).data.shape[0]  # type: ignore[index]
    x = np.random.default_rng(0).standard_normal((2, channels, 8, 12)).astype(np.float32)
    for backend in BACKENDS:
        run = {"backend": backend, "overrides": overrides, "names": "diffusers"}
        moments = api.forward("sd_vae", tmp_path / "vae", {"x": x}, **run, method="encode")
        with torch.no_grad():
            posterior = model.encode(torch.from_numpy(x)).latent_dist
            assert error(moments, posterior.parameters.numpy()) < FORWARD
            z = posterior.mean
            assert (
                error(
                    api.forward("sd_vae", tmp_path / "vae", {"z": z.numpy()}, **run, method="decode"),
                    model.decode(z).sample.numpy(),
                )
                < FORWARD
            )
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    both_ways("sd_vae", overrides, "diffusers", state, tmp_path)


def test_vq_regularized_autoencoder_of_latent_diffusion(tmp_path: Path) -> None:
    """Latents are what the encoder gives; decoding takes the nearest rows of the codebook."""
    model = peer({"num_vq_embeddings": 16, "latent_channels": 3, "attends": (1,)})
    overrides = small("backbone.bottleneck.size=16", "backbone.attention=[1]")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    renamed = {original(name, 2): as_kernel(name, array) for name, array in state.items()}
    file = saved(tmp_path, renamed)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 12)).astype(np.float32)
    with torch.no_grad():
        z = model.encode(torch.from_numpy(x)).latents
        image = model.decode(z).sample
        assert error(model.decode(z, force_not_quantize=True).sample, image) > 1e-3  # the codebook matters
    for backend in BACKENDS:
        run = {"backend": backend, "overrides": overrides, "names": "original"}
        assert error(api.forward("vq_f4", file, {"x": x}, **run, method="encode"), z.numpy()) < FORWARD
        assert error(api.forward("vq_f4", file, {"z": z.numpy()}, **run, method="decode"), image.numpy()) < FORWARD
    for names, weights in (("diffusers", state), ("original", renamed)):
        both_ways("vq_f4", overrides, names, weights, tmp_path)


def test_names_of_old_diffusers_and_of_latent_diffusion(tmp_path: Path) -> None:
    """Files before 2023 have `query` and `proj_attn`; the authors count the levels of the decoder the other way."""
    overrides = small("backbone.multipliers=[1, 1, 2]")
    model = peer({"block_out_channels": (8, 8, 16)})
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 12)).astype(np.float32)
    expected = model(torch.from_numpy(x)).sample.detach().numpy()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for names, renamed in {
        "diffusers": {replaced(name, old): array for name, array in state.items()},
        "original": {original(name, 3): as_kernel(name, array) for name, array in state.items()},
    }.items():
        file = saved(tmp_path / names, renamed)
        made = api.forward("sd_vae", file, {"x": x}, overrides=overrides, names=names)
        assert error(made, expected) < FORWARD
    both_ways("sd_vae", overrides, "original", renamed, tmp_path)


def replaced(name: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        name = name.replace(old, new)
    return name


def original(name: str, levels: int) -> str:
    """The name of latent-diffusion's code for one of diffusers'."""
    parts = name.split(".")
    if len(parts) > 2 and parts[1] == "up_blocks":
        parts[2] = str(levels - 1 - int(parts[2]))
    words = {"down_blocks": "down", "up_blocks": "up", "resnets": "block", "conv_shortcut": "nin_shortcut"}
    words |= {"downsamplers.0": "downsample", "upsamplers.0": "upsample", "conv_norm_out": "norm_out"}
    words |= {
        "mid_block.block.0": "mid.block_1",
        "mid_block.block.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1",
    }
    words |= {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "attentions": "attn"}
    return replaced(".".join(parts), words)


def as_kernel(name: str, array: np.ndarray) -> np.ndarray:
    return array[:, :, None, None] if ".to_" in name and array.ndim == 2 else array


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_programs_reconstruct_and_encode(engine: str, tmp_path: Path) -> None:
    numbers = load("llamagen_vq")
    file = saved(tmp_path, numbers.weights)
    overrides = [*TOKENIZER, f"target.engine={engine}"]
    api.compile("vq_f16", file, tmp_path / "b", overrides=overrides, names="official", run=False)
    pipe = latentc_runtime.load(tmp_path / "b")
    given = {"x": numbers.inputs["x"]}
    assert error(pipe.sample(conditions=given), numbers.outputs["out.dec"]) < FORWARD
    assert np.array_equal(pipe.sample(conditions=given, program="encode")[0], numbers.outputs["out.enc.2.2"])


# ---- helpers


def saved(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "given.safetensors", {name: Array(array) for name, array in weights.items()})
    return folder / "given.safetensors"


def both_ways(spec: str, overrides: list[str], names: str, weights: dict[str, np.ndarray], folder: Path) -> None:
    """The weights in latentc's names, written again under theirs, are the same."""
    file, own, back = saved(folder, weights), folder / "own.safetensors", folder / "back.safetensors"
    api.convert_weights(spec, file, own, names, overrides=overrides)
    api.convert_weights(spec, own, back, to_names=names, overrides=overrides)
    found = {name: materialise(expr) for name, expr in open_weights(back).items()}
    assert set(found) == set(weights)
    assert all(np.array_equal(found[name], weights[name]) for name in found)


@pytest.mark.parametrize("spec", ["sd_vae", "vq_f16"])
def test_every_name_map_is_invertible_in_every_variant(spec: str) -> None:
    from latentc.checkpoint import symbols
    from latentc.weights import check_inverse

    for variant in (None, *variant_names(spec)):
        made = load_spec(spec, variant)
        lowered = lower(made)
        for names in made.weights:
            rules = made.weights[names]["main"]
            check_inverse(rules, network_types(lowered, "main"), symbols(lowered, lowered.networks["main"]))


@pytest.mark.parametrize("variational", [True, False])
def test_latents_with_further_noise(variational: bool) -> None:
    """Two independent normals in a row are one: their variances add up, and the penalty does not know the second."""
    rng, static = np.random.default_rng(0), {"latent": 3}
    h, noise = rng.standard_normal((2, 3 * (1 + variational), 4, 4)), rng.standard_normal((2, 3, 4, 4))
    found = []
    for added in (0.0, 1.5):
        bottleneck = Gaussian(kind="gaussian", channels=3, variational=variational, added_noise=added)
        ports = bottleneck.noise_ports(4, 4)
        assert len(ports) == (variational or added > 0)
        mb = ModuleBuilder()
        b = mb.function("f")
        given = [b.input("h", f32(B, *h.shape[1:])), *(b.input(port.name, port.type) for port in ports)]
        b.output(*bottleneck.regularized(b, given[0], given[1] if ports else None, static))
        mb.entries["f"] = b.finish()
        found.append(Interpreter(mb.finish(), {}).run("f", *(h, noise)[: len(given)]))
    (_, before), (z, penalty) = found
    mean, variance = (h[:, :3], np.exp(h[:, 3:])) if variational else (h, 0.0)
    np.testing.assert_allclose(z, mean + np.sqrt(variance + 1.5**2) * noise, rtol=1e-9)
    np.testing.assert_array_equal(penalty, before)


def test_givts_autoencoder_is_maskgits_around_normal_latents() -> None:
    """Encoder and decoder are those of `vq_maskgit`, which is compared with recorded results; the rest is in numpy."""
    sizes = ["backbone.width=32", "backbone.multipliers=[1, 1]", "backbone.blocks=1", "backbone.decoder_blocks=1"]
    lowered = lower(load_spec("givt_vae", "beta-1e-5", ["data.fields.x.shape=[3, 8, 8]", *sizes]))
    codes = [*sizes, "data.shape=[3, 8, 8]", "backbone.bottleneck.channels=16", "backbone.bottleneck.size=4"]
    tokens = lower(load_spec("vq_maskgit", None, codes))
    rng = np.random.default_rng(0)
    own, other = (network_params(each, each.networks["main"]) for each in (lowered, tokens))
    weights = random_weights(own, rng, 0.2)
    assert other.keys() - own.keys() == {"codebook.weight"} and not own.keys() - other.keys()
    differing = {name for name in own if own[name].type.shape != other[name].type.shape}
    assert differing == {"encoder.conv_out.weight", "encoder.conv_out.bias"}  # of the log variances as well
    x, noise = rng.uniform(0, 1, (2, 3, 8, 8)), rng.standard_normal((2, 16, 4, 4))
    oracle, codebook = Interpreter(lowered.module, weights), rng.standard_normal((4, 16))
    of_codes = {**weights, "codebook.weight": codebook, **{name: weights[name][:16] for name in differing}}
    with_codes = Interpreter(tokens.module, of_codes)
    (h,) = oracle.run("main.encode", x)
    mean, log_variance = h[:, :16], h[:, 16:]
    (nearest,) = with_codes.run("main.encode", x)
    distances = ((mean[:, None] - codebook[:, :, None, None]) ** 2).sum(2)
    np.testing.assert_array_equal(nearest.reshape(2, 4, 4), distances.argmin(1))
    z = codebook[nearest].reshape(2, 4, 4, 16).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(oracle.run("main.decode", z)[0], with_codes.run("main.decode", nearest)[0], rtol=1e-9)
    (made,) = oracle.run("main.decode", mean + np.exp(log_variance / 2) * noise)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum((1, 2, 3))
    wanted = ((made - x) ** 2).mean() + 1e-5 * kl.mean()
    whole = Interpreter(lowered.module, {f"main.{name}": array for name, array in weights.items()})
    (loss, *_) = whole.run("loss", *({"x": x, "noise": noise}[v.name] for v in lowered.module.entry("loss").inputs))
    np.testing.assert_allclose(loss, wanted, rtol=1e-9)


def test_starflows_decoder_learns_alone_from_noisy_latents() -> None:
    spec = load_spec("sd_vae", "noisy", ["backbone.width=32", "networks.discriminator.width=32"])
    frozen = spec.networks["main"].frozen_weights  # type: ignore[attr-defined]
    names = network_types(lowered := lower(spec), "main")
    assert {name.split(".")[0] for name in names if any(fnmatch(name, f) for f in frozen)} == {"encoder", "quant_conv"}
    assert {update.networks for update in lowered.updates} == {("main",), ("discriminator",)}


def test_a_level_may_double_the_resolution_without_a_convolution() -> None:
    """As one whose convolution changes nothing."""
    sizes = ["data.shape=[3, 4, 4]", "backbone.width=4", "backbone.groups=2", "backbone.blocks=1"]
    sizes += [
        "backbone.multipliers=[1, 2]",
        "backbone.attention=[]",
        "backbone.features=4",
        "backbone.bottleneck.size=8",
    ]
    plain, own = (
        lower(load_spec("vq_f16", None, [*sizes, f"backbone.upsampling={how}"])) for how in ("nearest", "conv")
    )
    weights = random_weights(network_params(own, own.networks["main"]), np.random.default_rng(0), 0.3)
    weights["decoder.levels.0.up.weight"] = np.eye(8)[:, :, None, None] * np.eye(3)[1][:, None] * np.eye(3)[1]
    weights["decoder.levels.0.up.bias"] = np.zeros(8)
    outs = []
    for lowered in (plain, own):
        outs.append(Interpreter(lowered.module, weights).run("main.decode", np.array([[1, 5, 0, 3]]))[0])
    assert "decoder.levels.0.up.weight" not in network_params(plain, plain.networks["main"])
    assert error(*outs) < FORWARD
