"""Hi-MAR from captions: as many tokens of captions as a buffer has, each embedded like a class, are that buffer."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import HIMAR

from latentc.checkpoint import network_params
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

CLASSES, FEATURES, BUFFER, N, T, C = 5, 3, 4, 4, 16, 4
CAPTIONS = (
    *("data.path=train.npz", "data.first_stage=null", "data.shape=[1, 8, 8]", *HIMAR),
    f"data.fields={{caption: {{shape: [{BUFFER}, {FEATURES}]}}, caption_mask: {{shape: [{BUFFER}], dtype: bool}}}}",
)
LABELS = (f"data={{kind: npz, path: train.npz, classes: {CLASSES}, shape: [1, 8, 8]}}", *HIMAR)
RNG = np.random.default_rng(0)
X, DENSE, Z = (RNG.standard_normal((2, *shape)) for shape in ((N, C), (T, C), (N, 16)))
MASK, HIDDEN, LEFT_OUT = ((RNG.random((2, count)) < 0.5).astype(float) for count in (N, T, N))


def network(variant: str | None, *overrides: str) -> Lowered:
    return lower(load_spec("himar", variant, overrides))


@pytest.mark.parametrize("padding", ["zeros", "masked"])
def test_captions_are_tokens_in_front(padding: str) -> None:
    told = network("S-t2i", *CAPTIONS, f"conditioning.caption.padding={padding}")
    labelled = network(None, *LABELS)
    w = random_weights(network_params(told, told.networks["main"]), RNG, 0.3)
    y, every, given = np.array([3, 1]), np.ones((2, BUFFER), bool), np.ones(2)
    caption = RNG.standard_normal((2, 1, FEATURES)).repeat(BUFFER, axis=1)
    own = {name: value for name, value in w.items() if not name.startswith("caption_embedder")}
    own["y_embedder.weight"] = np.zeros((CLASSES + 1, 16))
    own["y_embedder.weight"][y] = caption[:, 0] @ w["caption_embedder.weight"].T + w["caption_embedder.bias"]
    calls = ("pivots", (X, MASK)), ("forward", (DENSE, HIDDEN, LEFT_OUT, Z))
    for method, inputs in calls:
        (found,) = Interpreter(told.module, w).run(f"main.{method}", *inputs, caption, every, given)
        (wanted,) = Interpreter(labelled.module, own).run(f"main.{method}", *inputs, y)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    last = every.copy()
    last[:, -1] = False
    other = caption.copy()
    other[:, -1] += 1
    results = [Interpreter(told.module, w).run("main.pivots", X, MASK, c, last, given)[0] for c in (caption, other)]
    np.testing.assert_allclose(*results, rtol=0, atol=1e-9)  # what does not count is not seen
    seen = [Interpreter(told.module, w).run("main.pivots", X, MASK, c, every, given)[0] for c in (caption, other)]
    assert np.abs(seen[0] - seen[1]).max() > 1e-3  # what counts is


def test_hidden_fractions_may_be_of_a_beta_distribution() -> None:
    draws = {draw.name: draw for draw in network("S-t2i", *CAPTIONS).updates[0].draws}
    for name in ("fraction", "dense_share"):
        assert (draws[name].distribution, draws[name].parameters) == ("beta", {"a": 4.0, "b": 1.0})


def test_weights_of_tokens_in_front_are_refused() -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("himar", None, [*LABELS, "networks.main.block.condition.front=own"])
    assert "no leading tokens that could have separate weights" in str(error.value.diagnostics)
