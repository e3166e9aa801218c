"""Weights under the authors' names go through the specs' name maps and give the authors' numbers, by every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from parity_data import LIMIT, SIZES, Numbers, error, excess, load

import latentc_runtime
from latentc import api
from latentc.checkpoint import arrays, computed, network_params, network_weights
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime.sources import ConditionSource, RandomSource, SettingSource

FORWARD, SAMPLER = 1e-5, 1e-4
BACKENDS = ("oracle", "torch", "onnx")


def checkpoint(folder: Path, weights: dict[str, np.ndarray], kind: str = "safetensors") -> Path:
    """The weights as a file on disk."""
    folder.mkdir(exist_ok=True)
    path = folder / f"official.{kind}"
    if kind == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, path)
    else:
        write_safetensors(path, {name: Array(array) for name, array in weights.items()})
    return path


def official(
    folder: Path, numbers: Numbers, system: str, *overrides: str
) -> tuple[Any, Lowered, dict[str, np.ndarray]]:
    """(spec, what it is lowered to, the network's weights under latentc's names)."""
    spec = load_spec(system, None, [*SIZES[system], *overrides])
    lowered = lower(spec)
    weights = network_weights(spec, lowered, checkpoint(folder, numbers.weights), "official")["main"]
    return spec, lowered, arrays(weights)


def stitched(folder: Path, numbers: Numbers) -> dict[str, Path]:
    """T-Stitch's two networks as a file each, as their authors publish them."""
    parts = {"small": "denoisers.0.", "main": "denoisers.1."}
    return {
        name: checkpoint(folder / name, {n.removeprefix(p): a for n, a in numbers.weights.items() if n.startswith(p)})
        for name, p in parts.items()
    }


def in_main(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"main.{name}": array for name, array in weights.items()}


def built(project: Any, weights: dict[str, np.ndarray], network: str = "main") -> torch.nn.Module:
    """The emitted network with these weights."""
    model = project.model.NETWORKS[network]().eval()
    kept = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in weights.items() if name in kept})
    return model


