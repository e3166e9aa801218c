"""Formulas of schedules: for every sampler, process and spacing they compute the sampler's table bit for bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from latentc.components import load
from latentc.components.processes.process import Boundary, Parameterization, Process
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.grid import Grid
from latentc.components.samplers.script import RENAMED
from latentc.components.samplers.table import DATA, DATA_PART, GUIDES, NOT_COEFFICIENTS, Table
from latentc.emit.schedule import Schedules, evaluated, schedule_function
from latentc.ir.builder import ModuleBuilder

PROCESSES = {name: cls for name, cls in load("processes").items() if issubclass(cls, Process)}
TABLES = ("flow_ddim", "shifted_ddim")  # of LFDM, whose levels no process has as a formula: projects hold their table
SAMPLERS = {k: cls for k, cls in load("samplers").items() if issubclass(cls, ArraySampler) and k not in TABLES}
SPACINGS = load("samplers/spacings")
PREDICTIONS = ("noise", "x0", "velocity", "flow_velocity", "score", "scaled_score", "preconditioned")
OTHERS = {*NOT_COEFFICIENTS, *GUIDES, *sum(DATA_PART + DATA, ())}


@cache
def example(process: str) -> Process:
    return PROCESSES[process](**PROCESSES[process].EXAMPLE)


def fields(kind: str, **changes: Any) -> dict[str, Any]:
    return {**{k: v for k, v in SAMPLERS[kind].EXAMPLE.items() if k != "guidance"}, "steps": 7, **changes}


def compared(sampler: ArraySampler, target: Parameterization) -> bool | None:
    """Whether a sampler has formulas, which are then its table's; None if it has no table."""
    try:
        table = sampler.table(target)
    except ValueError:
        return None
    script = sampler.schedule(target)
    if script is None:
        return False
    functions = {**script.sources.functions, "f": schedule_function("f", script, "Steps")}
    made = evaluated(plain_text(script.sources.constants, functions), "f")
    prior, *loops = (1.0, *made) if isinstance(made[0], dict) else made
    assert prior == table.prior
    for part, columns in zip(table.parts(), loops, strict=True):
        agrees(part, columns)
    return True


def plain_text(constants: dict[str, float], functions: dict[str, str]) -> str:
    """The text without its layout, which takes most of the time; `emit` compares the text that it writes."""
    values = [f"{name} = {value!r}" for name, value in constants.items()]
    return "\n".join(["Array = np.ndarray", *values, *functions.values()])


def agrees(table: Table, columns: dict[str, Any]) -> None:
    for name, values in table.columns.items():
        if (found := columns.get(RENAMED.get(name, name))) is not None:
            assert np.array_equal(found, values), (name, np.max(np.abs(found - values)))
        elif name not in OTHERS:
            assert np.all(np.abs(values - np.round(values[0])) <= 1e-12), f"{name} is missing"
    assert {RENAMED.get(name, name) for name in table.columns} >= set(columns)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_formulas_are_the_table(kind: str, pytestconfig: pytest.Config) -> None:
    """With every process and with every spacing, but with a third of their pairs; with `--exhaustive` in all."""
    count, apart = 0, 1 if pytestconfig.getoption("--exhaustive") else 3
    for place, name in enumerate(PROCESSES, [*SAMPLERS].index(kind)):
        process = example(name)
        for spacing in (None, *[*SPACINGS][place % apart :: apart]):
            predicts = "flow_velocity" if process.DEFAULTS.over == "time" else "noise"
            try:
                given = None if spacing is None else SPACINGS[spacing].EXAMPLE
                sampler = SAMPLERS[kind](**fields(kind, spacing=given))
            except ValueError:
                continue
            found = compared(sampler, Parameterization(process, predicts, boundary=Boundary(0.05, 0.5)))
            if found is None:
                continue
            levels = (spacing or process.DEFAULTS.spacing) in ("karras", "log_snr", "vp_levels", "iddpm_levels")
            assert found != (kind == "dpm_solver_singlestep" and levels), (name, spacing)
            count += found
    assert count


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", ["ddim", "deis", "heun", "euler_maruyama"])
def test_every_prediction(process: str, kind: str) -> None:
    sampler = SAMPLERS[kind](**fields(kind))
    found = {compared(sampler, Parameterization(example(process), predicts)) for predicts in PREDICTIONS}
    if found == {None}:
        pytest.skip("the sampler does not take the process")
    assert found <= {True, None}


