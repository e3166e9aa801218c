"""RAE's DiT-DH beyond its cases of official numbers: autoguidance, training times, a head as wide as its encoder."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from parity_data import error, load

from latentc.checkpoint import network_params, network_weights
from latentc.components.processes.formulas import NUMPY
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.rae.warped_path import WarpedPath
from latentc.weights import Array, materialise, write_safetensors

TINY = ["backbone.width=16", "backbone.depth=1", "backbone.decoder_width=24", "backbone.decoder_depth=1"]
TINY += ["backbone.decoder_heads=2", "backbone.block.mixer.heads=2", "backbone.patch=4", "sampler.steps=2"]
OFFICIAL = [
    "data.first_stage=null",
    "data.shape=[8, 4, 4]",
    "data.classes=10",
    "networks.main.width=48",
    "networks.main.depth=3",
]
OFFICIAL += ["networks.main.decoder_width=96", "networks.main.decoder_heads=4", "networks.main.block.mixer.heads=3"]
OFFICIAL += ["networks.guide.width=32", "networks.guide.depth=1", "networks.guide.block.mixer.heads=2"]
OFFICIAL += ["networks.guide.decoder_width=64", "networks.guide.decoder_depth=1", "networks.guide.decoder_heads=2"]


def test_guidance_by_a_smaller_network_is_that_of_the_authors(tmp_path: Path) -> None:
    """g + s (m - g) where 0.2 <= t <= 0.8, else m."""
    numbers = load("rae.autoguidance")
    spec = load_spec("rae", "XL-guided", OFFICIAL)
    low = lower(spec)
    files = []
    for network, prefix in (("main", "model."), ("guide", "guide.")):
        own = {n.removeprefix(prefix): Array(a) for n, a in numbers.weights.items() if n.startswith(prefix)}
        write_safetensors(tmp_path / f"{network}.safetensors", own)
        files.append(f"{network}={tmp_path / network}.safetensors")
    weights = network_weights(spec, low, files, "official", None, ["main", "guide"])
    given = [numbers.inputs[name] for name in ("x", "t", "y")]
    outs = [
        Interpreter(low.module, {n: materialise(a) for n, a in weights[name].items()}, "f64").run(
            low.module.entries[f"{name}.forward"], *given
        )[0]
        for name in ("main", "guide")
    ]
    t = given[1].reshape(-1, 1, 1, 1)
    guided = np.where((t >= 0.2) & (t <= 0.8), outs[1] + 1.5 * (outs[0] - outs[1]), outs[0])
    assert error(guided, numbers.outputs["out"]) < 1e-6


def test_training_times_are_cut_off_and_move_toward_the_noise() -> None:
    process = WarpedPath(kind="warped_path", shift=3.0, most=0.9, logit_mean=0.5, logit_std=2.0)
    draw = process.draw()
    assert draw.distribution == "normal_between" and draw.parameters["low"] == 0.0
    last = draw.parameters["mean"] + draw.parameters["std"] * NormalDist().inv_cdf(draw.parameters["high"])
    assert 1 / (1 + np.exp(-last)) == pytest.approx(0.9)
    found = process.training_time(NUMPY, np.array([0.0, last]), "flow_velocity")
    assert found == pytest.approx([3 * 0.5 / (1 + 2 * 0.5), 3 * 0.9 / (1 + 2 * 0.9)])


def test_a_head_as_wide_as_its_encoder_needs_no_projection() -> None:
    wide, same = (
        network_params(low, low.networks["main"])
        for low in (
            lower(load_spec("digits_rae", None, [*TINY, *more])) for more in ([], ["backbone.decoder_width=16"])
        )
    )
    assert wide.keys() - same.keys() == {"s_projector.weight", "s_projector.bias"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.decoder_heads=5"], "5 heads do not divide the width of 24"),
        (["backbone.decoder_heads=4"], "a head of 6 must be divisible by 4"),
        (["backbone.block.mixer={kind: depthwise_conv, kernel: 3}"], "`depthwise_conv` has none"),
        (["backbone.block.condition={kind: adaln_zero}"], "have a condition for each token, not `adaln_zero`"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_rae", None, [*TINY, *overrides])
    assert any(said in one.message for one in caught.value.diagnostics), caught.value