def tensors(given: list[Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in given]


# ---- forwards


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("system", ["dit", "dit_moe", "sit", "llamagen"])
def test_forward(system: str, kind: str, backend: str, tmp_path: Path) -> None:
    numbers = load({"llamagen": "llamagen.gpt.train", "dit_moe": "dit_moe.eval"}.get(system, system))
    inputs, out = dict(numbers.inputs), numbers.outputs.get("out")
    if system == "llamagen":
        inputs, out = {"idx": inputs["idx"], "y": inputs["cond_idx"]}, numbers.outputs["out.0"]
    weights = checkpoint(tmp_path, numbers.weights, kind)
    result = api.forward(system, weights, inputs, backend, overrides=SIZES[system], names="official")
    assert error(result, out) < FORWARD
    assert backend != "oracle" or excess(result, out, numbers.name) <= LIMIT


@pytest.mark.parametrize("name", ["dit.cfg", "sit.cfg"])
def test_guided_forward(name: str, tmp_path: Path) -> None:
    """The authors' forward_with_cfg: the first half of x with y and with no class, three channels guided."""
    numbers = load(name)
    _, lowered, weights = official(tmp_path, numbers, name.removesuffix(".cfg"))
    net = lowered.networks["main"]
    inputs = lowered.module.functions[net.methods["forward"].function].inputs
    mb = ModuleBuilder()
    mb.functions.update(lowered.module.functions)
    b = mb.function("guided")
    x, t, y = (b.input(value.name, value.type) for value in inputs)
    scale = b.input("scale", t.type)
    null = b.full(y, shape=(), value=net.methods["forward"].input("condition").null, dtype="i64")
    kinds = ("shared", "shared", "conditional")
    b.output(b.guided(net.methods["forward"].function, "main", [x, t, y], kinds, [null], scale, channels=3))
    mb.entries["guided"] = b.finish()
    given = [numbers.inputs[name][:1] for name in ("x", "t", "y")]
    (out,) = Interpreter(mb.finish(), in_main(weights)).run("guided", *given, np.array([4.0]))
    # The second half of the official output differs from the first in the unguided channels alone.
    assert error(out, numbers.outputs["out"][:1]) < FORWARD
    assert excess(out, numbers.outputs["out"][:1], numbers.name) <= LIMIT


@pytest.mark.parametrize("time", [100, 900])
def test_stitched_forward(time: int, tmp_path: Path) -> None:
    """The large network of T-Stitch late, the small one early; each out of its own file, and as a spec of its own."""
    numbers = load(f"t_stitch.t{time}")
    files = stitched(tmp_path, numbers)
    weights = [f"{name}={file}" for name, file in files.items()]
    if time == 100:
        result = api.forward("t_stitch", weights, numbers.inputs, "onnx", overrides=SIZES["t_stitch"], names="official")
        assert error(result, numbers.outputs["out"]) < FORWARD
    spec = load_spec("t_stitch", None, SIZES["t_stitch"])
    lowered = lower(spec)
    loaded = network_weights(spec, lowered, weights, "official")
    network = "small" if time == 900 else "main"
    oracle = Interpreter(lowered.module, arrays(loaded[network]))
    given = [numbers.inputs[name] for name in ("x", "t", "y")]
    (out,) = oracle.run(f"{network}.forward", *given)
    assert error(out, numbers.outputs["out"]) < FORWARD
    assert excess(out, numbers.outputs["out"], numbers.name) <= LIMIT


@pytest.mark.parametrize("backend", ["oracle", "torch", "unroll", "loop", "host", "one file", "control"])
def test_stitched_sampler(backend: str, tmp_path: Path) -> None:
    numbers = load("t_stitch.sampler_ddim10")
    until = 0.5 if backend == "control" else 0.4
    overrides = [
        *SIZES["t_stitch"],
        "sampler={kind: ddim, steps: 10, guidance: {scale: 4, channels: 3}}",
        f"optimize.stitch.until={until}",
    ]
    spec = load_spec("t_stitch", None, overrides)
    lowered = lower(spec)
    files: list[str] = [f"{name}={file}" for name, file in stitched(tmp_path, numbers).items()]
    loaded = network_weights(spec, lowered, files, "official")
    given = request(numbers, lowered)
    (program,) = lowered.programs
    if backend in ("oracle", "control"):
        weights = {f"{name}.{path}": a for name, tensors_ in loaded.items() for path, a in arrays(tensors_).items()}
        (out,) = Interpreter(lowered.module, weights).run(program.entry, *given.values())
    elif backend == "torch":
        with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
            made = project.sampler.PROGRAMS["sample"][program.steps]
            assert made.networks == ("small", "main")
            nets = [built(project, arrays(loaded[name]), name) for name in made.networks]
            out = made.sample(*nets, *tensors(list(given.values()))).numpy()
    else:
        source: Any = files
        if backend == "one file":
            source = tmp_path / "both.safetensors"
            api.convert_weights("t_stitch", files, source, "official", overrides=overrides)
        form: Any = "loop" if backend == "one file" else backend
        names = None if backend == "one file" else "official"
        api.compile("t_stitch", source, tmp_path / "bundle", overrides=overrides, names=names, form=form, run=False)
        pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
        out = pipe.sample(given["y"], noise={"x": given["x"]})
    found = error(out, numbers.outputs["out"][:1])
    assert found > 10 * SAMPLER if backend == "control" else found < SAMPLER


def test_weights_of_two_networks(tmp_path: Path) -> None:
    files = stitched(tmp_path, load("t_stitch.t100"))
    for given in (
        [f"main={files['main']}"],
        [f"main={files['main']}", f"main={files['main']}"],
        [f"main={files['main']}", str(files["small"])],
        [f"main={files['main']}", f"smal={files['small']}"],
    ):
        with pytest.raises(DiagnosticError, match="E0415"):
            api.compile("t_stitch", given, tmp_path / "bundle", overrides=SIZES["t_stitch"], names="official")
    with pytest.raises(DiagnosticError, match="E0410"):  # names of one network only
        api.compile("t_stitch", files["main"], tmp_path / "bundle", overrides=SIZES["t_stitch"], names="official")


# ---- losses

SIT_LOSSES = [
    (path, predicts, weighting)
    for path in ("linear", "vp")
    for predicts in ("velocity", "score", "noise")
    for weighting in (("none",) if predicts == "velocity" else ("none", "velocity"))
]


def sit_loss(path: str, predicts: str, weighting: str) -> tuple[Numbers, list[str], list[Any], list[Any]]:
    """(numbers, overrides, what the loss takes, what its terms are)."""
    name = {"linear": "Linear", "vp": "VP"}[path] + f"_{predicts}" + ("" if weighting == "none" else f"_{weighting}")
    numbers = load(f"sit.loss_{name}")
    overrides = [f"objective.process.path={path}", f"objective.predicts={predicts}", f"objective.weighting={weighting}"]
    noise, u = numbers.noise
    return numbers, overrides, [numbers.inputs["x1"], numbers.inputs["y"], u, noise], [numbers.outputs["out.loss"]]


def dit_loss() -> tuple[Numbers, list[str], list[Any], list[Any]]:
    numbers = load("dit.train_loss")
    given = [numbers.inputs[name] for name in ("x_start", "y", "t", "noise")]
    return numbers, [], given, [numbers.outputs[f"out.{name}"] for name in ("loss", "mse", "vb")]


def llamagen_loss() -> tuple[Numbers, list[str], list[Any], list[Any]]:
    numbers = load("llamagen.gpt.train")
    return numbers, [], [numbers.inputs["targets"], numbers.inputs["cond_idx"]], [numbers.outputs["out.1"]]


LOSSES = {
    "dit": ("dit", dit_loss),
    "llamagen": ("llamagen", llamagen_loss),
    **{f"sit-{'-'.join(case)}": ("sit", lambda case=case: sit_loss(*case)) for case in SIT_LOSSES},
}


@pytest.mark.parametrize("backend", ["oracle", "torch"])
@pytest.mark.parametrize("case", LOSSES)
def test_loss(case: str, backend: str, tmp_path: Path) -> None:
    system, make = LOSSES[case]
    numbers, overrides, given, wanted = make()
    spec, lowered, weights = official(tmp_path, numbers, system, *overrides)
    kept = np.ones(len(given[0]), np.float32)  # no label is dropped
    if backend == "oracle":
        terms = Interpreter(lowered.module, in_main(weights)).run("loss.terms", *given, kept)
        # LlamaGen gives the mean over the batch, the others a value per sample.
        terms = [term.mean() if np.ndim(want) == 0 else term for term, want in zip(terms, wanted, strict=True)]
    else:
        with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
            (update,) = project.objective.UPDATES
            result = update.loss(built(project, weights), *tensors([*given, kept]))
        terms = [term.numpy() for term in (result if isinstance(result, tuple) else (result,))]
        wanted = [np.mean(want) for want in wanted]
    for term, want in zip(terms, wanted, strict=True):
        assert error(term, want) < FORWARD
        assert backend != "oracle" or excess(term, want, numbers.name) <= LIMIT


# ---- samplers

# name of the numbers -> the spec, what makes its sampler the authors'
SAMPLERS = {
    "dit.sampler_ddim10": ("dit", "{kind: ddim, steps: 10, guidance: {scale: 4, channels: 3}}"),
    "dit.sampler_ddpm10": ("dit", "{kind: ddpm, steps: 10, guidance: {scale: 4, channels: 3}}"),
    # SiT counts the points of the grid: one more than steps.
    "sit.sampler_ode_euler10": ("sit", "{kind: euler, steps: 9, guidance: {scale: 4, channels: 3}}"),
    "sit.sampler_ode_heun10": ("sit", "{kind: heun, steps: 9, guidance: {scale: 4, channels: 3}}"),
    "sit.sampler_sde_em10": ("sit", "{kind: euler_maruyama, steps: 10, guidance: {scale: 4, channels: 3}}"),
    "sit.sampler_sde_heun10": (
        "sit",
        "{kind: heun_sde, steps: 10, last: tweedie, guidance: {scale: 4, channels: 3}}",
    ),
    "llamagen.sampler_greedy_cfg4": ("llamagen", "{kind: autoregressive, temperature: 0, guidance: {scale: 4}}"),
    "llamagen.sampler_topk_topp": (
        "llamagen",
        "{kind: autoregressive, temperature: 0.9, top_k: 20, top_p: 0.9, guidance: {scale: 2}}",
    ),
}


def request(numbers: Numbers, lowered: Lowered) -> dict[str, np.ndarray]:
    """The inputs of the sampling program, one sample of arrays or both of tokens."""
    (program,) = lowered.programs
    entry = lowered.module.entry(program.entry)
    given: dict[str, np.ndarray] = {}
    for value in entry.inputs:
        source = program.sources[value.name]
        if isinstance(source, ConditionSource):
            # The authors double the batch: rows 1: of arrays are the branch without a class.
            given[value.name] = numbers.inputs["cond"] if "cond" in numbers.inputs else numbers.inputs["y"][:1]
        elif isinstance(source, SettingSource):
            continue
        elif source.distribution == "uniform":
            given[value.name] = uniforms_of_draws(numbers)
        elif source.rows is None:
            given[value.name] = numbers.inputs["x_T"][:1]
        else:
            given[value.name] = np.stack(numbers.noise)[: source.rows, :1]
    for setting in program.settings:  # guidance
        given["scale"] = np.full(len(given["y"]), setting.default, np.float32)
    return {value.name: given[value.name] for value in entry.inputs}


def uniforms_of_draws(numbers: Numbers) -> np.ndarray:
    """f32[T, B]: the numbers that fall on the tokens the authors drew, in the middle of each token's share.

    The shares are made from the authors' logits, filtered by top-k 20 and top-p 0.9, without this project's sampler.
    """
    logits = numbers.outputs["out.logits"].astype(np.float64)
    cond, null = np.split(logits, 2, axis=1)
    tokens = numbers.outputs["out"].T
    u = np.zeros(tokens.shape, np.float32)
    for step, sample in np.ndindex(tokens.shape):
        row = (null + 2 * (cond - null))[step, sample] / 0.9
        order = np.argsort(-row)[:20]
        p = np.exp(row[order] - row[order].max())
        p /= p.sum()
        kept = order[np.cumsum(p) - p <= 0.9]
        shares = np.zeros(len(row))
        shares[kept] = np.exp(row[kept] - row.max())
        shares /= shares.sum()
        drawn = tokens[step, sample]
        assert shares[drawn] > 0, "the authors drew a token that this filter leaves out"
        u[step, sample] = shares[:drawn].sum() + shares[drawn] / 2
    return u


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SAMPLERS)
def test_sampler(case: str, backend: str, tmp_path: Path) -> None:
    system, sampler = SAMPLERS[case]
    numbers = load(case)
    spec, lowered, weights = official(tmp_path, numbers, system, f"sampler={sampler}")
    given = request(numbers, lowered)
    (program,) = lowered.programs
    if backend == "oracle":
        (out,) = Interpreter(lowered.module, in_main(weights)).run(program.entry, *given.values())
    elif backend == "torch":
        with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
            made = project.sampler.PROGRAMS["sample"][program.steps]
            out = made.sample(built(project, weights), *tensors(list(given.values()))).numpy()
    else:
        api.compile(
            system,
            tmp_path / "official.safetensors",
            tmp_path / "bundle",
            overrides=[*SIZES[system], f"sampler={sampler}"],
            names="official",
            run=False,
        )
        pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
        noise = {name: given[name] for name in given if isinstance(program.sources[name], RandomSource)}
        out = pipe.sample(given["y"], noise=noise)
    wanted = numbers.outputs["out"]
    if system == "llamagen":
        assert out.tolist() == wanted.tolist()
    else:
        assert error(out, wanted[:1]) < SAMPLER
        assert backend != "oracle" or excess(out, wanted[:1], numbers.name) <= LIMIT


