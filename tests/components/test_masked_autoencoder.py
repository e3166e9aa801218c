"""Training encodes only the known tokens: the loss and its gradients are those of an encoder that takes all tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from random_weights import random_weights, weights_of
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.components.objectives.token_diffusion import TokenDiffusion
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import reachable
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ("networks.main.width=16", "networks.main.depth=2", "networks.head.width=16", "networks.head.depth=1")
FEWEST_HIDDEN = -1.2  # standard deviations from 1: 70 % hidden


def trained(overrides: tuple[str, ...], folder: Path, fractions: list[float]) -> tuple[list[Any], dict[str, Any]]:
    """The loss of the emitted project with its metrics, and the gradients by network and path; weights, data and draws
    are the same in each call. `fractions`: standard deviations of the hidden fraction from 1, one per sample.
    """
    spec = load_spec("digits_mar", overrides=[*SMALL, *overrides])
    with emitted(lower(spec), spec, folder) as project:
        networks = {name: build() for name, build in project.model.NETWORKS.items()}
        generator = torch.Generator().manual_seed(0)
        for network in networks.values():
            for weight in network.parameters():
                weight.data = torch.randn(weight.shape, generator=generator) * 0.2
        (update,) = project.objective.UPDATES
        x = torch.randn(len(fractions), 1, 8, 8, generator=generator)
        y = torch.randint(10, (len(fractions),), generator=generator)
        draws = update.draws(len(fractions), generator) | {"fraction": torch.tensor(fractions)}
        values = update.loss(*networks.values(), x, y, *draws.values())
        values[0].backward()
    gradients = {(n, path): p.grad for n, network in networks.items() for path, p in network.named_parameters()}
    return [value.item() for value in values], gradients


def encoded_lengths(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Collects the lengths of masked attention."""
    found: set[int] = set()
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Any, k: Any, v: Any, attn_mask: Any = None, **options: Any) -> Any:
        if attn_mask is not None:
            found.add(q.shape[2])
        return attention(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    return found


def test_dropping_hidden_tokens_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples with as many known tokens as can be, some, and none. A bound of all tokens switches dropping off."""
    fractions = [FEWEST_HIDDEN, FEWEST_HIDDEN, 0.7, -0.3, 0.0]
    lengths = encoded_lengths(monkeypatch)
    some, gradients = trained((), tmp_path / "some", fractions)
    assert lengths == {4 + 5}
    lengths.clear()
    every, expected = trained(("objective.least_hidden=0.01",), tmp_path / "every", fractions)
    assert lengths == {4 + 16}
    np.testing.assert_allclose(some, every, rtol=1e-6)
    for key, gradient in expected.items():
        assert gradient.abs().max() > 0, key
        assert (gradients[key] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), key


@pytest.mark.parametrize("length", [1, 10, 16, 256, 1000])
@pytest.mark.parametrize("least", [0.1, 0.7, 0.75, 0.9])
def test_no_draw_knows_more_than_are_encoded(length: int, least: float) -> None:
    """Counts as the loss counts, in float32, at the bound of the draw and beyond by its rounding."""
    objective, spec = TokenDiffusion.example(least_hidden=least), load_spec("digits_mar")
    for beyond in (1 - 1e-6, 1, 1 + 1e-6):
        z = np.float32((1 - least) / objective.deviation * beyond)
        most = (1 - np.abs(z) * np.float32(objective.deviation)) * np.float32(length)
        known = np.count_nonzero(np.arange(length, dtype=np.float32) >= most)
        assert known <= objective.needs(spec)[0].asks["most_known"](length) <= known + 2


def test_only_training_bounds_the_known_tokens() -> None:
    """Programs show the network up to all tokens but one."""
    lowered = lower(load_spec("digits_mar", overrides=SMALL))
    methods, module = lowered.networks["main"].methods, lowered.module
    for entry in ("loss", *(program.entry for program in lowered.programs)):
        called = reachable(module, (module.entries[entry],))
        used = {name for name, method in methods.items() if method.function in called}
        assert used == {"forward_known" if entry == "loss" else "forward"}, entry


def test_a_decoder_has_sizes_of_its_own(tmp_path: Path) -> None:
    fractions = [FEWEST_HIDDEN, 0.5]
    values, gradients = trained((), tmp_path / "none", fractions)
    same, others = trained(("networks.main.decoder={width: 16, depth: 2, heads: 4}",), tmp_path / "same", fractions)
    assert same == values and others.keys() == gradients.keys()
    _, other = trained(("networks.main.decoder={width: 24, depth: 1, heads: 3}",), tmp_path / "other", fractions)
    assert other["main", "decoder_embed.weight"].shape == (24, 16)
    assert other["main", "decoder_blocks.0.mlp.fc1.weight"].shape == (96, 24)
    assert other["main", "encoder_blocks.1.attn.qkv.weight"].shape == (48, 16)
    assert ("main", "decoder_blocks.1.attn.qkv.weight") not in other
    assert other["head", "cond_embed.weight"].shape == (16, 24)


def test_a_decoder_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DiagnosticError, match="3 heads do not divide the width of 16"):
        load_spec("digits_mar", overrides=[*SMALL, "networks.main.decoder={width: 16, depth: 1, heads: 3}"])


def test_a_buffer_without_a_vector_is_refused() -> None:
    """Where there are only sequences, no condition is left for the buffer to hold."""
    features = (
        "data.fields.caption={shape: [3, 4], medium: array}",
        "data.fields.caption_mask={shape: [3], dtype: bool}",
    )
    conditions = "conditioning={time: {kind: timestep}, caption: {kind: features, dropout: 0.1}}"
    data = "data={kind: npz, path: train.npz, shape: [1, 8, 8]}"
    with pytest.raises(DiagnosticError, match="the sum of vector conditions"):
        load_spec("digits_mar", overrides=[*SMALL, data, *features, conditions])


def test_errors_of_hidden_dense_tokens_alone_count() -> None:
    """With weights of zero Hi-MAR predicts no noise: the error is the noise of the tokens that are hidden."""
    low = lower(load_spec("himar", SYSTEMS["himar"].variant, SYSTEMS["himar"].sizes))
    weights = {
        f"{network}.{path}": np.zeros(param.type.shape, np.float32)
        for network in ("main", "pivot_head", "head")
        for path, param in network_params(low, low.networks[network]).items()
    }
    rng = np.random.default_rng(0)
    order, noise = rng.permuted([np.arange(16)] * 2, axis=1), rng.standard_normal((2, 16, 4))
    told = {"order": order, "noise": noise, "pivot_order": rng.permuted([np.arange(4)] * 2, axis=1)}
    told["dense_share"] = np.full(2, 0.8)  # cos(0.4 pi) = 0.31 of 16 tokens: 5
    told["training_step"] = np.int64(0)
    inputs = [
        told.get(v.name, np.ones([2, *v.type.shape[1:]], np.float32 if v.type.is_float else np.int64))
        for v in low.module.functions["loss.terms"].inputs
    ]
    *_, dense = Interpreter(low.module, weights).run("loss.terms", *inputs)
    wanted = [(noise[i, order[i, :5]] ** 2).sum() / noise[i].size for i in range(2)]
    np.testing.assert_allclose(dense, wanted, rtol=1e-6)


def of_pivots(*sizes: str) -> Callable[..., tuple[np.ndarray, ...]]:
    """Hi-MAR's loss and its two terms, of inputs that are the same but for those given by name."""
    low, rng = lower(load_spec("himar", None, [*SYSTEMS["himar"].sizes, *sizes])), np.random.default_rng(0)
    oracle, inputs = Interpreter(low.module, weights_of(low, 0.5, rng)), low.module.functions["loss.terms"].inputs
    fixed = {
        v.name: rng.random([2, *v.type.shape[1:]]) if v.type.is_float else np.ones([2, *v.type.shape[1:]], np.int64)
        for v in inputs
    }
    fixed |= {"order": np.tile(np.arange(16), (2, 1)), "pivot_order": np.tile(np.arange(4), (2, 1))}
    return lambda **given: oracle.run("loss.terms", *((fixed | given)[v.name] for v in inputs))


def test_dense_tokens_are_told_of_pivots_ever_more_often() -> None:
    """They are left out of all samples at first, then of `pivot_dropout` of them."""
    loss = of_pivots("objective.pivot_dropout=0.75", "objective.pivot_warmup=100")

    def dense(step: int, without: float) -> Any:
        return loss(training_step=np.int64(step), without=np.full(2, without))[-1]

    alone = dense(0, 0.0)
    for step, share in ((0, 1.0), (50, 0.875), (100, 0.75), (500, 0.75)):
        assert np.array_equal(dense(step, share - 0.01), alone)
        assert share == 1.0 or not np.allclose(dense(step, share + 0.01), alone)


def test_dense_tokens_without_a_class_may_have_pivots_that_were_told_it() -> None:
    """As under guidance, whose branches share the pivots; the authors' code draws twice, too."""
    loss = of_pivots("objective.pivot_warmup=0")
    kept, gone = {"drop": np.ones(2), "dense_drop": np.ones(2)}, np.zeros(2)
    told = {"without": np.ones(2)}
    both, dense_gone, pivots_gone = (
        loss(**told, **kept | change)[1:] for change in ({}, {"dense_drop": gone}, {"drop": gone})
    )
    assert np.array_equal(dense_gone[0], both[0]) and not np.allclose(dense_gone[1], both[1])
    # Features of pivots reach dense tokens.
    assert not np.allclose(pivots_gone[0], both[0]) and not np.allclose(pivots_gone[1], both[1])


def test_a_decoder_of_another_depth_than_the_encoder_of_pivots() -> None:
    sizes = (*SYSTEMS["himar"].sizes, "networks.main.decoder={depth: 3, heads: 8}")
    low = lower(load_spec("himar", None, sizes))
    names = network_params(low, low.networks["main"])
    blocks = [sum(f"{part}_blocks.{i}.norm1.weight" in names for i in range(9)) for part in ("encoder", "decoder")]
    assert blocks == [1, 3]
    with pytest.raises(DiagnosticError, match=r"3 heads do not divide the width of 16"):
        load_spec("himar", None, [*sizes, "networks.main.decoder.heads=3"])


REUSE = (
    "sampler={kind: recap_autoregressive, steps: 4, diffusion: {kind: ddpm, steps: 3}, reuse: {condition: CONDITION}}"
)


@pytest.mark.parametrize("condition", ["true", "false"])
def test_a_decoder_of_its_own_recalls_what_it_is_not_given(condition: str) -> None:
    """A set whose tokens are all hidden has the features of a whole evaluation."""
    decoder = "networks.main.decoder={width: 24, depth: 1, heads: 3}"
    lowered = lower(load_spec("digits_mar", overrides=[*SMALL, decoder, REUSE.replace("CONDITION", condition)]))
    rng, methods = np.random.default_rng(0), lowered.networks["main"].methods
    oracle = Interpreter(lowered.module, random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.3))
    most = int(methods["recall"].input("state").type.shape[1])  # type: ignore[arg-type]
    x, y, position = rng.standard_normal((2, 16, 4)), np.array([1, 10]), np.tile(np.arange(3, 3 + most), (2, 1))
    hidden = np.zeros((2, 16))
    hidden[:, 3:] = 1
    others = np.ones((2, 16))
    np.put_along_axis(others, position, 0.0, axis=1)
    (whole,) = oracle.run("main.forward", x, hidden, y)
    features, *caches = oracle.run("main.remember", x, hidden, y)
    np.testing.assert_allclose(features, whole, atol=1e-12)
    ones = np.ones((2, most))
    (found,) = oracle.run("main.recall", x[:, :most], ones, ones, 1 - hidden, others, position, y, *caches)
    np.testing.assert_allclose(found, whole[:, 3 : 3 + most], atol=1e-12)
