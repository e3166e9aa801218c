"""Every sampler component as IR, run by the interpreter, against the numpy meaning of its table."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from latentc.components import load
from latentc.components.contract import Method, Network, Port
from latentc.components.objective import Objective
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.objectives.flow import Flow
from latentc.components.processes.formulas import NUMPY
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.table import run
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify
from latentc.spec.sections import Stitch
from latentc.systems.score_sde.discrete_steps import limit
from latentc_runtime.sources import Setting

SHAPE, CLASSES = (2, 3, 3), 4
RNG = np.random.default_rng(3)
X = RNG.standard_normal((3, *SHAPE))
Y = np.array([0, 3, 1])
SCALE = np.array([1.0, 2.5, 4.0])
TABLE = RNG.standard_normal((CLASSES + 1, 2)) * 0.3


def diffusion(**values):
    return Diffusion.model_validate({"kind": "diffusion", **values})


def flow(**values):
    return Flow.model_validate({"kind": "flow", **values})


OBJECTIVES = {
    "diffusion noise": diffusion(),
    "diffusion x0": diffusion(predicts="x0", process={"kind": "discrete", "schedule": "cosine", "steps": 200}),
    "diffusion velocity": diffusion(
        predicts="velocity", process={"kind": "discrete", "schedule": "scaled_linear"}, variance="fixed_large"
    ),
    "diffusion learned": diffusion(variance="learned_range"),
    "linear velocity": flow(),
    "gvp score": flow(process={"kind": "interpolant", "path": "gvp"}, predicts="score"),
    "vp noise": flow(process={"kind": "interpolant", "path": "vp"}, predicts="noise"),
    "edm": diffusion(process={"kind": "edm"}, predicts="preconditioned"),
    "vp sde": diffusion(process={"kind": "vp", "prior": "marginal"}),
    "ve sde": diffusion(process={"kind": "ve"}, predicts="scaled_score"),
    "sub-vp sde": diffusion(process={"kind": "sub_vp"}, predicts="score"),
}
SAMPLERS = {kind: cls for kind, cls in load("samplers").items() if issubclass(cls, ArraySampler)}


def make(kind, **values):
    return SAMPLERS[kind].example(**values)


def spec(objective, dropout=0.1, stitch=None):
    """As much of a spec as a sampler looks at."""
    label = load("conditions")["label"].model_validate({"kind": "label", "dropout": dropout})
    return SimpleNamespace(
        objective=OBJECTIVES.get(objective),
        conditions={"class": label},
        data=SimpleNamespace(shape=SHAPE, fields={"y": SimpleNamespace(classes=CLASSES)}),
        optimize=SimpleNamespace(stitch=stitch),
        networks={},
        programs=(),
        sampler=None,
    )


def network(module, out_channels):
    """A network of a few ops that looks at x, t and y: tanh(x + embedding[y] + t / 1000), then a variance half."""
    b = module.function("Net.forward")
    x, t, y = b.input("x", f32(B, *SHAPE)), b.input("t", f32(B)), b.input("y", i64(B))
    embedded = b.take(b.param("embedding", f32(CLASSES + 1, 2), "zeros"), y, axis=0)
    shift = b.reshape(embedded, shape=(B, 2, 1, 1)) + b.reshape(t * 0.001, shape=(B, 1, 1, 1))
    out = b.tanh(x + shift)
    b.output(out if out_channels == SHAPE[0] else b.concat(out, b.sin(x * 3.0), axis=1))
    fn = module.functions[b.finish()]
    ports = (Port("x", x.type, "state"), Port("t", t.type, "time"), Port("y", y.type, "condition"))
    forward = Method(fn.name, ports, (Port("out", fn.outputs[0].type, "output"),))
    return Network("main", {"forward": forward}, frozenset({"denoise"}))


def forward(x, t, y, out_channels):
    out = np.tanh(x + TABLE[y][:, :, None, None] + t * 0.001)
    return out if out_channels == SHAPE[0] else np.concatenate([out, np.sin(3 * x)], axis=1)


def oracle(sampler, target, out_channels, noise):
    """The table's numpy meaning over the numpy network, guidance written out."""
    guidance, table = sampler.guidance, sampler.table(target)
    progress = itertools.chain.from_iterable(part.progress.ravel() for part in table.parts())

    def guided(x, t):
        out = forward(x, t, Y, out_channels)
        if guidance is not None and guidance.interval[0] <= next(progress) <= guidance.interval[1]:
            null = forward(x, t, np.full(3, CLASSES), out_channels)
            c = guidance.channels or SHAPE[0]
            out[:, :c] = (null + SCALE[:, None, None, None] * (out - null))[:, :c]
        return out

    if not table.body.variance:
        return run(table, lambda x, t: guided(x, t)[:, : SHAPE[0]], X, noise)
    return run(table, guided, X, noise)


