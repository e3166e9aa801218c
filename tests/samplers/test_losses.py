"""The emitted losses of every process, run by the interpreter, against the formulas in numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_processes import PROCESSES

from latentc.components.contract import Method, Network, Port
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.objectives.flow import Flow
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.prediction import functional
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32

SHAPE = (2, 3, 3)
SPEC = SimpleNamespace(networks={})
RNG = np.random.default_rng(3)
X, NOISE = RNG.standard_normal((2, 3, *SHAPE))


def network(module, factor):
    """tanh(x + time / 100), once or twice along the channels."""
    b = module.function("Net.forward")
    x, t = b.input("x", f32(B, *SHAPE)), b.input("t", f32(B))
    out = b.tanh(x + b.reshape(t * 0.01, shape=(B, 1, 1, 1)))
    b.output(out if factor == 1 else b.concat(out, out, axis=1))
    state, time = Port("x", f32(B, *SHAPE), "state"), Port("t", f32(B), "time")
    output = Port("out", f32(B, factor * SHAPE[0], *SHAPE[1:]), "output")
    return Network("main", {"forward": Method(b.finish(), (state, time), (output,))}, frozenset({"denoise"}))


def value(objective, draw):
    """The loss per sample, of these draws."""
    module = ModuleBuilder()
    net = network(module, objective.out_channels(1))
    (update,) = objective.build(module, {"main": net}, SimpleNamespace(conditions={}, networks={}))
    assert [d.name for d in update.draws] == [objective.process.draw().name, "noise"]
    outs = Interpreter(module.finish()).run("loss.terms", X, draw, NOISE)
    assert len(outs) == len(update.metrics)
    return outs[0]


NORMAL = [name for name, process in PROCESSES.items() if process.kernel(SHAPE) is None]  # their noise is normal
CASES = [
    (name, predicts)
    for name in NORMAL
    for predicts in ("noise", "x0", "velocity", "score", "scaled_score", "preconditioned")
    if predicts != "preconditioned" or name == "edm"
]


@pytest.mark.parametrize(("name", "predicts"), CASES)
def test_diffusion_is_the_squared_error_of_the_prediction(name, predicts):
    process = PROCESSES[name]
    draw = np.array([1, 400, 900]) if process.WHOLE else np.array([0.1, 0.5, 0.8])
    objective = Diffusion.model_validate({"kind": "diffusion", "process": process.model_dump(), "predicts": predicts})
    times = np.asarray(process.training_time(NUMPY, draw, predicts), float)
    point = process.point(times)
    u, w, alpha, sigma, scale, told = (
        np.broadcast_to(np.asarray(v, float), times.shape)[:, None, None, None]
        for v in (*functional(predicts, point), point.alpha, point.sigma, point.scale, point.time)
    )
    error = np.tanh(scale * (alpha * X + sigma * NOISE) + told * 0.01) - (u * X + w * NOISE)
    error = error * sigma if predicts == "score" else error
    np.testing.assert_allclose(value(objective, draw), np.mean(error**2, axis=(1, 2, 3)), rtol=1e-6)


SMOOTH = [name for name in NORMAL if PROCESSES[name].derivatives(NUMPY, 0.5)[0] is not None]


@pytest.mark.parametrize("name", SMOOTH)
def test_a_flow_trains_on_any_process_in_continuous_time(name):
    process = PROCESSES[name]
    draw = np.array([0.1, 0.5, 0.8])
    objective = Flow.model_validate({"kind": "flow", "process": process.model_dump()})
    times = np.asarray(process.training_time(NUMPY, draw, "flow_velocity"), float)
    point = process.point(times)
    alpha, sigma, d_alpha, d_sigma, scale, told = (
        np.asarray(v, float)[:, None, None, None]
        for v in (point.alpha, point.sigma, point.d_alpha, point.d_sigma, point.scale, point.time)
    )
    error = np.tanh(scale * (alpha * X + sigma * NOISE) + told * 0.01) - (d_alpha * X + d_sigma * NOISE)
    np.testing.assert_allclose(value(objective, draw), np.mean(error**2, axis=(1, 2, 3)), rtol=1e-6)


def test_a_learned_variance_needs_a_schedule():
    objective = Diffusion.model_validate({"kind": "diffusion", "process": {"kind": "vp"}, "variance": "learned_range"})
    assert [problem.path for problem in objective.problems(SPEC)] == [("variance",)]
    learned = Diffusion.model_validate({"kind": "diffusion", "variance": "learned_range"})
    assert list(learned.problems(SPEC)) == [] and value(learned, np.array([0, 400, 900])).shape == (3,)
