"""PPAP: which expert guides where, the classifier against PyTorch's layers, what an expert learns from."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import weights_of

from latentc.checkpoint import network_params
from latentc.components import load
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(2)
RESNET = ("layers=[1, 2, 1, 1]", "width=4")
EXPERT = (
    *(f"networks.{name}.{size}" for name in ("main", "teacher") for size in RESNET),
    *("networks.main.adapter={rank: 2, alpha: 3}", "data={kind: npz, path: x.npz, classes: 7, shape: [3, 18, 18]}"),
)
GUIDED = (
    *("data={kind: npz, path: x.npz, classes: 10, shape: [3, 16, 16]}", "conditioning.time.frequencies=16"),
    *("backbone.width=16", "backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]"),
    *("backbone.block.groups=4", "backbone.block.head_channels=8", "networks.expert_0.adapter.rank=2"),
    *(f"networks.expert_0.{size}" for size in ("layers=[1, 1, 1, 1]", "width=4", "bottleneck=false")),
    *("networks.expert_2=null", "networks.expert_3=null", "networks.expert_4=null"),
    *("sampler.respacing=ddim5", "sampler.guidance.experts=[expert_0, expert_1]", "sampler.guidance.scale=2"),
)
_BLOCK = "{mixer: {kind: adapted_attention, heads: 2, adapter: {rank: 2, alpha: 3}}, feed_forward: {kind: gelu_mlp}, "
_BLOCK += "norm: {kind: layer_norm, affine: true}, condition: {kind: in_context}}"
_VISION = "kind: vision_classifier, width: 8, multipliers: [1], depths: [1], patch: 4, image: 12"
_VISION = f"{{{_VISION}, normalise: true, positions: {{kind: learned}}, block: {_BLOCK}}}"
_STAGES = "[{channels: 4, ratio: 1}, {channels: 6, blocks: 2, kernel: 5, ratio: 2, halve: true}]"
_SEES = f"{{kind: map_predictor, stem: 4, stages: {_STAGES}, features: 4, head: 4, positive: false, image: 16, "
_SEES += "normalise: true, adapter: {rank: 2, alpha: 3}}"
DEPTH = (
    *(size for size in GUIDED if "expert_0." not in size and "data=" not in size and "experts=" not in size),
    "data={kind: npz, path: x.npz, classes: 10, shape: [3, 16, 16], fields: {depth: {shape: [1, 16, 16]}}}",
    *(f"networks.expert_0={_SEES}", "sampler.guidance.experts=[expert_0, expert_1]"),
)
DEPTH_EXPERT = (
    "data={kind: npz, path: x.npz, shape: [3, 16, 16]}",
    *(f"networks.main={_SEES}", f"networks.teacher={_SEES[:-1]}, pretrained: eye.safetensors}}"),
    *("networks.main.copy_of=teacher", "networks.main.frozen_weights=['*conv*.weight']"),
)
DEIT = (*(size for size in GUIDED if "expert_0." not in size), f"networks.expert_0={_VISION}", "weights={}")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_expert_has_its_range_of_timesteps(count: int) -> None:
    """The authors take the first range whose bounds, both included, hold the timestep."""
    names = [f"expert_{i}" for i in range(count)]
    kind = "classifier_experts"
    term: Any = load("guidance")[kind].model_validate({"kind": kind, "experts": tuple(names)})
    t = np.arange(1000)
    bounds = [int(i * 1000 / count) for i in range(count + 1)]
    wanted = [next(i for i in range(count) if bounds[i] <= step <= bounds[i + 1]) for step in t]
    weights = np.stack([term.weights_of(i, 1000, 1 - t / 1000) for i in range(count)])
    assert (weights.sum(0) == 1).all() and weights.argmax(0).tolist() == wanted


@pytest.mark.parametrize(("change", "wanted"), [("null", [4, 6]), ("7", [5, 5])])
def test_the_ranges_are_of_the_timesteps_of_the_process(change: str, wanted: list[int]) -> None:
    """Of 0, 10, … 90 the authors give 0 to 50, of 100 timesteps, to the first of two experts; of 7, up to 3."""
    sizes = ("objective.process.steps=100", "sampler.respacing=ddim10", f"sampler.guidance.timesteps={change}")
    module = lower(load_spec("ppap", None, [*GUIDED, *sizes])).module
    loops = [node.attrs["trip"] for node in module.entry("sample.10").nodes if node.op == "loop"]
    assert loops == wanted


def reference(weights: dict[str, Any], x: Any, spec: Any, adapter: tuple[int, float] | None, normalise: bool) -> Any:
    """A residual network with PyTorch's own layers."""
    F = torch.nn.functional
    w = {name: torch.from_numpy(array) for name, array in weights.items()}

    def conv(name: str, h: Any, stride: int) -> Any:
        kernel = w[f"{name}.weight"]
        if adapter is not None and f"{name}.lora_A" in w:
            kernel = kernel + (w[f"{name}.lora_B"] @ w[f"{name}.lora_A"]).view(kernel.shape) * adapter[1] / adapter[0]
        return F.conv2d(h, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(name: str, h: Any) -> Any:
        parts = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(h, *parts, False, 0.1, 1e-5)

    h = torch.from_numpy(x)
    if normalise:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        h = ((h + 1) / 2 - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1)
    h = F.max_pool2d(F.relu(norm("bn1", conv("conv1", h, 2))), 3, 2, 1)
    for level, count in enumerate(spec.layers, 1):
        for i in range(count):
            at, stride, short = f"layer{level}.{i}", 2 if level > 1 and i == 0 else 1, h
            last = 3 if spec.bottleneck else 2
            for k in range(1, last + 1):
                here = stride if k == (2 if spec.bottleneck else 1) else 1
                h = norm(f"{at}.bn{k}", conv(f"{at}.conv{k}", h, here))
                h = F.relu(h) if k < last else h
            if f"{at}.downsample_conv.weight" in w:
                short = norm(f"{at}.downsample_norm", conv(f"{at}.downsample_conv", short, stride))
            h = F.relu(h + short)
    return F.linear(h.mean((2, 3)), w["fc.weight"], w["fc.bias"]).numpy()


def test_an_expert_learns_what_the_teacher_says_of_clean_images() -> None:
    spec: Any = load_spec("ppap_expert", "1", [*EXPERT, "networks.main.bottleneck=false"])
    lowered = lower(spec)
    weights = {
        name: {
            path: np.abs(0.3 * RNG.standard_normal([int(d) for d in p.type.shape])) + 0.1
            if path.endswith("running_var")
            else 0.3 * RNG.standard_normal([int(d) for d in p.type.shape])
            for path, p in network_params(lowered, net).items()
        }
        for name, net in lowered.networks.items()
    }
    oracle = Interpreter(lowered.module, {f"{n}.{p}": a for n, own in weights.items() for p, a in own.items()})
    x, noise, step = RNG.uniform(-1, 1, (3, 3, 18, 18)), RNG.standard_normal((3, 3, 18, 18)), np.array([0, 50, 199])
    given = {"x": x, "noise": noise, "step": step}
    loss, agreement = oracle.run("loss", *(given[v.name] for v in lowered.module.entry("loss").inputs))
    point = spec.objective.process.point(200 + step)
    x_t = point.alpha[:, None, None, None] * x + point.sigma[:, None, None, None] * noise
    said = reference(weights["teacher"], x, spec.networks["teacher"], None, True) / 0.25
    logits = reference(weights["main"], x_t, spec.networks["main"], (2, 3.0), False)
    log_p = lambda z: z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)  # noqa: E731
    p = np.exp(log_p(said))
    wanted = np.mean(p * (log_p(said) - log_p(logits)))
    assert loss == pytest.approx(wanted, rel=1e-6) and agreement == np.mean(said.argmax(1) == logits.argmax(1))


