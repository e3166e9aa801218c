"""The class of students by PyTorch's layers, its last layer and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import weights_of

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.measure.forward import run_method
from latentc.spec import load_spec
from latentc.weights import Array

RNG = np.random.default_rng(3)
SIZES = (
    "data={kind: npz, path: x.npz, classes: 4, shape: [2, 15, 13]}",
    *(f"networks.main.{size}" for size in ("students=3", "stages=[[3, 4], [5]]", "hidden=[6]", "features=9")),
    "networks.main.padded=false",
    *(f"networks.teacher.{size}" for size in ("stages=[[4]]", "hidden=[7, 9]")),
)


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_each_student_gives_a_chunk(backend: Any) -> None:
    """Odd sides lose their last row or column, as in PyTorch's and Keras's pooling."""
    spec: Any = load_spec("digits_tcn", None, list(SIZES))
    lowered = lower(spec)
    own = {n.removeprefix("main."): a for n, a in weights_of(lowered, 0.3, RNG).items() if n.startswith("main.")}
    w = {name: torch.from_numpy(np.asarray(array)).double() for name, array in own.items()}
    x = RNG.standard_normal((2, 2, 15, 13))

    def layer(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    chunks = []
    for i in range(3):
        h = torch.from_numpy(x)
        for stage, count in ((0, 2), (1, 1)):
            for j in range(count):
                at = f"students.{i}.stages.{stage}.{j}"
                h = F.relu(F.conv2d(h, w[f"{at}.weight"], w[f"{at}.bias"]))
            h = F.max_pool2d(h, 2)
        chunks.append(layer(f"students.{i}.chunk", F.relu(layer(f"students.{i}.hidden.0", h.flatten(1)))))
    features = torch.cat(chunks, 1)
    wanted = {"see": features, "forward": layer("fc", F.relu(features))}
    for method, values in wanted.items():
        given = {name: Array(np.asarray(array, np.float32)) for name, array in own.items()}
        found = next(iter(run_method(spec, lowered, given, {"x": x}, backend, "main", method).values()))
        assert np.allclose(found, values.numpy(), atol=1e-5) and np.ptp(values.numpy()) > 0.1, method


def test_the_last_layer_is_the_teachers_and_is_trained_alone_later() -> None:
    first: Any = load_spec("digits_tcn", "students", list(SIZES))
    lowered = lower(first)
    own, taught = (network_params(lowered, lowered.networks[name]) for name in ("main", "teacher"))
    shared = {name for name in own.keys() & taught.keys() if own[name].type == taught[name].type}
    assert shared == {"fc.weight", "fc.bias"} and first.networks["main"].copy_of == "teacher"
    assert first.networks["main"].frozen_weights == ("fc.*",)
    later: Any = load_spec("digits_tcn", "refit", list(SIZES[:-2]))
    assert later.networks["main"].frozen_weights == ("students.*",) and later.networks["main"].trainable
    assert "teacher" not in later.networks and later.objective.kind == "classification"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("networks.main.students=2", "2 students cannot share 9 features evenly"),
        ("networks.main.features=6", "`main` has 6 features, but `teacher` has 9"),
        ("networks.main.stages=[[3, 4], [5], [6]]", "nothing is left of images of 15 × 13"),
        ("networks.teacher.hidden=[]", "there is no hidden layer"),
    ],
)
def test_what_it_refuses(change: str, said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_tcn", None, [*SIZES, change])
