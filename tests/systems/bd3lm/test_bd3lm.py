"""Block diffusion: training sees what sampling sees, places are drawn evenly, and contradictions are refused."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc.checkpoint import buffer, computed, network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = (*SYSTEMS["bd3lm"].sizes, "backbone.learned_positions=true")


def test_a_noisy_block_sees_what_it_sees_in_sampling():
    rng = np.random.default_rng(0)
    lowered = lower(load_spec("bd3lm", overrides=SIZES))
    network = lowered.networks["main"]
    params = network_params(lowered, network)
    weights = {
        f"main.{name}": buffer(p).array if computed(p) else rng.normal(0, 0.3, [int(d) for d in p.type.shape])
        for name, p in params.items()
    }
    run = Interpreter(lowered.module, weights, "f64").run
    clean, y = rng.integers(0, 17, (2, 64)), np.array([3, 5])
    noisy = np.where(rng.random(clean.shape) < 0.5, 17, clean)
    (trained,) = run(network.methods["train_forward"].function, noisy, clean, y, prefix="main")
    for block in range(4):
        inside = slice(16 * block, 16 * block + 16)
        seen = np.full_like(clean, 17)
        seen[:, : 16 * block], seen[:, inside] = clean[:, : 16 * block], noisy[:, inside]
        (drawn,) = run(network.methods["forward"].function, seen, y, prefix="main")
        np.testing.assert_allclose(trained[:, inside], drawn[:, inside], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.block=5", "do not divide 64 tokens"),
        ("objective.greatest=0.2", "is not above"),
        ("sampler.start=17", "tokens are 0 to 16"),
        ("objective={kind: masked_diffusion_tokens}", "predicts masked tokens from the others"),
        ("backbone.block.mixer.kv_heads=1", "cannot see some tokens"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("bd3lm", overrides=[*SIZES, override]))
