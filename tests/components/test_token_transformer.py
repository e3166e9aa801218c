"""Token transformers over sequences that fill no square grid."""

from __future__ import annotations

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

LENGTH = 7
TEXT = [
    "data={kind: npz, path: text.npz, fields: {tokens: {shape: [7], medium: text, classes: 5, alphabet: abcde}, "
    "y: {classes: 3}}}",
    "backbone.width=16",
    "backbone.depth=2",
    "backbone.positions={kind: learned}",
    "sampler.top_k=0",
]


def weights(lowered):
    rng = np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    return {path: rng.normal(size=param.type.shape).astype(np.float32) * 0.3 for path, param in params.items()}


KERPLE = "{kind: kerple_attention, heads: 2, causal: true, bias: false, kernel: {kind: kerple_log}}"
KERNEL = ("backbone.positions=null", f"backbone.block.mixer={KERPLE}")
OPTIONS = {"learned positions": (), "biases by distance": KERNEL, "gated": ("backbone.block.condition.gated=true",)}


@pytest.mark.parametrize("options", OPTIONS)
def test_text_of_any_length(options):
    """Its tokens decoded one by one have the logits of the whole sequence."""
    lowered = lower(load_spec("digits_llamagen", overrides=[*TEXT, *OPTIONS[options]]))
    network, run = lowered.networks["main"], Interpreter(lowered.module, weights(lowered)).run
    tokens = np.random.default_rng(1).integers(0, 5, (2, LENGTH - 1))
    y = np.array([2, 0])
    (wanted,) = run(network.methods["forward"].function, tokens, y)
    logits, *caches = run(network.methods["prefill"].function, y)
    found = [logits]
    for i in range(LENGTH - 1):
        logits, *caches = run(network.methods["decode"].function, tokens[:, i], np.array(i + 1), *caches)
        found.append(logits)
    np.testing.assert_allclose(np.stack(found, axis=1), wanted, atol=1e-9)


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_causal_attention_with_biases(backend, tmp_path):
    """PyTorch's attention takes a mask or is causal, not both."""
    overrides, file = [*TEXT, "backbone.depth=1", *KERNEL], tmp_path / "w.safetensors"
    lowered = lower(load_spec("digits_llamagen", overrides=overrides))
    write_safetensors(file, {n: Array(w) for n, w in weights(lowered).items()})
    given = {"idx": np.arange(2 * (LENGTH - 1)).reshape(2, -1) % 5, "y": np.array([2, 0])}
    wanted, found = (api.forward("digits_llamagen", file, given, b, overrides=overrides) for b in ("oracle", backend))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_text_is_sampled_as_lines(tmp_path):
    spec = load_spec("digits_llamagen", overrides=TEXT)
    write_safetensors(tmp_path / "w.safetensors", {n: Array(w) for n, w in weights(lower(spec)).items()})
    api.compile("digits_llamagen", tmp_path / "w.safetensors", tmp_path / "bundle", overrides=TEXT)
    api.sample(tmp_path / "bundle", classes="all", output=tmp_path / "out.txt")
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert len(lines) == 3 and all(len(line) == LENGTH and set(line) <= set("abcde") for line in lines)


def test_rotary_positions_on_a_grid_need_one():
    with pytest.raises(DiagnosticError, match=r"E0305.*`rope_2d` needs a square grid of tokens, not 7"):
        load_spec("digits_llamagen", overrides=[*TEXT, "backbone.positions={kind: rope_2d}"])


@pytest.mark.parametrize(("kind", "data"), [("rope_1d", []), ("rope_1d", TEXT), ("rope_2d", [])])
def test_rotary_positions_have_tables(kind, data):
    lowered = lower(load_spec("digits_llamagen", overrides=[*data, f"backbone.positions={{kind: {kind}}}"]))
    for method in lowered.networks["main"].methods.values():
        assert {"freqs_cos", "freqs_sin"} <= {param.name for param in lowered.module.functions[method.function].params}
