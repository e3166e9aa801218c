"""Captions as tokens, which a network of the spec encodes once per sample."""

from __future__ import annotations

import numpy as np
import pytest
from captioned import SPEC
from random_weights import random_weights, weights_of

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec, spec_from_text
from latentc.weights import Array, write_safetensors

TOKENS = np.array([[0, 5, 6, 7, 1], [0, 9, 1, 3, 3]])
MASK = np.array([[True] * 5, [True] * 3 + [False] * 2])
EMPTY = np.array([[0, 1, 3, 3, 3]])


def test_captions_are_encoded_and_guidance_leads_from_the_empty_text():
    spec = spec_from_text(SPEC)
    lowered = lower(spec)
    run = Interpreter(lowered.module, weights_of(lowered, 0.5)).run
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    (out,) = run(lowered.programs[0].entry, x, TOKENS, MASK, np.full(2, 2.0))

    features, none = (
        run("text.encode", TOKENS, MASK, prefix="text")[0],
        run("text.encode", EMPTY, EMPTY < 2, prefix="text")[0],
    )
    time = np.zeros(2)
    (given,) = run("main.forward", x, time, features, MASK, prefix="main")
    (without,) = run(
        "main.forward", x, time, np.repeat(none, 2, axis=0), np.repeat(EMPTY < 2, 2, axis=0), prefix="main"
    )
    assert np.abs(out - (x + without + 2 * (given - without))).max() < 1e-6
    assert np.abs(given - without).max() > 1e-3

    hidden = TOKENS.copy()
    hidden[1, 3:] = 8  # what the mask hides
    assert np.allclose(run("text.encode", hidden, MASK, prefix="text")[0][1, :3], features[1, :3])


def test_the_vector_of_a_text_is_a_condition(tmp_path):
    """`pooled` takes the token that ends the text, for conditions of one vector."""
    caption = "{kind: encoded_text, encoder: text, dropout: 0.5, null_embedding: empty_text, pad: 3}"
    text = SPEC.replace(caption, "{kind: encoded, network: text, dropout: 0.1}")
    text = text.replace("    relative: {buckets: 8, furthest: 4}\n", "    masked: false\n    pooled: end\n")
    text = text.replace("condition: {kind: adaln_single}", "condition: {kind: adaln_zero}")
    (tmp_path / "spec.yaml").write_text(text)
    file = str(tmp_path / "spec.yaml")
    options = ["networks.text.projection=3", "networks.text.unit=true"]
    spec = load_spec(file, overrides=options)
    lowered = lower(spec)
    own = random_weights(network_params(lowered, lowered.networks["text"]), np.random.default_rng(1), 0.5)

    def encoded(*options, file=file, without=()):
        kept = {name: Array(a) for name, a in own.items() if name not in without}
        write_safetensors(weights := tmp_path / "text.safetensors", kept)
        sizes = {"overrides": options, "network": "text", "method": "encode"}
        (out,) = api.run_method(file, [f"text={weights}"], {"tokens": TOKENS}, "oracle", **sizes).values()
        return out

    plain = encoded(without=["projection.weight"])
    projected = plain @ own["projection.weight"].T
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    assert np.allclose(encoded(*options), projected / lengths, atol=1e-6)
    (tmp_path / "features.yaml").write_text(SPEC.replace("relative: {buckets: 8, furthest: 4}", "masked: false"))
    features = encoded(file=str(tmp_path / "features.yaml"), without=["projection.weight"])
    assert np.allclose(plain, features[[0, 1], [4, 2]], atol=1e-6)
    assert [one.form for one in lowered.conditions] == ["tokens"]
    assert lowered.conditions[0].text["end"] == 1
    with pytest.raises(DiagnosticError, match=r"returns [^']*, but `main` takes one vector"):
        load_spec(file, overrides=["networks.text.pooled=null"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("encoder: text", "encoder: main"), "network `main` encodes nothing"),
        (("encoder: text", "encoder: other"), "network `other` does not exist"),
        (
            ("  text:\n    kind: text_encoder", "  text:\n    kind: text_encoder\n    pooled: end"),
            "which is not a sequence",
        ),
        (("pad: 3}", "padding: none}"), "takes a mask of valid tokens"),
        (("pad: 3}", "pad: 999}"), "token 999 is out of range: the field has tokens 0 to 27"),
        (("shape: [5], classes: 28", "shape: [1], classes: 28"), "no room for both `start` and `end`"),
        (("encoder: text, ", ""), "needs the key `encoder`"),
        ((", start: 0, end: 1", ""), "an empty text has no tokens"),
        (("shape: [5], classes: 28, medium: text,", "shape: [5, 2]} #"), "takes tokens, but field `caption`"),
        (("    relative:", "    unit: true\n    relative:"), "needs a single vector"),
        (("    relative:", "    reads: caption_mask\n    relative:"), "encodes `caption_mask`"),
        (("    relative:", "    positions: {kind: rope_1d}\n    relative:"), "does not give each position a vector"),
        (("furthest: 4", "furthest: 2"), "must exceed 2, the number of distances"),
        (("pad: 3}", "pad: 3, cached: true}"), "is trained, so its features change in every step"),
        (("{kind: encoded_text, encoder: text,", "{kind: encoded, network: text} #"), "takes a mask, which"),
    ],
)
def test_what_does_not_fit_together(change, message):
    with pytest.raises(DiagnosticError) as caught:
        spec_from_text(SPEC.replace(*change))
    assert message in "\n".join(d.message for d in caught.value.diagnostics)
