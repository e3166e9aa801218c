"""Conditional neural tomography beside its recordings: rays of the beam, fields of patients, volumes, refusals."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import weights_of

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

TINY = ("data.classes=3", "data.fields.x.shape=[1, 4, 4]", "networks.main.width=6", "networks.main.points=40")
TINY = (*TINY, "networks.main.omega=3", "sampler.resolution=3", "sampler.chunk=40")
RNG = np.random.default_rng(0)


@cache
def lowered(*more: str) -> Any:
    """The small spec, and its random weights without the prefix of their network."""
    low = lower(load_spec("phantoms_cond_cbnt", overrides=[*TINY, *more]))
    return low, {path.removeprefix("main."): a for path, a in weights_of(low, 0.5).items()}


def run(method: str, *given: np.ndarray, more: tuple[str, ...] = ()) -> np.ndarray:
    low, weights = lowered(*more)
    return np.asarray(Interpreter(low.module, weights).run(f"main.{method}", *given)[0])


def test_a_projection_is_the_integral_of_the_density_along_each_ray() -> None:
    """The beam written out: a source that circles around y, and a detector beyond the volume."""
    main = load_spec("phantoms_cond_cbnt").networks["main"]
    y, angle = np.array([0, 2]), np.array([[0.4], [2.5]])
    found = run("forward", y, angle)
    edge, at = np.tan(np.radians(main.fov) / 2), (np.arange(4000) + 0.5) * 8 / 4000
    for i in range(2):
        away = np.array([np.cos(angle[i, 0]), 0.0, np.sin(angle[i, 0])])
        across = np.array([np.sin(angle[i, 0]), 0.0, -np.cos(angle[i, 0])])
        for row in range(4):
            for column in range(4):
                u, v = (edge * (2 * place / 3 - 1) for place in (column, 3 - row))
                ray = u * across + v * np.array([0.0, 1.0, 0.0]) - away
                ray /= np.linalg.norm(ray)
                points = main.distance * away + at[:, None] * ray
                points = points[(np.abs(points) <= 1).all(1)]
                integral = 0.0
                if len(points):  # in pieces of the number of points that the method takes
                    spare = -len(points) % 40
                    padded = np.concatenate([points, np.zeros((spare, 3))]).reshape(-1, 40, 3)
                    density = run("density_at", padded, np.full(len(padded), y[i])).ravel()[: len(points)]
                    integral = float(density.sum() * (at[1] - at[0]))
                assert abs(found[i, 0, row, column] - integral) < 5e-3, (i, row, column)
    assert found.max() > 0.5


def test_training_takes_random_places_of_the_parts_of_rays() -> None:
    y, angle = np.array([1]), np.array([[1.0]])
    one, middle = run("forward", y, angle), np.full((1, 16, 40), 0.5)
    assert np.abs(run("train_forward", middle, y, angle) - one).max() < 1e-9
    moved = run("train_forward", RNG.uniform(0, 1, middle.shape), y, angle)
    assert 1e-6 < np.abs(moved - one).max() < 0.05


@pytest.mark.parametrize("modulation", ["film", "additive"])
def test_each_patient_has_a_field_of_its_own(modulation: str) -> None:
    """Written out: its output at a point scales and shifts what enters the layers of the shared field there."""
    more = ("networks.main.own_width=5", f"networks.main.modulation={modulation}")
    _, own = lowered(*more)
    points, y = RNG.uniform(-1, 1, (2, 40, 3)), np.array([2, 0])
    found = run("density_at", points, y, more=more)
    for i, patient in enumerate(y):
        h = points[i] @ own["own_enter_weight"][patient] + own["own_enter_bias"][patient]
        h = np.where(h > 0, h, 0.01 * h)
        shift = h @ own["own_shift_weight"][patient] + own["own_shift_bias"][patient]
        scale = 1.0
        if modulation == "film":
            scale = h @ own["own_scale_weight"][patient] + own["own_scale_bias"][patient]
        x = np.sin(3 * (points[i] @ own["field.enter.weight"].T + own["field.enter.bias"]))
        for layer in range(2):
            x = x * scale + shift
            x = np.sin(3 * (x @ own[f"field.layers.{layer}.weight"].T + own[f"field.layers.{layer}.bias"]))
        logit = (x * scale + shift) @ own["field.leave.weight"].T + own["field.leave.bias"]
        assert np.abs(found[i] - 1 / (1 + np.exp(-logit))).max() < 1e-9
    assert np.ptp(found) > 0.1


def test_a_volume_holds_the_densities_of_a_grid() -> None:
    volume = run("volume", np.array([1]))
    line = np.array([-2 / 3, 0, 2 / 3])
    grid = np.array([[x, y, z] for x in line for y in line for z in line])
    points = np.concatenate([grid, np.zeros((13, 3))])[None]
    assert volume.shape == (1, 1, 3, 3, 3)
    assert np.abs(volume.ravel() - run("density_at", points, np.array([1])).ravel()[:27]).max() < 1e-6
    assert np.ptp(volume) > 0.01


def test_the_loss_is_the_squared_error_of_projections() -> None:
    low, weights = lowered()
    x, y, angle = RNG.uniform(0, 1, (2, 1, 4, 4)), np.array([0, 1]), np.array([[0.1], [2.0]])
    places = RNG.uniform(0, 1, (2, 16, 40))
    given = {"x": x, "y": y, "angle": angle, "places": places}
    names = [value.name for value in low.module.entry("loss").inputs]
    whole = {f"main.{path}": a for path, a in weights.items()}
    (found,) = Interpreter(low.module, whole).run("loss", *(given[name] for name in names))
    assert abs(found - ((run("train_forward", places, y, angle) - x) ** 2).mean()) < 1e-6


def test_programs_give_projections_and_volumes(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("phantoms_cond_cbnt", tmp_path / "b", TINY), "cpu")
    angles = np.array([[0.0], [1.5]], np.float32)
    seen = pipe.sample([1, 1], conditions={"angle": angles})
    assert seen.shape == (2, 1, 4, 4) and np.abs(seen[0] - seen[1]).max() > 1e-4
    volumes = pipe.sample([0, 2], program="volume")
    assert volumes.shape == (2, 1, 3, 3, 3)
    line = np.array([-2 / 3, 0, 2 / 3], np.float32)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    for count in (27, 5):  # any number of points
        found = pipe.sample([2] * count, conditions={"point": grid[:count]}, program="density")
        assert np.abs(found.ravel() - volumes[1].ravel()[:count]).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["conditioning.angle=null"], "takes the class and one angle, but got no angle"),
        (["conditioning.class.dropout=0.1"], "the index of a class that is never dropped"),
        (["data.fields.x.shape=[1, 4, 6]"], "makes projections [1, H, H]"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said.replace("[", "\\[")):
        load_spec("phantoms_cond_cbnt", overrides=options)