def built(sampler, objective):
    channels = OBJECTIVES[objective].out_channels(SHAPE[0])
    module = ModuleBuilder()
    program = sampler.build(module, {"main": network(module, channels)}, spec(objective))
    done = module.finish()
    verify(done, "train")
    return done, program, channels


def arrays(program, noise):
    given = {"x": X, "y": Y, "scale": SCALE, "noise": noise}
    return [given[name] for name in program.sources]


def differ(sampler, objective):
    module, program, channels = built(sampler, objective)
    rows = program.sources["noise"].rows if "noise" in program.sources else 0
    noise = np.random.default_rng(1).standard_normal((rows, *X.shape))
    (ours,) = Interpreter(module, {"main.embedding": TABLE}).run(program.entry, *arrays(program, noise))
    theirs = oracle(sampler, OBJECTIVES[objective].parameterization(), channels, noise)
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


def paths(sampler, given):
    """Where the sampler and its guidance, a component of its own, find problems."""
    found = [problem.path for problem in sampler.problems(given)]
    if sampler.guidance is not None and isinstance(given.objective, Objective):
        found += [("guidance", *problem.path) for problem in sampler.guidance.problems(given)]
    return found


# An SDE or a velocity over time needs a process in continuous time, or in steps of one.
IMPOSSIBLE = {
    (kind, objective)
    for kind in ("adams_bashforth", "euler_maruyama", "heun_sde", "predictor_corrector", "probability_flow")
    for objective in OBJECTIVES
    if objective.startswith("diffusion")
    and (kind != "predictor_corrector" or limit(OBJECTIVES[objective].parameterization().process) is None)
}
# Neither is taught by these, nor are these samples video.
UNTAUGHT = ("flow_map", "renoised_flow_map", "stochastic_flow_map", "consistency", "flow_ddim", "tiled_ddim")
IMPOSSIBLE |= {(kind, objective) for kind in UNTAUGHT for objective in OBJECTIVES}
# It has levels before those of whole timesteps.
IMPOSSIBLE |= {("shifted_ddim", objective) for objective in OBJECTIVES if not objective.startswith("diffusion")}
# It follows a velocity.
IMPOSSIBLE |= {("gradient_descent", objective) for objective in OBJECTIVES if objective != "linear velocity"}


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_program_is_the_table(kind, objective):
    sampler = make(kind)
    if (kind, objective) in IMPOSSIBLE:
        assert paths(sampler, spec(objective)) == [("kind",)]
        return
    assert paths(sampler, spec(objective)) == []
    assert differ(sampler, objective) < 1e-9


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("ddpm", {"steps": 1}),
        ("ddpm", {"clip": 1.0, "variance": "fixed_small"}),
        ("ddpm", {"respacing": "3,2", "steps": 5}),
        ("ddim", {"eta": 0.5, "guidance": None}),
        ("ddim", {"guidance": {"scale": 1.0, "interval": [0.5, 0.6]}}),
        ("euler", {"spacing": "karras"}),
        ("heun", {"spacing": {"kind": "karras", "rho": 5}, "guidance": {"scale": 3.0, "interval": [0.0, 0.9]}}),
        ("heun", {"spacing": "trailing", "steps": 1}),
        ("dpm_solver_pp", {"order": 3, "steps": 16, "spacing": "karras", "clip": 1.0}),
        ("dpm_solver_pp", {"order": 1, "final": "sigma_min", "spacing": "leading"}),
        ("unipc", {"order": 2, "corrector": False}),
        ("unipc", {"predict_x0": False, "final": "sigma_min", "b_function": "bh1"}),
    ],
)
def test_options_of_diffusion(kind, values):
    for objective in ("diffusion noise", "diffusion learned"):
        assert differ(make(kind, **values), objective) < 1e-9


