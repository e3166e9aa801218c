"""LARP's tokenizer beside its prior, by PyTorch's own layers and the paper's loss; video of ViTok's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_weights import random_weights, weights_of
from torch.nn import functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.components import OneOf
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, Sym, TensorType
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.vitok.mixed_rotary import mixed_rotary
from latentc.weights import Array, materialise, read_safetensors, write_safetensors

SIZES = [
    "data.fields.x.shape=[1, 4, 8, 8]",
    *(f"networks.main.{size}" for size in ("tokens=5", "width=16", "depth=1", "patch=4", "frames=2")),
    "networks.main.block.mixer.heads=2",
    "networks.main.bottleneck={kind: stochastic_codebook, size: 7, channels: 4, temperature: 0.5}",
    *(f"networks.prior.{size}" for size in ("width=16", "depth=2", "length=5", "channels=4", "block.mixer.heads=2")),
]

LENGTHS = [
    "data.shape=[3, 8, 8]",
    *(f"backbone.{size}" for size in ("width=16", "depth=1", "decoder_depth=1", "patch=4", "block.mixer.heads=2")),
    "backbone.bottleneck.channels=3",
    "backbone.lengths=[1, 2, 4]",
]
"""ViTok, whose training keeps 1, 2 or 4 of 4 latents."""


def prior(weights: dict[str, np.ndarray], z: torch.Tensor) -> torch.Tensor:
    """A pre-norm GPT over vectors, of torch's own layers, whose outputs have length 1."""
    w = {name: torch.from_numpy(a) for name, a in weights.items()}
    x = F.linear(z, w["embed.weight"], w["embed.bias"]) + w["positions"][:, : z.shape[1]]
    for i in range(2):
        layer = torch.nn.TransformerEncoderLayer(
            16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        )
        own = {n.removeprefix(f"blocks.{i}."): t for n, t in w.items() if n.startswith(f"blocks.{i}.")}
        names = {"attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj.", "mlp.fc1": "linear1."}
        names |= {"mlp.fc2": "linear2.", "norm1": "norm1.", "norm2": "norm2."}
        layer.load_state_dict({names[n.rpartition(".")[0]] + n.rpartition(".")[2]: t for n, t in own.items()})
        mask = torch.nn.Transformer.generate_square_subsequent_mask(z.shape[1], dtype=torch.float64)
        x = layer(x, src_mask=mask)
    x = F.layer_norm(x, (16,), w["norm.weight"], w["norm.bias"], 1e-5)
    return F.normalize(F.linear(x, w["output.weight"], w["output.bias"]), dim=-1)


@pytest.mark.parametrize(
    ("step", "share", "every"), [(0, 0.0, True), (100_000, 2 / 9, True), (750_000, 0.5, True), (750_000, 0.5, False)]
)
def test_the_loss_is_the_papers(step: int, share: float, every: bool) -> None:
    spec = load_spec("larp_tokenizer", None, [*SIZES, f"objective.every_round={str(every).lower()}"])
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    own = {
        name: random_weights(network_params(lowered, lowered.networks[name]), rng, 0.4) for name in ("main", "prior")
    }
    whole = {f"{net}.{name}": a for net, weights in own.items() for name, a in weights.items()}
    (update,) = lowered.updates
    assert update.networks == ("main", "prior")
    given: dict[str, Any] = {
        "x": rng.standard_normal((3, 1, 4, 8, 8)),
        "u": rng.random((3, 5)),
        "replaced": rng.random((3, 4)),
        "drawn_0": rng.random((3, 4)),
        "training_step": np.int64(step),
    }
    names = [value.name for value in lowered.module.entry("loss").inputs]
    assert set(names) == {*update.batch, *(draw.name for draw in update.draws), "training_step"}
    total, error, penalty, cross_entropy = Interpreter(lowered.module, whole).run("loss", *(given[n] for n in names))

    run = Interpreter(lowered.module, own["main"]).run
    made, of_codes = run("main.regularized", given["x"], given["u"])
    assert np.isclose(error, np.abs(made - given["x"]).mean()) and np.isclose(penalty, of_codes.mean())
    with torch.no_grad():
        table = F.normalize(torch.from_numpy(own["main"]["codebook.weight"]), dim=-1)
        _, _, z, tokens = (
            torch.from_numpy(np.asarray(a)) for a in run("main.regularized_codes", given["x"], given["u"])
        )
        assert torch.allclose(z, table[tokens])
        terms, seen = [], z[:, :-1]
        for _ in range(2):
            logits = prior(own["prior"], seen) @ table.T
            terms.append(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
            below = logits.softmax(-1).cumsum(-1) < torch.from_numpy(given["drawn_0"])[..., None]
            drawn = table[below.sum(-1)]  # of the vectors from the second on
            which = torch.from_numpy(given["replaced"])[:, :-1, None] < share
            seen = torch.cat([z[:, :1], torch.where(which, drawn[:, :-1], z[:, 1:-1])], dim=1)
    assert np.isclose(cross_entropy, float(sum(terms)) / 2 if every else float(terms[-1]))
    assert np.isclose(total, error + 0.1 * penalty + 0.06 * cross_entropy)


def test_rows_of_a_codebook_may_be_pulled_less_than_latents() -> None:
    """Both pulls are by the same squared distance."""
    penalties = []
    for weights in ("pull: 1, commitment: 0.25", "pull: 0.5, commitment: 0.25"):
        bottleneck = f"networks.main.bottleneck={{kind: codebook, size: 7, channels: 4, {weights}}}"
        lowered = lower(load_spec("larp_tokenizer", None, [*SIZES, bottleneck]))
        own = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(0), 0.4)
        x = np.random.default_rng(1).standard_normal((2, 1, 4, 8, 8))
        penalties.append(Interpreter(lowered.module, own).run("main.regularized", x)[1])
    np.testing.assert_allclose(penalties[1], penalties[0] * 0.75 / 1.25, rtol=1e-6)