# ---- other sizes and options: no official numbers, but the three backends must agree

OPTIONS = {
    "patch 4, deeper, wider": ("dit", ["backbone.patch=4", "backbone.depth=3", "backbone.width=96"]),
    "one head, 20 classes": ("dit", ["backbone.block.mixer.heads=1", "data.classes=20"]),
    "other resolution": ("dit", ["data.shape=[3, 8, 8]"]),
    "QK norm": ("dit", ["backbone.block.mixer.qk_norm={kind: rms_norm}"]),
    "no learned variance": ("dit", ["objective.variance=fixed_small"]),
    "no class dropout": ("dit", ["conditioning.class.dropout=0", "sampler.guidance=null"]),
    "grouped queries": ("llamagen", ["backbone.block.mixer.kv_heads=2"]),
    "one key head": ("llamagen", ["backbone.block.mixer.kv_heads=1"]),
    "tokens without class dropout": ("llamagen", ["conditioning.class.dropout=0", "sampler.guidance=null"]),
    "tokens with QK norm": ("llamagen", ["backbone.block.mixer.qk_norm={kind: rms_norm}", "sampler.top_k=9"]),
    "one expert a token": ("dit_moe", ["backbone.block.feed_forward.per_token=1"]),
    "every expert, none shared, gates of sum one": (
        "dit_moe",
        [
            "backbone.block.feed_forward={kind: mixture_of_experts, experts: 3, per_token: 3, normalise: true}",
            "backbone.block.feed_forward.shared=0",
        ],
    ),
    "SiT on a vp path": (
        "sit",
        ["objective.process.path=vp", "objective.predicts=noise", "backbone.unused_channels=0"],
    ),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str, batch: int, tmp_path: Path) -> None:
    system, overrides = OPTIONS[case]
    overrides = [*SIZES[system], *overrides]
    spec = load_spec(system, None, overrides)
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    own = {
        name: (rng.standard_normal([int(d) for d in param.type.shape]) * 0.1).astype(np.float32)  # type: ignore[arg-type]
        for name, param in network_params(lowered, lowered.networks["main"]).items()
        if not computed(param)
    }
    inputs: dict[str, np.ndarray] = {}
    y = rng.integers(0, spec.data.classes, batch)
    if spec.data.tokens is not None:
        inputs = {"idx": rng.integers(0, 64, (batch, spec.data.tokens.length - 1)), "y": y}
    else:
        inputs = {"x": rng.standard_normal((batch, *spec.data.shape)), "t": rng.random(batch) * 900, "y": y}
    weights = checkpoint(tmp_path, own)
    reference, *others = (api.forward(system, weights, inputs, backend, overrides=overrides) for backend in BACKENDS)
    assert all(error(other, reference) < FORWARD for other in others)