def test_experts_of_deit_learn_adapters_and_biases() -> None:
    """As the authors' wrapper says; weights of norms and the patches' embedding are not among them."""
    spec = load_spec("ppap_expert_deit", None)
    lowered = lower(spec)
    frozen = spec.networks["main"].frozen_weights  # type: ignore[union-attr]
    paths = list(network_params(lowered, lowered.networks["main"]))
    trained = [path for path in paths if not any(fnmatch(path, pattern) for pattern in frozen)]
    assert trained == [path for path in paths if "lora_" in path or path.endswith("bias")]


def test_an_expert_learns_the_depth_that_the_teacher_sees() -> None:
    """Mean squared difference of the maps; convolutions stay as they are, adapters, biases and norms are trained."""
    spec: Any = load_spec("ppap_expert_depth", "1", list(DEPTH_EXPERT))
    lowered = lower(spec)
    weights = weights_of(lowered, 0.3, RNG)
    weights |= {name: np.abs(array) + 0.1 for name, array in weights.items() if name.endswith("running_var")}
    oracle = Interpreter(lowered.module, weights)
    x, noise, step = RNG.uniform(-1, 1, (2, 3, 16, 16)), RNG.standard_normal((2, 3, 16, 16)), np.array([0, 150])
    given = {"x": x, "noise": noise, "step": step}
    (loss,) = oracle.run("loss", *(given[v.name] for v in lowered.module.entry("loss").inputs))
    point = spec.objective.process.point(200 + step)
    x_t = point.alpha[:, None, None, None] * x + point.sigma[:, None, None, None] * noise
    seen = {
        name: oracle.run(lowered.networks[name].methods["see"].function, image, prefix=name)[0]
        for name, image in (("main", x_t), ("teacher", x))
    }
    assert loss == pytest.approx(np.mean((np.asarray(seen["main"]) - seen["teacher"]) ** 2), rel=1e-6)
    paths = list(network_params(lowered, lowered.networks["main"]))
    trained = {path for path in paths if not any(fnmatch(path, p) for p in spec.networks["main"].frozen_weights)}
    assert trained == {p for p in paths if "conv" not in p or "lora_" in p or p.endswith("bias")}