PREDICTORS = ("reverse_diffusion", "euler_maruyama", "ancestral")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "heun": [
        {"churn": {"amount": 10.0, "min": 0.05, "max": 50.0, "noise": 1.007}},
        {"over": "level", "scaling": "vp"},
        *({"over": over, "scaling": scaling} for over in ("variance", "vp_time") for scaling in ("none", "vp")),
        {"last": "euler"},
        {"steps": 2, "timesteps": [0.1, 0.5]},
    ],
    "euler": [{"churn": {"amount": 10.0}}, {"over": "vp_time"}, {"over": "variance", "scaling": "vp"}],
    "ddim": [
        *(
            {"eta": eta, "clip": clip, "noise_of_clipped": own}
            for eta in (0.0, 0.7)
            for clip in (None, 1.0)
            for own in (True, False)
        ),
        {"respacing": "ddim10", "steps": 10},
        {"respacing": "10,5", "steps": 15},
        {"final": "sigma_min"},
        {"spacing": {"kind": "leading", "offset": 1, "stride": 3}},
    ],
    "ddpm": [
        *({"variance": variance} for variance in ("fixed_small", "fixed_large")),
        {"variance": "fixed_large", "final_noise": True},
        {"spacing": {"kind": "betas", "values": [0.001, 0.01, 0.1]}, "steps": 3},
    ],
    "dpm_solver_pp": [
        *({"order": order, "solver_type": kind} for order in (1, 2, 3) for kind in ("midpoint", "heun")),
        {"lower_order_final": False, "final": "sigma_min"},
    ],
    "unipc": [
        *({"order": order, "b_function": b} for order in (1, 2, 3) for b in ("bh1", "bh2")),
        {"predict_x0": False, "final": "sigma_min"},
        {"corrector": False},
    ],
    "deis": [{"order": order, "polynomial": name} for order in (1, 2, 3, 4) for name in ("rho", "log_rho")],
    "ipndm": [{"order": order} for order in (1, 2, 3, 4)],
    "predictor_corrector": [
        *({"predictor": p, "corrector": c} for p in PREDICTORS for c in ("langevin", "annealed", "none")),
        *({"probability_flow": True, "predictor": p} for p in ("euler_maruyama", "reverse_diffusion")),
        {"denoise": False, "corrector_steps": 3, "steps": 40},
    ],
    "probability_flow": [{"method": name, "denoise": steps} for name in ("rk4", "dopri5") for steps in (None, 5, 1000)],
    "euler_maruyama": [
        *(
            {"diffusion": form}
            for form in ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing")
        ),
        *({"last": last} for last in ("mean", "tweedie", "euler", "none")),
    ],
    "heun_sde": [{"last": last, "diffusion": "sbdm"} for last in ("mean", "euler", "none")],
    "dpm_solver_singlestep": [{"order": order, "predict_x0": x0} for order in (1, 2, 3) for x0 in (True, False)],
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options(kind: str) -> None:
    for options in OPTIONS[kind]:
        found = []
        linear = PROCESSES["discrete"](kind="discrete", steps=100)
        for process in (*map(example, ("edm", "discrete", "vp", "ve", "interpolant", "geometric")), linear):
            predicts = {"interpolant": "flow_velocity", "edm": "preconditioned"}.get(process.kind, "noise")
            try:
                sampler = SAMPLERS[kind](**{"kind": kind, "steps": 7, **options})
            except ValueError as error:
                raise AssertionError(options) from error
            found.append(compared(sampler, Parameterization(process, predicts)))
        assert True in found, options


@pytest.mark.parametrize(
    "process",
    [
        *(
            {"kind": "interpolant", "path": path, "noise_time": end}
            for path in ("linear", "gvp", "vp")
            for end in (0, 1)
        ),
        *(
            {"kind": "discrete", "schedule": schedule, "steps": 100}
            for schedule in ("linear", "scaled_linear", "cosine")
        ),
        *({"kind": "discrete", "interpolation": interpolation} for interpolation in ("level", "alpha")),
        {"kind": "discrete", "prior": "marginal", "time_offset": 1.0},
        {"kind": "vp", "time_input": "log_snr", "prior": "marginal"},
        *({"kind": "ve", "time_input": name} for name in ("log_sigma", "sigma")),
        {"kind": "edm", "time_factor": 250.0, "sigma_data": 1.0},
        *({"kind": "signal", "schedule": name, "tau": 0.9} for name in ("sigmoid", "cosine", "linear", "plain_cosine")),
    ],
    ids=lambda process: "-".join(map(str, process.values())),
)
def test_options_of_processes(process: dict[str, Any]) -> None:
    made = PROCESSES[process["kind"]](**process)
    target = Parameterization(made, "flow_velocity" if made.DEFAULTS.over == "time" else "noise")
    assert compared(SAMPLERS["ddim"](kind="ddim", steps=7), target)
    assert compared(SAMPLERS["heun"](kind="heun", steps=7, spacing="karras", over="level"), target)


HELD = {"sigma": lambda t: 1.0 - t}


class Held(PROCESSES["interpolant"]):  # type: ignore[name-defined,misc]
    """A process whose formula uses what its text cannot have."""

    def sigma(self, m: Any, t: Any) -> Any:
        return HELD["sigma"](t)


class Stray(PROCESSES["interpolant"]):  # type: ignore[name-defined,misc]
    """A process with a formula that cannot be printed."""

    def alpha(self, m: Any, t: Any) -> Any:
        return m.exp(m.log(self.EXAMPLE and t))


@pytest.mark.parametrize("cls", [Held, Stray])
def test_formulas_that_cannot_be_printed_leave_the_tables(cls: type[Process]) -> None:
    sampler = SAMPLERS["euler"](kind="euler", steps=3)
    target = Parameterization(cls(kind="interpolant"), "flow_velocity")
    module = ModuleBuilder()
    module.function("f").finish()
    script = sampler.schedule(target)
    if script is not None:
        assert Schedules().add("f", script, module.finish(), "f", "Steps") is None


def test_a_changed_formula_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails if the text computes other last bits."""
    sampler = SAMPLERS["dpm_solver_pp"](kind="dpm_solver_pp", steps=7)
    plain = Grid.log_snr
    assert compared(sampler, Parameterization(example("vp"), "noise"))
    monkeypatch.setattr(Grid, "alpha", property(lambda grid: grid.point.alpha * (1 + 4e-16)))
    assert plain is Grid.log_snr
    with pytest.raises(AssertionError):
        compared(sampler, Parameterization(example("vp"), "noise"))