@pytest.mark.parametrize("last", ["mean", "tweedie", "euler", "none"])
@pytest.mark.parametrize("kind", ["euler_maruyama", "heun_sde"])
@pytest.mark.parametrize("form", ["sbdm", "sigma", "increasing_decreasing"])
def test_options_of_flows(kind, last, form):
    guidance = {"scale": 2.0, "interval": [0.1, 0.97], "channels": 1}
    sampler = make(kind, last=last, diffusion=form, guidance=guidance)
    for name in ("linear velocity", "gvp score", "vp noise"):
        assert differ(sampler, name) < 1e-9


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("quantile", "clip"), [(0.9, 1.0), (0.3, 0.5), (0.999, 0.7)])
def test_data_bounded_by_a_quantile_of_its_magnitudes(quantile, clip, per_channel):
    """Dynamic thresholding, with the noise of the bounded data."""
    options = {"clip": clip, "clip_quantile": quantile, "clip_per_channel": per_channel, "guidance": None}
    module, program, _ = built(make("ddim", steps=4, **options), "diffusion noise")
    (ours,) = Interpreter(module, {"main.embedding": TABLE}).run(program.entry, X, Y)
    x, process = X, OBJECTIVES["diffusion noise"].process
    times = [999, 666, 333, 0]
    for t, after in itertools.zip_longest(times, times[1:]):
        alpha, sigma = process.alpha(NUMPY, np.array(t)), process.sigma(NUMPY, np.array(t))
        data = (x - sigma * forward(x, t, Y, SHAPE[0])) / alpha
        axes = (2, 3) if per_channel else (1, 2, 3)
        level = np.maximum(np.quantile(np.abs(data), quantile, axis=axes, keepdims=True), clip)
        data = np.clip(data, -level, level) / level * clip
        noise = (x - alpha * data) / sigma
        x = data
        if after is not None:
            x = process.alpha(NUMPY, np.array(after)) * data + process.sigma(NUMPY, np.array(after)) * noise
    np.testing.assert_allclose(ours, x, rtol=1e-9)


def test_guidance_interval_splits_the_loop():
    sampler = make("ddim", steps=10, guidance={"scale": 2.0, "interval": [0.3, 0.6]})
    module, program, _ = built(sampler, "diffusion noise")
    loops = [n for n in module.entry(program.entry).nodes if n.op == "loop"]
    calls = [{node.op for node in module.functions[n.attrs["body"]].nodes} & {"call", "guided"} for n in loops]
    assert calls == [{"call"}, {"guided"}, {"call"}]
    assert [n.attrs["trip"] for n in loops] == [3, 3, 4]
    assert program.evaluations == 10


def test_a_stitched_trajectory_is_two_networks_in_a_row():
    """Each evaluation by the network of its time; with one network under both names, nothing changes."""
    sampler = make("heun", steps=5, guidance={"scale": 2.0, "interval": [0.0, 0.6]})
    module = ModuleBuilder()
    main = network(module, SHAPE[0])
    both = {"main": main, "small": replace(main, name="small")}
    until = spec("diffusion noise", stitch=Stitch(network="small", until=0.55))
    program = sampler.build(module, both, until)
    done = verify(module.finish(), "train")
    bodies = [done.functions[n.attrs["body"]] for n in done.entry(program.entry).nodes if n.op == "loop"]
    names = [tuple(n.attrs["name"] for n in body.nodes if n.op in ("call", "guided")) for body in bodies]
    assert names == [("small", "small"), ("small", "main"), ("main", "main"), ("main",)]
    plain, alone, _ = built(sampler, "diffusion noise")
    weights = {"main.embedding": TABLE, "small.embedding": TABLE}
    (ours,) = Interpreter(done, weights).run(program.entry, X, Y, SCALE)
    (theirs,) = Interpreter(plain, weights).run(alone.entry, X, Y, SCALE)
    np.testing.assert_array_equal(ours, theirs)
    (other,) = Interpreter(done, {**weights, "small.embedding": TABLE * 2}).run(program.entry, X, Y, SCALE)
    assert np.abs(other - theirs).max() > 1e-3


def test_heun_decides_guidance_per_evaluation():
    sampler = make("heun", steps=4, guidance={"scale": 2.0, "interval": [0.0, 0.6]})
    module, program, _ = built(sampler, "linear velocity")
    bodies = [module.functions[n.attrs["body"]] for n in module.entry(program.entry).nodes if n.op == "loop"]
    ops = [[n.op for n in body.nodes if n.op in ("call", "guided")] for body in bodies]
    assert ops == [["guided", "guided"], ["guided", "call"], ["call", "call"]]