@pytest.mark.parametrize("kind", ["codebook", "gaussian", "late_codebook", "lookup_free"])
def test_the_codes_it_declares_are_those_it_encodes(kind: str) -> None:
    spec = load_spec("larp_tokenizer", None, SIZES)
    bottleneck = OneOf("blocks/bottlenecks").choices()[kind].example()
    main: Any = spec.networks["main"]
    main = main.model_copy(update={"bottleneck": bottleneck})
    encode = main.build(ModuleBuilder(), "tokenizer", spec, 1).methods["encode"]
    assert main.encoding(spec)[1] == encode.output().type
    assert main.codes(spec).values == {"codebook": 16, "lookup_free": 16}.get(kind)


@pytest.mark.parametrize(
    "bottleneck",
    [
        "{kind: gaussian, channels: 4}",
        "{kind: lookup_free, channels: 4}",
        "{kind: late_codebook, size: 7, channels: 4}",
    ],
)
def test_a_prior_over_codes_needs_the_rows_of_a_codebook(bottleneck: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("larp_tokenizer", None, [*SIZES, f"networks.main.bottleneck={bottleneck}"])
    assert "E0306" in [d.code for d in caught.value.diagnostics]


STAGE = [
    "data.fields.x.shape=[1, 4, 8, 8]",
    *(f"backbone.{size}" for size in ("width=8", "depth=1", "decoder_depth=1", "patch=4", "frames=2")),
    *("backbone.block.mixer.heads=2", "backbone.bottleneck.channels=3"),
]
OVER_LATENTS = [
    *("data.classes=3", "data.shape=[3, 8]", "backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2"),
    "sampler.steps=2",
]


def test_latents_of_video_end_in_frames(tmp_path: Path) -> None:
    """ViTok: with a tokenizer, a program draws the frames of the latents of one without, and so does the project."""
    (tmp_path / "stage.yaml").write_text(api.resolved("vitok_tokenizer", "S-B/4x8", STAGE))
    stage = f"data.first_stage={{spec: {tmp_path}/stage.yaml, scale: 0.5, weights: "
    outs, rng = [], np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}
    for given in ("null", "stage.safetensors"):
        spec = load_spec("vitok", "L/256-video", [*OVER_LATENTS, f"{stage}{given}}}"])
        lowered = lower(spec)
        new = lowered.networks.keys() - {n.split(".")[0] for n in weights}
        weights |= weights_of(lowered, 0.4, rng, new) if new else {}
        program = lowered.programs[0]
        inputs = lowered.module.entry(program.entry).inputs
        told = [_drawn(value.type) for value in inputs]
        outs.append(Interpreter(lowered.module, weights).run(program.entry, *told)[0])
    (output,) = program.outputs
    assert output.field.medium == "video" and output.field.shape == (1, 4, 8, 8)
    frames = Interpreter(lowered.module, {n.partition(".")[2]: a for n, a in weights.items() if n[0] == "f"}).run(
        "first_stage.decode", outs[0] / 0.5
    )[0]
    assert np.allclose(outs[1], frames)
    files = project_files(lowered, spec)
    assert '".gif"' in str(files["latentc_support/media.py"])


