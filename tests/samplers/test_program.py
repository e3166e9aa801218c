"""Every sampler component as IR, run by the interpreter, against the numpy meaning of its table."""

import itertools

import numpy as np
import pytest
from pydantic import ValidationError

from latentc.components import load
from latentc.components.contract import Network
from latentc.components.process import Process
from latentc.components.samplers.tables.reference import run
from latentc.components.schedules import path, schedule
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.ir.verify import verify

SHAPE, CLASSES = (2, 3, 3), 4
RNG = np.random.default_rng(3)
X = RNG.standard_normal((3, *SHAPE))
Y = np.array([0, 3, 1])
SCALE = np.array([1.0, 2.5, 4.0])
TABLE = RNG.standard_normal((CLASSES + 1, 2)) * 0.3
# every noise, timestep and prediction a component may meet
PROCESSES = {
    "diffusion noise": Process("noise", schedule("linear")),
    "diffusion x0": Process("x0", schedule("cosine", 200)),
    "diffusion velocity": Process("velocity", schedule("scaled_linear"), variance="fixed_large"),
    "diffusion learned": Process("noise", schedule("linear"), variance="learned_range"),
    "linear velocity": Process("flow_velocity", path=path("linear")),
    "gvp score": Process("score", path=path("gvp")),
    "vp noise": Process("noise", path=path("vp")),
}
SAMPLERS = load("samplers")


def make(kind, **values):
    return SAMPLERS[kind].model_validate({**SAMPLERS[kind].EXAMPLE, **values})


def network(module, out_channels):
    """A network of a few ops that looks at x, t and y: tanh(x + embedding[y] + t / 1000), then a variance half."""
    b = module.function("Net.forward")
    x, t, y = b.input("x", f32(B, *SHAPE)), b.input("t", f32(B)), b.input("y", i64(B))
    embedded = b.take(b.param("embedding", f32(CLASSES + 1, 2), "zeros"), y, axis=0)
    shift = b.reshape(embedded, shape=(B, 2, 1, 1)) + b.reshape(t * 0.001, shape=(B, 1, 1, 1))
    out = b.tanh(x + shift)
    b.output(out if out_channels == SHAPE[0] else b.concat(out, b.sin(x * 3.0), axis=1))
    methods = {"forward": b.finish()}
    return Network("main", "denoiser", methods, CLASSES, CLASSES, SHAPE, out_channels)


def forward(x, t, y, out_channels):
    out = np.tanh(x + TABLE[y][:, :, None, None] + t * 0.001)
    return out if out_channels == SHAPE[0] else np.concatenate([out, np.sin(3 * x)], axis=1)


def oracle(sampler, process, out_channels, noise):
    """The table's numpy meaning over the numpy network, guidance written out."""
    guidance = sampler.guidance

    def guided(x, t):
        out = forward(x, t, Y, out_channels)
        if guidance is not None and guidance.at(float(process.progress(t))):
            null = forward(x, t, np.full(3, CLASSES), out_channels)
            c = guidance.channels or SHAPE[0]
            out[:, :c] = (null + SCALE[:, None, None, None] * (out - null))[:, :c]
        return out

    table = sampler.table(process)
    if table.body != "learned_variance":
        return run(table, lambda x, t: guided(x, t)[:, : SHAPE[0]], X, noise)
    return run(table, guided, X, noise)


def built(sampler, process):
    channels = SHAPE[0] * (2 if process.variance == "learned_range" else 1)
    module = ModuleBuilder()
    program = sampler.program(module, network(module, channels), process)
    done = module.finish()
    verify(done)
    return done, program, channels


def arrays(program, noise):
    given = {"x": X, "y": Y, "scale": SCALE, "noise": noise}
    return [given[name] for name in program.sources]


def differ(sampler, process):
    module, program, channels = built(sampler, process)
    per_step = program.sources["noise"].per_step if "noise" in program.sources else 0
    noise = np.random.default_rng(1).standard_normal((per_step, *X.shape))
    (ours,) = Interpreter(module, {"main.embedding": TABLE}).run(program.entry, *arrays(program, noise))
    theirs = oracle(sampler, process, channels, noise)
    return np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs))


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_program_is_the_table(kind, process):
    sampler, process = make(kind), PROCESSES[process]
    if process.family not in sampler.FAMILIES:
        assert sampler.objections(process)[0][0] == ("kind",)
        return
    assert sampler.objections(process) == []
    assert differ(sampler, process) < 1e-9


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("ddpm", {"steps": 1}),
        ("ddpm", {"clip": 1.0, "variance": "fixed_small"}),
        ("ddpm", {"respacing": "3,2", "steps": 5}),
        ("ddim", {"eta": 0.5, "guidance": None}),
        ("ddim", {"guidance": {"scale": 1.0, "interval": [0.5, 0.6]}}),
        ("euler", {"karras": True}),
        ("heun", {"karras": True, "guidance": {"scale": 3.0, "interval": [0.0, 0.9]}}),
        ("heun", {"spacing": "trailing", "steps": 1}),
        ("dpm_solver_pp", {"order": 3, "steps": 16, "karras": True, "clip": 1.0}),
        ("dpm_solver_pp", {"order": 1, "final": "sigma_min", "spacing": "leading"}),
        ("unipc", {"order": 2, "corrector": False}),
        ("unipc", {"predict_x0": False, "final": "sigma_min", "b_function": "bh1"}),
    ],
)
def test_options_of_diffusion(kind, values):
    values = {k: v for k, v in values.items() if not (k == "steps" and "respacing" in values)}
    sampler = SAMPLERS[kind].model_validate(
        {**{k: v for k, v in SAMPLERS[kind].EXAMPLE.items() if k not in values and k != "steps"}, **values}
        if "respacing" in values
        else {**SAMPLERS[kind].EXAMPLE, **values}
    )
    for process in (PROCESSES["diffusion noise"], PROCESSES["diffusion learned"]):
        assert differ(sampler, process) < 1e-9


