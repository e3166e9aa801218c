"""LARP's frame prediction: the first frames, the last of them repeated, are encoded and stand before the video."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    "data.tokens={vocabulary: 9, grid: [5]}",
    "data.fields.seen.shape=[1, 2, 8, 8]",
    *(f"backbone.{size}" for size in ("width=16", "depth=1", "block.mixer.heads=2", "positions={kind: sincos_1d}")),
    *(f"networks.encoder.{size}" for size in ("tokens=3", "filled_to=6", "width=16", "depth=1", "patch=4", "frames=2")),
    "networks.encoder.block.mixer.heads=2",
    "networks.encoder.bottleneck={kind: codebook, size: 9, channels: 4}",
    "conditioning.seen.end=9",
    "sampler.temperature=0",
]


def test_a_video_follows_the_tokens_of_its_first_frames() -> None:
    lowered = lower(load_spec("larp_fp", None, SIZES))
    weights = {
        f"{name}.{key}": array
        for name, network in lowered.networks.items()
        for key, array in random_weights(network_params(lowered, network), np.random.default_rng(0), 0.4).items()
    }
    assert weights["main.tok_embeddings.weight"].shape == (10, 16)  # the separator has a row, and no logit
    program, seen = lowered.programs[0], np.random.default_rng(1).random((2, 1, 2, 8, 8))
    (made,) = Interpreter(lowered.module, weights).run(program.entry, seen)

    def own(name: str) -> Interpreter:
        mine = {key.partition(".")[2]: array for key, array in weights.items() if key.startswith(f"{name}.")}
        return Interpreter(lowered.module, mine)

    (tokens,) = own("encoder").run("encoder.encode", seen)
    filled = load_spec("larp_fp", None, [*SIZES, "data.fields.seen.shape=[1, 6, 8, 8]"])
    whole: Any = Interpreter(lower(filled).module, {k[8:]: a for k, a in weights.items() if k.startswith("encoder.")})
    frames = np.concatenate([seen, np.repeat(seen[:, :, -1:], 4, axis=2)], axis=2)
    assert np.array_equal(tokens, whole.run("encoder.encode", frames)[0])
    told = np.concatenate([tokens, np.full((2, 1), 9)], axis=1)
    drawn = np.zeros((2, 4), np.int64)
    for i in range(5):
        (logits,) = own("main").run("main.forward", drawn, told)
        assert np.array_equal(logits[:, i].argmax(-1), made[:, i])
        drawn[:, i : i + 1] = made[:, i : i + 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("networks.main.spare_tokens=0", "condition `seen` has 10 values, but the table has 9 rows"),
        ("networks.encoder.filled_to=1", "`filled_to` extends shorter videos"),
        ("networks.encoder.reads=frames", "the data has no field `frames`"),
        ("networks.encoder.bottleneck={kind: gaussian, channels: 4}", "does not encode as tokens"),
    ],
)
def test_what_does_not_fit(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("larp_fp", None, [*SIZES, change])