def test_heun_decides_guidance_per_step_if_told():
    """REPA's sampler: both evaluations of a step are guided if its start is in the interval, whose ends are in it."""
    given = {"steps": 5, "last": "euler", "guided": "steps", "guidance": {"scale": 2.0, "interval": [0.2, 0.6]}}
    module, program, _ = built(make("heun", **given), "linear velocity")
    (ours,) = Interpreter(module, {"main.embedding": TABLE}).run(program.entry, X, Y, SCALE)

    def velocity(x, i, guided):
        made, null = (forward(x, i / 5, y, SHAPE[0]) for y in (Y, np.full(3, CLASSES)))
        return null + SCALE[:, None, None, None] * (made - null) if guided else made

    x = X
    for i in range(5):
        slope = velocity(x, i, 1 <= i <= 3)
        further = velocity(x + slope / 5, i + 1, 1 <= i <= 3) if i < 4 else slope
        x = x + (slope + further) / 10
    np.testing.assert_allclose(ours, x, atol=1e-12)


def test_what_a_program_says_of_itself():
    module, program, _ = built(make("ddpm", steps=5), "diffusion learned")
    assert (program.solver, program.steps, program.evaluations) == ("ddpm", 5, 5)
    assert list(program.sources) == [v.name for v in module.entry(program.entry).inputs]
    assert program.sources["noise"].rows == 5 and program.settings == (Setting("guidance", 2.0),)
    _, program, _ = built(make("heun_sde", steps=4), "linear velocity")
    assert (program.steps, program.evaluations, program.sources["noise"].rows) == (4, 7, 3)


POINTS = {
    "discrete": (999.0, 640.5, 333.0, 40.0),
    "interpolant": (0.002, 0.3, 0.55, 0.9),
    "edm": (70.0, 9.0, 0.5, 0.01),
}


def test_what_steps_of_an_sde_cannot():
    """A likelihood along the flow of steps, or ancestral steps of another number."""
    objective = "diffusion noise"
    likelihood = make("predictor_corrector", steps=4, likelihood={"steps": 2})
    assert paths(likelihood, spec(objective)) == [("likelihood",)]
    sampler = make("predictor_corrector", steps=2, predictor="ancestral")
    with pytest.raises(ValueError, match="`discrete` of 1000 steps cannot be sampled in 2"):
        sampler.table(OBJECTIVES[objective].parameterization())


def timed(*objectives: str) -> list[tuple[str, str]]:
    """Samplers and objectives whose times can be given; steps of an SDE that `discrete` is steps of are even.

    Those of `shifted_ddim` are whole.
    """
    pairs = {(kind, objective) for objective in objectives for kind in SAMPLERS} - IMPOSSIBLE
    kinds = ("predictor_corrector", "shifted_ddim")
    return sorted(pairs - {(kind, name) for kind in kinds for name in objectives if name.startswith("diffusion")})


@pytest.mark.parametrize(
    ("kind", "objective"), timed("diffusion noise", "diffusion learned", "linear velocity", "vp noise", "edm")
)
def test_timesteps_are_where_the_network_is_evaluated(kind, objective):
    target = OBJECTIVES[objective].parameterization()
    times = POINTS[target.process.kind]
    plain = {"kind": kind, "guidance": SAMPLERS[kind].EXAMPLE.get("guidance"), "timesteps": times}
    sampler = SAMPLERS[kind].model_validate(plain)
    assert sampler.steps == 4 and paths(sampler, spec(objective)) == []
    evaluated = np.concatenate(
        [part.columns["t"][:: part.substeps] for part in sampler.table(target).parts() if part.substeps]
    )
    np.testing.assert_array_equal(evaluated, target.process.point(times).time)
    assert differ(sampler, objective) < 1e-9


@pytest.mark.parametrize(("kind", "objective"), timed("diffusion noise", "gvp score", "edm"))
def test_the_timesteps_of_a_spacing_are_the_spacing(kind, objective):
    target = OBJECTIVES[objective].parameterization()
    spaced = make(kind, steps=5)
    parts = spaced.table(target).parts()
    times = np.concatenate([part.columns["t"][:: part.substeps] for part in parts if part.substeps])
    times = tuple((np.exp(4 * times) if objective == "edm" else times).tolist())
    given = make(kind, **{"steps": 5, "timesteps": times})
    assert paths(given, spec(objective)) == []
    for a, b in zip(parts, given.table(target).parts(), strict=True):
        for name in a.columns:
            np.testing.assert_allclose(b.columns[name], a.columns[name], rtol=1e-6, atol=1e-9)


