"""TiTok beyond what was recorded: BERT's blocks against transformers', proxy codes, given tokens, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_weights import weights_of

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

GENERATOR = [
    "backbone.width=16",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "backbone.embedding.labels=4",
    "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 11, grid: [6]}}",
    "sampler.steps=3",
]
TOKENIZER = [
    "data={kind: npz, path: train.npz, shape: [3, 8, 8]}",
    "networks.main.pretrained=null",
    "networks.main.tokens=3",
    "networks.main.width=16",
    "networks.main.depth=1",
    "networks.main.patch=4",
    "networks.main.block.mixer.heads=2",
    "networks.main.proxies=8",
    "networks.main.bottleneck={kind: codebook, size: 16, channels: 4, normalize: true}",
]
PROXY = [
    "networks.proxy={kind: autoencoder, width: 8, multipliers: [1, 1, 1], blocks: 1, groups: 4, bottleneck: {kind: "
    "codebook, size: 8, channels: 4}}",
]


def test_the_generator_of_berts_blocks_is_transformers() -> None:
    """`ImageBert` is transformers' BertModel on [class, tokens], and a linear layer; weights by the official names."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 7}
    config = BertConfig(vocab_size=16, hidden_size=16, layer_norm_eps=1e-12, initializer_range=0.3, **sizes)
    model = BertModel(config, add_pooling_layer=False).eval()
    head = torch.nn.Linear(16, 11)
    weights = {f"model.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    weights |= {f"model.lm_head.{name}": tensor.detach().numpy() for name, tensor in head.state_dict().items()}
    idx, y = np.array([[11, 3, 11, 0, 10, 2], [5, 11, 11, 11, 1, 11]]), np.array([2, 3])  # 3: no class
    ids = torch.from_numpy(np.concatenate([y[:, None] + 12, idx], axis=1))
    with torch.no_grad():
        wanted = head(model(input_ids=ids)[0][:, 1:]).numpy()
    given = {"names": "official", "overrides": GENERATOR}
    (found,) = api.run_method("titok", weights, {"idx": idx, "y": y}, "torch", **given).values()
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_first_stage_predicts_the_tokens_of_the_other_tokenizer() -> None:
    """The loss is the cross-entropy of the proxy's tokens plus the penalty, and the program decodes the likeliest."""
    lowered = lower(load_spec("titok_tokenizer", "stage1", [*TOKENIZER, *PROXY]))
    weights, rng = weights_of(lowered, 0.3), np.random.default_rng(1)
    x = rng.uniform(size=(4, 3, 8, 8)).astype(np.float32)
    main, proxy = (
        Interpreter(lowered.module, {n.removeprefix(f"{name}."): a for n, a in weights.items() if n.startswith(name)})
        for name in ("main", "proxy")
    )
    logits, penalty = main.run("main.regularized_proxies", x)
    (tokens,) = proxy.run("proxy.encode", x)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = np.take_along_axis(p / p.sum(-1, keepdims=True), tokens[..., None], -1)[..., 0]
    loss, entropy, of_codes = Interpreter(lowered.module, weights).run("loss", x)
    assert len(np.unique(tokens)) > 1
    assert np.allclose(entropy, -np.log(p).mean(), rtol=1e-5)
    assert np.allclose(of_codes, penalty.mean(), rtol=1e-5) and np.allclose(loss, entropy + of_codes, rtol=1e-5)
    (codes,) = main.run("main.encode", x)
    (of_codes,) = main.run("main.proxies", codes)
    (wanted,) = proxy.run("proxy.decode", of_codes.argmax(-1))
    (made,) = Interpreter(lowered.module, weights).run("reconstruct", x)
    assert np.allclose(made, wanted, atol=1e-5)


def test_inpainting_keeps_given_tokens() -> None:
    lowered = lower(load_spec("titok", None, GENERATOR))
    weights, rng = weights_of(lowered, 0.5, 2), np.random.default_rng(3)
    program = next(program for program in lowered.programs if program.name == "inpaint")
    given, keep = rng.integers(0, 11, (2, 6)), np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], np.float32)
    drawn = {"y": np.array([0, 2]), "scale": np.full(2, 2.0), "given": given, "keep": keep}
    drawn |= {"u": rng.uniform(size=(3, 2, 6)), "gumbel": rng.gumbel(size=(3, 2, 6))}
    inputs = [drawn[v.name] for v in lowered.module.functions[program.entry].inputs]
    (tokens,) = Interpreter(lowered.module, weights).run(program.entry, *inputs)
    assert (tokens[keep > 0] == given[keep > 0]).all()
    assert (tokens < 11).all() and (tokens != given)[keep == 0].any()


@pytest.mark.parametrize(
    ("spec", "variant", "overrides", "said"),
    [
        ("titok_tokenizer", None, [*TOKENIZER, "networks.main.patch=3"], "patches of 3 do not tile a side of 8"),
        ("titok_tokenizer", None, TOKENIZER, "a code becomes 16 pixels along each side, but patches have 4"),
        (
            "titok_tokenizer",
            "stage1",
            [*TOKENIZER, *PROXY, "networks.main.decoder_patch=2"],
            "`main` predicts 16 tokens of 8 codes, but `proxy` has 4 of 8 codes",
        ),
        ("titok_tokenizer", "stage1", [*TOKENIZER, *PROXY, "sampler={kind: autoencode}"], "encodes data as codes"),
        ("titok", None, [*GENERATOR, "backbone.embedding.labels=3"], "has 4 values, but the table has 3 rows"),
        ("titok", None, [*GENERATOR, "sampler.steps=7"], "some steps would reveal none"),
    ],
)
def test_refusals(spec: str, variant: str | None, overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        lower(load_spec(spec, variant, overrides))