def _drawn(of: TensorType) -> np.ndarray:
    shape = [2 if isinstance(size, Sym) else int(size) for size in of.shape]
    rng = np.random.default_rng(1)
    return rng.integers(0, 3, shape) if of.dtype == "i64" else rng.standard_normal(shape)


def test_training_keeps_some_latents_of_each_sample() -> None:
    """A learned vector takes the places of the others; encoding and decoding keep all."""
    spec = load_spec("vitok_tokenizer", None, LENGTHS)
    lowered = lower(spec)
    main, (update,) = lowered.networks["main"], lowered.updates
    assert [(draw.name, draw.distribution) for draw in update.draws] == [("noise", "normal"), ("kept", "uniform")]
    own = random_weights(network_params(lowered, main), np.random.default_rng(0), 0.4)
    run, rng = Interpreter(lowered.module, own).run, np.random.default_rng(1)
    x, noise = rng.standard_normal((4, 3, 8, 8)), rng.standard_normal((4, 3, 4))
    made, _ = run("main.regularized", x, noise, np.array([0.1, 0.4, 0.99, 0.67]))
    (codes,) = run("main.encode", x)
    mean, log_variance = np.split(codes, 2, axis=1)
    z = mean + np.exp(log_variance / 2) * noise
    for i, length in enumerate((1, 2, 4, 4)):
        z[i, :, length:] = own["mask_token"].reshape(3, 1)
    assert np.allclose(made, run("main.decode", z)[0])
    assert "mask_token" in {p.name for p in lowered.module.functions[main.methods["regularized"].function].params}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("backbone.lengths=[1, 9]", "length 9 exceeds the 4 latents"),
        ("backbone.bottleneck={kind: codebook, size: 5, channels: 3}", "keeps only part of the tokens"),
    ],
)
def test_lengths_that_do_not_fit(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("vitok_tokenizer", None, [*LENGTHS, change])


def test_frequencies_of_rotary_positions_may_be_learned(tmp_path: Path) -> None:
    """Those of a block are one row of the authors' table; pairs turn as complex numbers do."""
    sizes = [
        "data.shape=[3, 12, 12]",
        *(f"backbone.{size}" for size in ("width=16", "depth=2", "decoder_depth=1", "patch=4", "rotary=null")),
        "backbone.block.mixer={kind: mixed_rotary_attention, heads: 2, base: 100, qkv_bias: false}",
        "backbone.bottleneck.channels=3",
    ]
    lowered = lower(load_spec("vitok_tokenizer", None, sizes))
    weights = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(0), 0.4)
    write_safetensors(tmp_path / "own.safetensors", {n: Array(a.astype(np.float32)) for n, a in weights.items()})
    api.convert_weights(
        "vitok_tokenizer", tmp_path / "own.safetensors", tmp_path / "theirs", None, "official", overrides=sizes
    )
    names = [f"encoder_blocks.{i}.attn.rotate.frequencies" for i in range(2)]
    theirs = materialise(read_safetensors(tmp_path / "theirs")["enc_freqs"])
    np.testing.assert_array_equal(theirs, np.stack([weights[n] for n in names], 1).astype(np.float32))

    mb = ModuleBuilder()
    b = mb.function("turn")
    b.output(*mixed_rotary(b, b.input("q", f32(B, 2, 9, 8)), b.input("k", f32(B, 2, 9, 8)), 3, 100.0))
    mb.entries["turn"] = b.finish()
    module = mb.finish()
    q, k = np.random.default_rng(0).standard_normal((2, 3, 2, 9, 8))
    frequencies = INITS["rotations"](np.random.default_rng(1), (2, 8), heads=2, base=100.0)
    found = Interpreter(module, {"rotate.frequencies": frequencies}).run("turn", q, k)
    fx, fy = frequencies.reshape(2, 2, 1, 4)
    rows, columns = np.divmod(np.arange(9)[:, None], 3)
    turn = np.exp(1j * (columns * fx + rows * fy))  # [H, T, d / 2]
    for given, made in zip((q, k), found, strict=True):
        expected = (given[..., ::2] + 1j * given[..., 1::2]) * turn
        np.testing.assert_allclose(made[..., ::2] + 1j * made[..., 1::2], expected, atol=1e-12)
    # At first the vectors (f_x, f_y) of a head are 1 and 1 / 10 long, in two directions at right angles.
    vectors = (fx + 1j * fy)[:, 0]
    np.testing.assert_allclose(np.abs(vectors), [[1, 0.1, 1, 0.1]] * 2)
    np.testing.assert_allclose(vectors[:, 2:] / vectors[:, :2], 1j, atol=1e-12)