# ---- generators


@pytest.mark.parametrize("backend", [*BACKENDS, "openvino"])
@pytest.mark.parametrize("name", ["biggan.G", "biggan.G_truncated"])
def test_generator(name: str, backend: str, tmp_path: Path) -> None:
    """Running statistics that are not at their start, spectral norms by one iteration from stored vectors."""
    numbers = load(name)
    weights = checkpoint(tmp_path, numbers.weights)
    result = api.forward("biggan", weights, numbers.inputs, backend, overrides=SIZES["biggan"], names="official")
    assert error(result, numbers.outputs["out.x"]) < FORWARD
    assert backend != "oracle" or excess(result, numbers.outputs["out.x"], name) <= LIMIT


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_generator_in_training(backend: str, tmp_path: Path) -> None:
    """The batch's statistics in the norms; running ones and vectors become what the authors' become."""
    numbers = load("biggan.G_train")
    spec, lowered, weights = official(tmp_path, numbers, "biggan")
    given = [numbers.inputs["z"], numbers.inputs["y"]]
    if backend == "oracle":
        oracle = Interpreter(lowered.module, weights, training=True)
        (out,) = oracle.run("main.forward", *given)
        state = {**weights, **oracle.written}
    else:
        with emitted(lowered, spec, tmp_path / "project") as project:
            model = built(project, weights).train()
            out = model(*tensors(given)).detach().numpy()
        state = {path: value.numpy() for path, value in model.state_dict().items()}
    assert error(out, numbers.outputs["out.x"]) < FORWARD
    after = {**numbers.weights, **numbers.after}
    path = checkpoint(tmp_path / "after", after)
    expected = arrays(network_weights(spec, lowered, path, "official")["main"])
    moved = [name for name in expected if not np.array_equal(expected[name], weights[name])]
    assert len(moved) > 20
    for name in moved:
        assert error(state[name], expected[name]) < FORWARD, name


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "control"])
def test_generator_bundle(engine: str, tmp_path: Path) -> None:
    """The folded engine gives the authors' images; of other statistics it does not."""
    numbers = load("biggan.G_truncated")
    weights = dict(numbers.weights)
    if engine == "control":
        weights["blocks.1.0.bn2.stored_var"] = weights["blocks.1.0.bn2.stored_var"] * 1.1
    overrides = [*SIZES["biggan"], f"target.engine={'openvino' if engine == 'openvino' else 'onnxruntime'}"]
    bundle = tmp_path / "biggan.latentc"
    api.compile("biggan", checkpoint(tmp_path, weights), bundle, overrides=overrides, names="official", run=False)
    pipe = latentc_runtime.load(bundle, device="cpu")
    images = pipe.sample(numbers.inputs["y"], noise={"z": numbers.inputs["z"]})
    found = error(images, numbers.outputs["out.x"])
    assert found > 10 * FORWARD if engine == "control" else found < FORWARD