def test_timesteps_that_cannot_be():
    for kind, objective, times, at in [
        ("ddim", "diffusion noise", (999, 1000), 1),
        ("ddim", "diffusion noise", (10, 10), 1),
        ("ddpm", "diffusion noise", (10, 5, 7), 2),
        ("unipc", "diffusion noise", (-1.0,), 0),
        ("euler", "linear velocity", (0.5, 0.4), 1),
        ("heun", "linear velocity", (0.5, 1.0), 1),
        ("euler", "vp noise", (0.5, 0.9995), 1),
        ("euler_maruyama", "linear velocity", (0.5, 2.0), 1),
    ]:
        sampler = SAMPLERS[kind].model_validate({"kind": kind, "timesteps": times})
        assert paths(sampler, spec(objective)) == [("timesteps", at)], (kind, times)
    # noise tells nothing of the data where there is none
    assert paths(SAMPLERS["euler"](kind="euler", timesteps=(0.0, 0.5)), spec("gvp score")) == [("timesteps",)]
    assert paths(make("ddim", steps=2, timesteps=(9, 3), spacing="trailing"), spec("diffusion noise")) == [("spacing",)]


def test_another_step_count():
    module = ModuleBuilder()
    net = {"main": network(module, SHAPE[0])}
    original = make("ddim", respacing="2,2", steps=4)
    chosen = SAMPLERS["ddim"](kind="ddim", timesteps=(9, 5, 1))
    assert chosen.with_steps(3) is chosen and chosen.with_steps(4).timesteps is None
    for steps in (3, 7):
        program = original.with_steps(steps).build(module, net, spec("diffusion noise"))
        assert (program.steps, program.entry) == (steps, f"sample.{steps}")
    assert set(module.finish().entries) == {"sample.3", "sample.7"}


def test_problems_stand_at_their_field():
    guided = {"scale": 2.0, "interval": (0.8, 0.2), "channels": 3}
    assert paths(make("ddim"), spec(None)) == [("kind",)]
    assert paths(make("ddpm", steps=1001), spec("diffusion noise")) == [("steps",)]
    assert paths(make("euler", spacing="trailing"), spec("linear velocity")) == [("steps",)]
    assert paths(make("ddim", steps=5, respacing="5"), spec("edm")) == [("steps",)]
    assert paths(make("ddim"), spec("diffusion noise", dropout=0.0)) == [("guidance",)]
    assert paths(make("ddim", guidance=guided), spec("diffusion noise")) == [
        ("guidance", "interval"),
        ("guidance", "channels"),
    ]
    assert paths(make("euler_maruyama"), spec("diffusion noise")) == [("kind",)]
    assert paths(make("ddpm", respacing="5", spacing="trailing"), spec("diffusion noise")) == [("spacing",)]
    (problem,) = make("ddpm", variance="learned_range").problems(spec("diffusion noise"))
    assert "learns no variance" in problem.message


@pytest.mark.parametrize("kind", SAMPLERS)
def test_defaults_written_out_change_nothing(kind):
    sampler = make(kind)
    again = type(sampler).model_validate(sampler.model_dump())
    assert again == sampler
    for objective in OBJECTIVES:
        assert paths(again, spec(objective)) == paths(sampler, spec(objective))


def test_a_program_that_cannot_be_is_refused():
    module = ModuleBuilder()
    net = network(module, SHAPE[0])
    with pytest.raises(ValueError, match="needs 4 output channels"):
        make("ddpm").build(module, {"main": net}, spec("diffusion learned"))
    with pytest.raises(ValueError, match="3 channels are guided"):
        make("ddim", guidance={"channels": 3}).build(module, {"main": net}, spec("diffusion noise"))
    with pytest.raises(ValueError, match="can be dropped"):
        make("ddim").build(module, {"main": net}, spec("diffusion noise", dropout=0.0))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("ddim", {"guidance": {"interval": [0.8, 1.2]}}, "interval"),
        ("ddim", {"respacing": "10,20", "steps": 7}, "has 30 steps, not 7"),
        ("ddim", {"respacing": "__import__('os')"}, "a count"),
        ("ddim", {"eta": 1.5}, "less than or equal"),
        ("ddim", {"timesteps": [], "steps": 3}, "`timesteps` is empty"),
        ("ddim", {"timesteps": [9, 3], "steps": 3}, "`timesteps` has 2 entries, but `steps` is 3"),
        ("unipc", {"order": 4}, "order"),
    ],
)
def test_wrong_fields(kind, values, message):
    with pytest.raises(ValidationError, match=message):
        SAMPLERS[kind].model_validate({"kind": kind, **values})


def test_every_field_is_described():
    for sampler, (name, field) in itertools.chain(
        *[[(s, item) for item in s.model_fields.items()] for s in SAMPLERS.values()]
    ):
        assert name == "kind" or field.description, f"{sampler.__name__}.{name}"
