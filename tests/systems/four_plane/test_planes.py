"""An autoencoder whose latents are planes, against PyTorch's own layers and means written out one by one.

Then what a transformer over planes is told of known frames.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_weights import random_weights
from torch.nn import functional as F

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    "data.fields.x.shape=[1, 8, 6, 6]",
    *(f"backbone.{size}" for size in ("width=8", "depth=1", "decoder_depth=1", "patch=2", "frames=2")),
    *("backbone.block.mixer.heads=2", "backbone.bottleneck.channels=3"),
]

TRANSFORMER = ["data.shape=[9, 42]", *(f"backbone.{size}" for size in ("width=8", "depth=1", "block.mixer.heads=2"))]
FRAMES = [
    *TRANSFORMER,
    "data.shape=[3, 42]",
    *(f"networks.encoder.{size}" for size in ("width=8", "depth=1", "decoder_depth=1", "patch=2", "frames=2")),
    *("networks.encoder.filled_to=8", "networks.encoder.block.mixer.heads=2", "networks.encoder.bottleneck.channels=3"),
]


def block(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True, dtype=torch.float64
    )
    names = {"attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj.", "mlp.fc1": "linear1."}
    names |= {"mlp.fc2": "linear2.", "norm1": "norm1.", "norm2": "norm2."}
    own = {n.removeprefix(f"{name}."): t for n, t in w.items() if n.startswith(f"{name}.")}
    layer.load_state_dict({names[n.rpartition(".")[0]] + n.rpartition(".")[2]: t for n, t in own.items()})
    return layer.eval()(x)


def latents(w: dict[str, torch.Tensor], x: torch.Tensor, planes: int, by: str) -> torch.Tensor:
    """Mean and log-variance of every vector of every plane: of the frames' halves, then of rows, then of columns."""
    tokens = F.conv3d(x, w["x_embedder.weight"], w["x_embedder.bias"], stride=2).flatten(2).transpose(1, 2)
    tokens = tokens + positions(w, "patches")
    volume = F.layer_norm(
        block(w, "encoder_blocks.0", tokens), (8,), w["encoder_norm.weight"], w["encoder_norm.bias"], 1e-6
    ).unflatten(1, (4, 3, 3))
    parts = [volume] if planes == 3 else [volume[:, :2], volume[:, 2:]]
    made = [*(part.mean(1) for part in parts), volume.mean(2), volume.mean(3)]
    if by == "projection":
        names = ["of_frames"] if planes == 3 else ["of_first_half", "of_second_half"]
        flat = [*(part.movedim(1, 3) for part in parts), volume.movedim(2, 3), volume]
        layers = [(f"planes.{name}.weight", f"planes.{name}.bias") for name in (*names, "of_rows", "of_columns")]
        made = [F.linear(f.flatten(3), w[a], w[c]) for f, (a, c) in zip(flat, layers, strict=True)]
    vectors = torch.cat([plane.flatten(1, 2) for plane in made], 1)
    return F.linear(vectors, w["to_latents.weight"], w["to_latents.bias"]).transpose(1, 2)


def positions(w: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return (w[f"{name}_time"] + w[f"{name}_cells"][:, None]).flatten(1, 2)


def video(w: dict[str, torch.Tensor], z: torch.Tensor, planes: int, joined: bool) -> torch.Tensor:
    """Of every patch: the vectors of its place in each plane, joined or summed, and what a decoder makes of them."""
    cells = z.transpose(1, 2).split([9] * (planes - 2) + [12, 12], dim=1)
    told = []
    for f in range(4):
        for h in range(3):
            for c in range(3):
                own = [*(plane[:, 3 * h + c] for plane in cells[:-2]), cells[-2][:, 3 * f + c], cells[-1][:, 3 * f + h]]
                told.append(torch.cat(own, -1) if joined else torch.stack(own).sum(0))
    x = F.linear(torch.stack(told, 1), w["from_latents.weight"], w["from_latents.bias"]) + positions(w, "outputs")
    x = F.layer_norm(block(w, "decoder_blocks.0", x), (8,), w["output_norm.weight"], w["output_norm.bias"], 1e-6)
    patches = F.linear(x, w["output.weight"], w["output.bias"]).reshape(-1, 4, 3, 3, 2, 2, 2)
    return patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, 8, 6, 6)


