"""VAR's mixtures of codes by a Gumbel softmax: samples end in the pixels of latents that no tokens stand for."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMOOTH = ["sampler.smooth=true", "backbone.depth=1"]
STAGE = "data.first_stage.weights=stage.safetensors"


def test_mixtures_of_one_code_are_that_code() -> None:
    spec = load_spec("digits_var", None, [*SMOOTH, "sampler.top_k=0", "sampler.top_p=1", STAGE])
    lowered = lower(spec)
    weights = {
        f"{name}.{key}": array
        for name, network in lowered.networks.items()
        for key, array in random_weights(network_params(lowered, network), np.random.default_rng(0), 0.2).items()
    }
    own = {key: array for key, array in weights.items() if key.startswith("quantizer.")}
    weights |= {key: weights[f"first_stage.{key.partition('.')[2]}"] for key in own}  # one codebook for both
    program, rng = lowered.programs[0], np.random.default_rng(1)
    assert program.outputs[0].field.medium == "image"
    assert program.sources["gumbel"].distribution == "gumbel"
    tokens = rng.integers(0, 128, (2, 30))
    gumbel = 1e4 * np.eye(128)[tokens]  # the others have no share
    given = {"y": np.array([3, 4]), "scale": np.full(2, 2.0), "gumbel": gumbel}
    names = [value.name for value in lowered.module.entry(program.entry).inputs]
    (made,) = Interpreter(lowered.module, weights).run(program.entry, *(given[name] for name in names))
    stage = {key.partition(".")[2]: array for key, array in weights.items() if key.startswith("first_stage.")}
    np.testing.assert_allclose(made, Interpreter(lowered.module, stage).run("first_stage.decode", tokens)[0], atol=1e-9)


def test_projects_and_the_likeliest_token() -> None:
    spec = load_spec("digits_var", None, SMOOTH)
    files = project_files(lower(spec, to_emit=True), spec)
    assert "decode_latents" in str(files["sampler.py"])
    with pytest.raises(DiagnosticError, match="`smooth` mixes drawn codes"):
        load_spec("digits_var", None, [*SMOOTH, "sampler.temperature=0"])