def test_depth_is_guided_by_the_expert_of_each_range() -> None:
    lowered = lower(load_spec("ppap_depth", None, list(DEPTH)))
    functions = lowered.module.functions
    loops = [fn for name, fn in functions.items() if name.startswith("sample.5.ddim")]
    scores = [functions[node.attrs["fn"]] for fn in loops for node in fn.nodes if node.op == "gradient"]
    networks = [node.attrs["name"] for fn in scores for node in fn.nodes if node.op == "call"]
    assert sorted(networks) == ["expert_0", "expert_1"]
    assert [setting.name for setting in lowered.programs[0].settings] == ["score_guidance"]


def test_an_expert_learns_labels_in_its_range_of_timesteps() -> None:
    """The same as without a range, at the timesteps behind its first."""
    sizes = [*("data={kind: npz, path: x.npz, classes: 7, shape: [3, 18, 18]}", "conditioning={}")]
    sizes += ["backbone={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 4}"]
    x, noise = np.random.default_rng(4).standard_normal((2, 3, 3, 18, 18))
    found = []
    for part, step in (("null", [200, 250, 399]), ("[0.2, 0.4]", [0, 50, 199])):
        lowered = lower(load_spec("adm_classifier", None, [*sizes, f"objective.range={part}"]))
        weights = weights_of(lowered, 0.3, 5)
        weights |= {name: np.abs(array) for name, array in weights.items() if name.endswith("running_var")}
        oracle = Interpreter(lowered.module, weights)
        given = {"x": x, "noise": noise, "y": np.array([0, 3, 6]), "t": np.array(step), "step": np.array(step)}
        found.append(oracle.run("loss", *(given[v.name] for v in lowered.module.entry("loss").inputs))[0])
        assert lowered.updates[0].draws[0].parameters["high"] == (1000 if part == "null" else 200)
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("form", ["resnet-loop", "deit-host", "depth-loop"])
def test_engines_and_emitted_sampler_agree(form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    of, form = form.split("-")
    experts = {"resnet": GUIDED, "deit": DEIT, "depth": DEPTH}[of]
    name = "ppap_depth" if of == "depth" else "ppap"
    report = verify(tiny_bundle(name, tmp_path / "bundle", (*experts, f"target.form={form}")))
    assert report.ok, report.text()
    assert "sampler" in {c.what for c in report.comparisons}


def test_both_experts_guide() -> None:
    """The loop is split where the range changes, and each part has the gradient of its own expert."""
    lowered = lower(load_spec("ppap", None, list(GUIDED)))
    gradients = [
        [node.attrs["fn"] for node in fn.nodes if node.op == "gradient"]
        for name, fn in lowered.module.functions.items()
        if name.startswith("sample.5.ddim")
    ]
    assert sorted(gradients) == [["expert_0.log_probability"], ["expert_1.log_probability"]]
    assert [setting.name for setting in lowered.programs[0].settings] == ["classifier_guidance"]


def test_what_is_refused() -> None:
    with pytest.raises(DiagnosticError, match="needs a network `expert_9` that predicts the class"):
        load_spec("ppap", None, [*GUIDED, "sampler.guidance.experts=[expert_0, expert_9]"])
    with pytest.raises(DiagnosticError, match="needs a network `expert_9`"):
        load_spec("ppap_depth", None, [*DEPTH, "sampler.guidance.experts=[expert_0, expert_9]"])
    with pytest.raises(DiagnosticError, match=r"does not have the shape \[1, 32, 32\] of the map that `expert_0`"):
        load_spec("ppap_depth", None, [*DEPTH, "networks.expert_0.image=32"])
    with pytest.raises(DiagnosticError, match=r"`stages` need sides that are multiples of 4, not \[18, 18\]"):
        load_spec("ppap_depth", None, [*DEPTH, "networks.expert_0.image=18"])
    with pytest.raises(DiagnosticError, match="no stage halves the resolution"):
        load_spec("ppap_depth", None, [*DEPTH, "networks.expert_0.stages=[{channels: 4}]"])
    with pytest.raises(DiagnosticError, match=r"`main` sees a map \[1, 32, 32\], but `teacher` one of"):
        load_spec("ppap_expert_depth", None, [*DEPTH_EXPERT, "networks.main.image=32"])
    with pytest.raises(DiagnosticError, match="`temperature` applies only if `match` is classes"):
        load_spec("ppap_expert_depth", None, [*DEPTH_EXPERT, "objective.temperature=0.5"])
    with pytest.raises(DiagnosticError, match="`experts` are used instead of the score's `network`"):
        load_spec("ppap_depth", None, [*DEPTH, "sampler.guidance.score.network=expert_0"])
    with pytest.raises(DiagnosticError, match="no timestep lies between"):
        load_spec("ppap_expert", None, [*EXPERT, "objective.range=[0.5, 0.5]"])
    with pytest.raises(DiagnosticError, match="no timestep lies between"):
        load_spec("adm_classifier", None, ["objective.range=[0.5, 0.5]"])
    with pytest.raises(DiagnosticError, match="needs a process with integer timesteps"):
        load_spec("adm_classifier", None, ["objective.range=[0.5, 1]", "objective.process={kind: edm}"])
    with pytest.raises(DiagnosticError, match="a class token has no place in the square"):
        load_spec("ppap_expert_deit", None, ["networks.main.positions={kind: sincos_2d}"])
    with pytest.raises(DiagnosticError, match="patches of 16 do not tile a side of 225"):
        load_spec("ppap_expert_deit", None, ["networks.main.image=225"])
