"""OGEN: features of new classes by PyTorch's attention, the loss before and after its warm-up, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import weights_of

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

RNG = np.random.default_rng(4)
SIZES = [
    "data={kind: npz, path: x.npz, classes: 4, fields: {x: {shape: [6]}}}",
    *(f"backbone.{size}" for size in ("new=3", "neighbours=2", "heads=2", "pretrained=null", "fresh_weights=[]")),
    "objective.warmup=5",
]


def test_a_new_class_is_made_of_the_known_ones_that_are_most_like_it() -> None:
    lowered = lower(load_spec("ogen", None, SIZES))
    own = weights_of(lowered, 0.5, RNG)
    w = {name.removeprefix("main."): torch.from_numpy(np.asarray(array)).double() for name, array in own.items()}
    attention = torch.nn.MultiheadAttention(6, 2, batch_first=True).double()
    state = {name: w[f"generator.attn.in_proj.{name.split('_')[-1]}"] for name in ("in_proj_weight", "in_proj_bias")}
    state |= {f"out_proj.{part}": w[f"generator.attn.proj.{part}"] for part in ("weight", "bias")}
    attention.load_state_dict(state)
    known, new = (F.normalize(w[f"names.{which}"], dim=1) for which in ("known", "new"))
    y, u = np.array([2, 0]), RNG.random((2, 6))
    closest = (new[y] @ known.T).topk(2).indices
    features = w["features.mean"][closest] + torch.from_numpy(u)[:, None] * w["features.std"][closest]
    name = new[y][:, None]
    made = attention(name, known[closest], features)[0]
    h = F.relu(F.linear(name, w["generator.mlp.0.weight"], w["generator.mlp.0.bias"]))
    made = F.normalize(made + F.linear(h, w["generator.mlp.1.weight"], w["generator.mlp.1.bias"]), dim=-1)[:, 0]
    (found,) = Interpreter(lowered.module, own).run("sample.1", y, u)
    assert np.allclose(found, made.detach().numpy(), atol=1e-6)
    x = RNG.standard_normal((3, 6))
    (logits,) = Interpreter(lowered.module, own).run("logits", x)
    assert np.allclose(logits, 100 * F.normalize(torch.from_numpy(x)).numpy() @ torch.cat([known, new]).numpy().T)


def test_classes_count_after_the_warm_up() -> None:
    own = {n: np.asarray(a, np.float32) for n, a in weights_of(lower(load_spec("ogen", None, SIZES)), 0.5, RNG).items()}
    own = {name.removeprefix("main."): array for name, array in own.items()}
    given: dict[str, Any] = {"x": RNG.random((5, 6)), "y": RNG.integers(0, 4, 5), "u": RNG.random((5, 6))}
    early, late = (
        api.loss("ogen", own, {**given, "training_step": np.int64(step)}, "oracle", overrides=SIZES) for step in (4, 5)
    )
    assert np.isclose(early["loss"], early["match"]) and early["match"] > 0.1
    assert late["match"] == early["match"] and late["loss"] > late["match"] + 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("backbone.heads=4", "4 heads cannot share 6 features evenly"),
        ("backbone.neighbours=4", "4 neighbours, but 4 known and 3 new classes"),
        ("data.fields.x.shape=[1, 6]", "takes features"),
    ],
)
def test_what_it_refuses(change: str, said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("ogen", None, [*SIZES, change])


def test_prompts_go_through_the_text_transformer_of_clip() -> None:
    """With a context of the embeddings of its tokens, names are what `clip_text`, whose numbers are recorded, says."""
    block = ["width=8", "depth=2", "block.mixer.heads=2"]
    fields = "data={kind: npz, path: x.npz, fields: {tokens: {shape: [6], classes: 20, medium: text}}}"
    texts = [fields, *(f"networks.main.{size}" for size in (*block, "pooled=highest", "projection=6", "unit=true"))]
    texts += ["networks.main.pretrained=null"]
    encoder = lower(load_spec("clip_text", None, texts))
    own = weights_of(encoder, 0.5, RNG)
    tokens = np.array([[1, 2, 3, 7 + i, 19, 0] for i in range(7)])
    (wanted,) = Interpreter(encoder.module, own).run("main.encode", tokens, prefix="main")
    sizes = [SIZES[0], "objective.warmup=0"]
    given = ("new=3", "neighbours=2", "heads=2", "length=6", "context=2", "text_width=8", "text_depth=2")
    sizes += [f"backbone.{size}" for size in (*given, "block.mixer.heads=2", "pretrained=null", "fresh_weights=[]")]
    lowered = lower(load_spec("ogen", "prompts", sizes))
    ours = weights_of(lowered, 0.5, RNG)
    rows = own["main.embedding.weight"]
    ours |= {name.replace("main.", "main.text."): array for name, array in own.items() if "embedding" not in name}
    ours |= {"main.texts.embedding": rows[tokens], "main.context": rows[tokens[0, 1:3]]}
    ours |= {"main.texts.end": (tokens == 19).astype(float)}
    x = RNG.standard_normal((2, 6))
    (logits,) = Interpreter(lowered.module, ours).run("logits", x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.allclose(logits, 100 * unit @ wanted.T, atol=1e-6) and np.ptp(logits) > 1