@pytest.mark.parametrize("last", ["mean", "tweedie", "euler", "none"])
@pytest.mark.parametrize("kind", ["euler_maruyama", "heun_sde"])
@pytest.mark.parametrize("form", ["sbdm", "sigma", "increasing_decreasing"])
def test_options_of_flows(kind, last, form):
    guidance = {"scale": 2.0, "interval": [0.1, 0.97], "channels": 1}
    sampler = make(kind, last=last, diffusion=form, guidance=guidance)
    for name in ("linear velocity", "gvp score", "vp noise"):
        assert differ(sampler, PROCESSES[name]) < 1e-9


def test_guidance_interval_splits_the_loop():
    sampler = make("ddim", steps=10, guidance={"scale": 2.0, "interval": [0.3, 0.6]})
    module, program, _ = built(sampler, PROCESSES["diffusion noise"])
    loops = [n for n in module.entry("sample").nodes if n.op == "loop"]
    calls = [{node.op for node in module.functions[n.attrs["body"]].nodes} & {"call", "guided"} for n in loops]
    assert calls == [{"call"}, {"guided"}, {"call"}]
    assert [n.attrs["trip"] for n in loops] == [3, 3, 4]
    assert program.evaluations == 10


def test_heun_decides_guidance_per_evaluation():
    sampler = make("heun", steps=4, guidance={"scale": 2.0, "interval": [0.0, 0.6]})
    module, _, _ = built(sampler, PROCESSES["linear velocity"])
    bodies = [module.functions[n.attrs["body"]] for n in module.entry("sample").nodes if n.op == "loop"]
    ops = [[n.op for n in body.nodes if n.op in ("call", "guided")] for body in bodies]
    assert ops == [["guided", "guided"], ["guided", "call"], ["call", "call"]]


def test_what_a_program_says_of_itself():
    module, program, _ = built(make("ddpm", steps=5), PROCESSES["diffusion learned"])
    assert (program.solver, program.steps, program.evaluations) == ("ddpm", 5, 5)
    assert list(program.sources) == [v.name for v in module.entry("sample").inputs]
    assert program.sources["noise"].per_step == 5 and program.sources["scale"].default == 2.0
    _, program, _ = built(make("heun_sde", steps=4), PROCESSES["linear velocity"])
    assert (program.steps, program.evaluations, program.sources["noise"].per_step) == (4, 7, 3)


def test_another_step_count():
    module = ModuleBuilder()
    net = network(module, SHAPE[0])
    for steps in (3, 7):
        program = make("ddim").program(module, net, PROCESSES["diffusion noise"], steps, f"sample.{steps}")
        assert program.steps == steps
    assert set(module.finish().entries) == {"sample.3", "sample.7"}


def test_refusals():
    process = PROCESSES["diffusion noise"]
    module = ModuleBuilder()
    net = network(module, SHAPE[0])
    with pytest.raises(ValueError, match="needs 4 channels"):
        make("ddpm").program(module, net, PROCESSES["diffusion learned"])
    with pytest.raises(ValueError, match="3 guided channels"):
        make("ddim", guidance={"channels": 3}).program(module, net, process)
    with pytest.raises(ValueError, match="null class"):
        bare = Network("main", "denoiser", net.methods, CLASSES, None, SHAPE, SHAPE[0])
        make("ddim").program(module, bare, process)
    assert make("ddpm", steps=1001).objections(process)[0][0] == ("steps",)
    assert make("euler", karras=True).objections(PROCESSES["linear velocity"])[0][0] == ("karras",)
    assert "learns no variance" in make("ddpm", variance="learned_range").objections(process)[0][1]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("ddim", {"guidance": {"interval": [0.8, 0.2]}}, "goes up"),
        ("ddim", {"respacing": "10,20", "steps": 7}, "is 30 steps, not 7"),
        ("ddim", {"respacing": "__import__('os')"}, "a count"),
        ("ddim", {"eta": 1.5}, "less than or equal"),
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