@pytest.mark.parametrize(
    ("planes", "how", "by"),
    [(4, "joined", "mean"), (3, "joined", "mean"), (4, "summed", "projection"), (3, "joined", "projection")],
)
def test_planes_are_means_and_patches_are_told_those_of_their_place(planes: int, how: str, by: str) -> None:
    options = (f"planes={planes}", f"planes_as={how}", f"planes_by={by}")
    lowered = lower(load_spec("four_plane_tokenizer", None, [*SIZES, *(f"backbone.{option}" for option in options)]))
    params = network_params(lowered, lowered.networks["main"])
    weights = random_weights(params, np.random.default_rng(0), 0.3)
    run = Interpreter(lowered.module, weights).run
    w = {name: torch.from_numpy(np.asarray(a, np.float64)) for name, a in weights.items()}
    x = np.random.default_rng(1).standard_normal((2, 1, 8, 6, 6))
    with torch.no_grad():
        codes = latents(w, torch.from_numpy(x), planes, by)
        assert codes.shape[2] == (42 if planes == 4 else 33)
        assert np.allclose(run("main.encode", x)[0], codes)
        mean, log_variance = codes.chunk(2, 1)
        noise = torch.from_numpy(np.random.default_rng(2).standard_normal(mean.shape))
        z = mean + torch.exp(log_variance / 2) * noise
        made, penalty = run("main.regularized", x, noise.numpy())
        assert np.allclose(made, video(w, z, planes, how == "joined"))
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, torch.exp(log_variance / 2)), torch.distributions.Normal(0.0, 1.0)
        )
        assert np.allclose(penalty, divergence.sum((1, 2)))


@pytest.mark.parametrize(
    ("variant", "given", "filled"),
    [
        ("prediction", 3, [0, 1, 2, 2, 2, 2, 2, 2]),
        ("interpolation", 2, [0, 0, 0, 0, 1, 1, 1, 1]),
        ("interpolation", 3, [0, 0, 1, 1, 1, 1, 2, 2]),
    ],
)
def test_planes_of_known_frames_are_channels_beside_the_state(variant: str, given: int, filled: list[int]) -> None:
    spec = load_spec("four_plane_frames", variant, [*FRAMES, f"data.fields.known.shape=[1, {given}, 6, 6]"])
    lowered, rng = lower(spec), np.random.default_rng(0)
    own = random_weights(network_params(lowered, lowered.networks["encoder"]), rng, 0.3)
    main = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.3)
    known = rng.standard_normal((2, 1, given, 6, 6))
    (planes,) = Interpreter(lowered.module, own).run("encoder.encode", known)
    whole = lower(load_spec("four_plane_tokenizer", None, SIZES))
    assert np.array_equal(planes, Interpreter(whole.module, own).run("main.encode", known[:, :, filled])[0])
    # The same network on a state of all these channels, of which the first three are those that are noisy.
    joint = lower(
        load_spec(
            "four_plane", None, [*TRANSFORMER, "data.classes=0", "conditioning.class=null", "sampler.guidance=null"]
        )
    )
    last = "final_layer.linear"
    for name in ("weight", "bias"):
        rows = main[f"{last}.{name}"]
        main[f"all.{name}"] = np.concatenate([rows, np.zeros((6, *rows.shape[1:]), rows.dtype)])
    all_weights = {k: main[k.replace(last, "all")] for k in main if not k.startswith("all")}
    x, t = rng.standard_normal((2, 3, 42)), np.array([3.0, 700.0])
    (made,) = Interpreter(lowered.module, main).run("main.forward", x, t, planes)
    (expected,) = Interpreter(joint.module, all_weights).run("main.forward", np.concatenate([x, planes], 1), t)
    assert np.allclose(made, expected[:, :3])
    with pytest.raises(DiagnosticError, match="not a map that fits the data"):
        load_spec("four_plane_frames", variant, [*FRAMES, "data.shape=[3, 41]"])


def test_frames_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="cannot be halved"):
        load_spec("four_plane_tokenizer", None, [*SIZES, "data.fields.x.shape=[1, 6, 6, 6]"])
