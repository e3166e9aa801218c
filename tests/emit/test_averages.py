"""The moving average of the weights: constant decays and warm-ups, and the warning about initial weights."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import SHORT, TINY, run

from latentc.emit import project_from_lowered
from latentc.emit.optimizers import training_files
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.sections import Train

FORMS: dict[str, Any] = {
    "default": None,
    "constant": 0.9999,
    "without": {"decay": 0.9, "warmup": False},
    "short": {"decay": 0.5},
}


def written(step: int, decay: float, warmup: bool) -> float:
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


@pytest.mark.parametrize("form", FORMS)
def test_decays_are_those_of_the_spec(form: str) -> None:
    ema = FORMS[form]
    train = Train() if ema is None else Train.model_validate({"ema": ema})
    text = training_files(train)["train.py"]
    (expression,) = re.findall(r"^        decay = (.*)", text, re.MULTILINE)
    made: dict[str, Any] = {"Any": Any}
    for node in ast.parse(text).body:
        if getattr(node, "name", "") == "ema_decay":
            exec(ast.unparse(node), made)
    constant = ema if isinstance(ema, float) else None
    own = {"decay": 0.9999, "warmup": True, **(ema if isinstance(ema, dict) else {})}
    for step in (0, 1, 5, 80, 600, 10**6):
        wanted = constant or written(step, **own)
        given = {"train": train.model_dump(mode="json"), "step": step}
        assert eval(expression, made, given) == pytest.approx(wanted)


@pytest.mark.slow
def test_a_short_run_forgets_its_start_or_warns(tmp_path: Path) -> None:
    for name, ema in (("warm", "{decay: 0.9999}"), ("constant", "0.9999")):
        spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], f"train.ema={ema}"])
        project_from_lowered(lower(spec), spec, tmp_path / name)
    every = [*SHORT, "--steps", "30", "--checkpoint_every", "1", "--keep", "30"]
    said = run(tmp_path / "warm", "train.py", *every)
    assert "warning" not in said
    saved = [tmp_path / f"warm/runs/train/checkpoints/step-{k:08d}/networks.safetensors" for k in range(1, 31)]
    average = load_file(tmp_path / "warm/runs/train/weights.safetensors")
    weights = [load_file(file) for file in saved]
    for name, found in average.items():
        # The share of step k's weights, times the decays of all steps after it; the initial weights' share is 3e-9.
        shares = [math.prod(written(s, 0.9999, True) for s in range(k + 1, 30)) for k in range(30)]
        expected = sum((1 - written(k, 0.9999, True)) * shares[k] * weights[k][name].double() for k in range(30))
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6), name
    said = run(tmp_path / "constant", "train.py", *SHORT, "--steps", "4")
    assert said.count("warning: after 4 steps 100% of the averaged weights (`ema`) are the initial weights") == 2
    said = run(tmp_path / "constant", "train.py", *SHORT, "--steps", "4", "--ema", "0.5", "--out", "runs/short")
    assert "warning" not in said
    said = run(tmp_path / "warm", "train.py", *SHORT, "--steps", "4", "--ema.warmup", "false", "--out", "runs/cold")
    assert said.count("warning: ") == 2
