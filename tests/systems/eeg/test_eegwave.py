"""EEGWave's table of times, its conditions, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.diffwave.step_table import step_table

SIZES = ["data.fields.x.shape=[3, 16]", "data.fields.subject.classes=4", "conditioning.time.frequencies=6"]
SIZES += ["backbone.width=4", "backbone.depth=2", "backbone.cycle=2"]
SIZES += ["backbone.time_width=5", "backbone.hidden=7", "backbone.vector_width=6"]


def weights() -> dict[str, np.ndarray]:
    rng, lowered = np.random.default_rng(0), lower(load_spec("eeg", None, SIZES))
    params = network_params(lowered, lowered.networks["main"])
    return {n: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32) for n, p in params.items()}


def test_times_and_conditions_are_added_to_every_layer() -> None:
    """Written out for one layer's gate: a time between rows, and the three conditions, each by its own layers."""
    own = weights()
    given = {"x": np.ones((1, 3, 16)), "t": np.array([700.25], np.float32)}
    given |= {"y": np.array([1]), "subject": np.array([3]), "session": np.array([0])}

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        weight = own[f"{name}.weight"]
        return x @ weight.reshape(weight.shape[0], weight.shape[1], -1)[..., 0].T + own[f"{name}.bias"]

    table = step_table(1000, 6)
    rows = {"t": 0.75 * table[700] + 0.25 * table[701]}
    rows |= {name: own[f"{name}_table.weight"][given[name][0]] for name in ("y", "subject", "session")}
    cond = {
        name: silu(linear(f"{name}_embedder.fc2", silu(linear(f"{name}_embedder.fc1", r)))) for name, r in rows.items()
    }
    x, skips = np.maximum(linear("input_projection", given["x"][0].T), 0), 0.0  # [L, C]
    for i in range(2):
        layer, dilation = f"residual_layers.{i}", 2**i
        h = x + sum(linear(f"{layer}.{name}_projection", c) for name, c in cond.items())
        padded = np.pad(h, ((dilation, dilation), (0, 0)))
        kernel = own[f"{layer}.dilated_conv.weight"]
        h = sum(padded[k * dilation : k * dilation + 16] @ kernel[..., k].T for k in range(3))
        gate, filtered = np.split(h + own[f"{layer}.dilated_conv.bias"], 2, axis=1)
        h = linear(f"{layer}.output_projection", np.tanh(filtered) / (1 + np.exp(-gate)))
        x, skips = (x + h[:, 4:]) / np.sqrt(2), skips + h[:, :4]
    out = linear("output_projection", np.maximum(linear("skip_projection", skips / np.sqrt(2)), 0)).T
    found = api.forward("eeg", own, given, overrides=SIZES)[0]
    assert np.abs(found - out).max() < 1e-5 * np.abs(out).max()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["conditioning.time.levels=900"], "the table has rows for times 0 to 899, but the process has times"),
        (["objective.process={kind: ve}", "sampler.predictor=reverse_diffusion"], "the process has times -"),
        (["data.fields.x.shape=[19]"], "a eegwave takes waveforms [channels, time]"),
        (["conditioning.time={kind: step_table, levels: 1000}"], "needs a process with integer timesteps"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("eeg", None, overrides)
    assert said in str(error.value), error.value


def test_guidance_needs_conditions_that_training_drops() -> None:
    with pytest.raises(DiagnosticError, match="dropout"):
        load_spec("eeg", None, ["sampler.guidance={scale: 2.0}"])
    lowered = lower(load_spec("eeg", "guided", SIZES))
    shapes = {n: p.type.shape for n, p in network_params(lowered, lowered.networks["main"]).items()}
    assert tuple(shapes["subject_table.weight"]) == (5, 6), "a row for a dropped subject"


def test_other_embeddings_of_the_time_have_no_table() -> None:
    spec = load_spec("eeg", None, [*SIZES, "conditioning.time={kind: timestep, frequencies: 6}"])
    sizes = lower(spec).networks["main"].sizes
    assert (sizes["tables"], sizes["rows"], sizes["features"], sizes["table"]) == (0, 0, 0, ())