DENSE = [
    *("data.shape=[5, 16, 16]", "objective.labels=[3, 2]"),
    *(f"backbone.{size}" for size in ("tokens=4", "width=8", "depth=1", "decoder_depth=1", "patch=4")),
    *("backbone.block.mixer.heads=2", "backbone.bottleneck.channels=3"),
]
"""GIVT's autoencoder of labels, whose 4 by 4 patches are 2 by 2 latents."""


@pytest.mark.parametrize(("reduction", "unlabelled"), [("mean", True), ("mean", False), ("sum", True)])
def test_the_error_of_labels_of_every_pixel(reduction: str, unlabelled: bool) -> None:
    options = [f"objective.reduction={reduction}", f"objective.unlabelled={unlabelled}".lower(), "objective.weight=0.5"]
    lowered = lower(load_spec("givt_dense_vae", "panoptic", [*DENSE, *options]))
    rng = np.random.default_rng(0)
    weights = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.3)
    labels = np.stack([rng.integers(0, 3, (2, 16, 16)), rng.integers(0, 2, (2, 16, 16))])
    x = np.concatenate([np.eye(n)[label] for n, label in zip((3, 2), labels, strict=True)], -1).transpose(0, 3, 1, 2)
    noise = rng.standard_normal((2, 3, 4))
    made, penalty = Interpreter(lowered.module, weights).run("main.regularized", x, noise)
    wanted, logits = 0.0, torch.from_numpy(np.asarray(made)).split([3, 2], 1)
    for of, label in zip(logits, labels, strict=True):
        ignored = 0 if unlabelled else -100
        for one, own in zip(of, torch.from_numpy(label), strict=True):
            error = F.cross_entropy(one[None], own[None], reduction=reduction, ignore_index=ignored)
            wanted += float(error) / 2
    named = {f"main.{name}": array for name, array in weights.items()}
    found, error, _ = Interpreter(lowered.module, named).run("loss", x, noise)
    assert np.isclose(error, wanted) and np.isclose(found, wanted + 0.5 * np.mean(penalty))


def test_a_learned_matrix_may_resize_as_interpolation_does() -> None:
    """Four patches in a row are two latents: from 4 by 4 ones, weights of 1/8, 3/8, 3/8 and 1/8, but for the edges."""
    run = {}
    few = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    many = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    for by in ("interpolation", "matrix"):
        lowered = lower(load_spec("givt_dense_vae", "panoptic", [*DENSE, f"backbone.resized_by={by}"]))
        params = network_params(lowered, lowered.networks["main"])
        weights = random_weights(params, np.random.default_rng(0), 0.3)
        for name, matrix in (("to_fewer", few), ("to_more", many)):
            if by == "matrix":
                weights[f"{name}.weight"] = np.kron(matrix, matrix).T
        run[by] = lowered.module, weights
    own = run["interpolation"][1]
    mixed = {**{n: own[n] for n in own}, **{n: a for n, a in run["matrix"][1].items() if n not in own}}
    x = np.random.default_rng(1).standard_normal((2, 5, 16, 16))
    both = (("interpolation", own), ("matrix", mixed))
    found = [Interpreter(run[by][0], w).run("main.forward", x)[0] for by, w in both]
    assert np.allclose(*found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("backbone.tokens=5", "a square number of tokens, but there are 5 tokens"),
        ("objective.labels=[3, 3]", "3 \\+ 3 label classes do not add up to the 5 channels"),
    ],
)
def test_labels_and_latents_that_do_not_fit(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("givt_dense_vae", "panoptic", [*DENSE, change])
