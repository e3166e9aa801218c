"""StyleGAN-XL's discriminator heads as the authors', its feature network, filters, growth and average styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from parity_data import error, load
from random_weights import weights_of
from safetensors.torch import load_file
from torch import nn

from latentc.checkpoint import write_weights
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.stylegan_xl.efficient_features import LITE0
from latentc.systems.stylegan_xl.filters import low_pass, plans, radial_low_pass
from latentc.systems.stylegan_xl.projected_discriminator import head
from latentc.weights import Array

ALONE: tuple[str, ...] = (
    "networks.main.pretrained=null",
    "networks.main.fresh_weights=[]",
    "networks.discriminator.pretrained=null",
)
ALONE = (*ALONE, "networks.discriminator.fresh_weights=[]", "networks.classifier.pretrained=null")
ALONE = (*ALONE, "networks.classifier.frozen=true")
TINY: tuple[str, ...] = ("networks.main.layers=[3]", "networks.main.channel_base=16", "networks.main.channel_max=4")
TINY = (*TINY, "networks.main.latent_dim=4", "networks.main.style_dim=5", "networks.discriminator.width=8", *ALONE)


def converged(weight: Any, u: Any, v: Any) -> Any:
    """The spectral norm by one more step from u, as in training."""
    v = F.normalize(weight.T @ u, dim=0)
    return F.normalize(weight @ v, dim=0) @ weight @ v


def scores_of(given: dict[str, Any], features: list[Any], y: Any, norm: Any) -> Any:
    """The authors' heads by PyTorch's functions; `norm` of a weight as a matrix and the vectors stored with it."""

    def kernel(name: str) -> Any:
        weight = given[f"{name}.weight_orig"]
        return weight / norm(weight.flatten(1), given[f"{name}.weight_u"], given[f"{name}.weight_v"])

    found = []
    for i, h in enumerate(features):
        disc = f"mini_discs.{i}"
        if i == 0:
            block = f"{disc}.main.0.main"
            h = F.conv2d(h, kernel(f"{block}.0"), given[f"{block}.0.bias"], stride=2, padding=1)
            names = ("running_mean", "running_var", "weight", "bias")
            h = F.leaky_relu(F.batch_norm(h, *(given[f"{block}.1.{name}"] for name in names)), 0.2)
        maps = F.conv2d(h, kernel(f"{disc}.cls"))
        rows = given[f"{disc}.embed.weight"][y]
        known = F.linear(
            rows, given[f"{disc}.embed_proj.weight"] / rows.shape[1] ** 0.5, given[f"{disc}.embed_proj.bias"]
        )
        known = F.leaky_relu(known, 0.2) * 2**0.5
        found.append((maps * known[:, :, None, None]).sum(1).flatten(1) / 8)
    return torch.cat(found, 1).numpy()


def test_heads_are_those_of_the_authors_code() -> None:
    """The recording is of stored vectors of spectral norms that are far from converged; ours take one more step."""
    numbers = load("stylegan_xl.heads")
    given = {name: torch.tensor(a).double() for name, a in numbers.weights.items()}
    maps = [torch.tensor(numbers.inputs[f"features.f{i}"]).double() for i in range(2)]
    classes = numbers.inputs["c"].argmax(1)
    recorded = scores_of(given, maps, classes, lambda weight, u, v: u @ weight @ v)
    assert error(recorded, numbers.outputs["out.logits"]) < 1e-5
    # Their hinge losses are sums over samples.
    sums = {"d_real": np.maximum(1 - recorded, 0), "d_fake": np.maximum(1 + recorded, 0), "g": -recorded}
    for name, values in sums.items():
        assert error(values.mean(1).sum(), numbers.outputs[f"out.{name}"]) < 1e-5
    mb = ModuleBuilder()
    b = mb.function("heads")
    y, scores = b.input("y", i64(B)), []
    for i, (channels, side) in enumerate(((6, 16), (8, 8))):
        x = b.input(f"x{i}", f32(B, channels, side, side))
        scores.append(b.sub(f"heads.{i}", head(512, 8, side, True), x, y, out="score", classes=5, class_features=12))
    b.output(b.concat(*scores, axis=1, out="score"))
    entry = b.finish("Scores of features.")
    mb.entries["heads"] = entry
    ours = {"conv.weight": "main.0.main.0.weight_orig", "conv.u": "main.0.main.0.weight_u"}
    ours |= {"conv.bias": "main.0.main.0.bias", "score.weight": "cls.weight_orig", "score.u": "cls.weight_u"}
    ours |= {f"norm.{part}": f"main.0.main.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    ours = {name if name.startswith("score") else f"blocks.0.{name}": their for name, their in ours.items()}
    ours |= {"class_weights.weight": "embed.weight"}
    ours |= {f"class_weights.projection.{part}": f"embed_proj.{part}" for part in ("weight", "bias")}
    theirs = {f"heads.{i}.{own}": f"mini_discs.{i}.{name}" for i in range(2) for own, name in ours.items()}
    weights = {own: numbers.weights[name] for own, name in theirs.items() if name in numbers.weights}
    (found,) = Interpreter(mb.finish(), weights, float_dtype="f64").run(entry, classes, *(x.numpy() for x in maps))
    assert error(found, scores_of(given, maps, classes, converged)) < 1e-9


class Inverted(nn.Module):
    """EfficientNet-lite's block, by PyTorch's layers under timm's names."""

    def __init__(self, channels: int, hidden: int, features: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride, self.kernel, self.same = stride, kernel, stride == 1 and channels == features
        self.expands = hidden != channels
        if self.expands:
            self.conv_pw, self.bn1 = nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden, eps=1e-3)
        dw = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        last = nn.Conv2d(hidden, features, 1, bias=False)
        norms = nn.BatchNorm2d(hidden, eps=1e-3), nn.BatchNorm2d(features, eps=1e-3)
        self.conv_dw = dw
        if self.expands:
            self.bn2, self.conv_pwl, self.bn3 = norms[0], last, norms[1]
        else:
            self.bn1, self.conv_pw, self.bn2 = norms[0], last, norms[1]

    def forward(self, x: Any) -> Any:
        h = F.relu6(self.bn1(self.conv_pw(x))) if self.expands else x
        h = self.conv_dw(_padded(h, self.kernel, self.stride))
        if self.expands:
            h = self.bn3(self.conv_pwl(F.relu6(self.bn2(h))))
        else:
            h = self.bn2(self.conv_pw(F.relu6(self.bn1(h))))
        return x + h if self.same else h


def _padded(x: Any, kernel: int, stride: int) -> Any:
    """TensorFlow's padding `SAME`."""
    sizes = []
    for n in reversed(x.shape[2:]):
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        sizes += [total // 2, total - total // 2]
    return F.pad(x, sizes)


def test_the_classifier_is_efficientnet_lite(tmp_path: Path) -> None:
    """On images of an odd side, by PyTorch's layers; the names of timm's weights fit."""
    stages = ((3, 1, 4, 1, 1), (3, 6, 5, 2, 2), (5, 6, 6, 1, 2))
    text = ", ".join(
        f"{{kernel: {k}, expansion: {e}, width: {w}, blocks: {n}, stride: {s}}}" for k, e, w, n, s in stages
    )
    options = ["data={kind: npz, path: x.npz, classes: 3, shape: [3, 13, 13]}", f"backbone.stages=[{text}]"]
    spec = load_spec("stylegan_xl_classifier", None, [*options, "backbone.stem=4", "backbone.head=7"])
    low = lower(spec)
    net = nn.Module()
    net.conv_stem, net.bn1 = nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4, eps=1e-3)
    blocks, channels = [], 4
    for kernel, expansion, width, count, stride in stages:
        own = []
        for i in range(count):
            own.append(Inverted(channels, expansion * channels, width, kernel, stride if i == 0 else 1))
            channels = width
        blocks.append(nn.Sequential(*own))
    net.blocks, net.conv_head = nn.Sequential(*blocks), nn.Conv2d(channels, 7, 1, bias=False)
    net.bn2, net.classifier = nn.BatchNorm2d(7, eps=1e-3), nn.Linear(7, 3)
    weights = {
        n.removeprefix("main."): np.abs(a) + 0.1 if n.endswith("running_var") else a
        for n, a in weights_of(low, 0.4, 2).items()
    }
    file = tmp_path / "timm.safetensors"
    write_weights(spec, low, {"main": {n: Array(a) for n, a in weights.items()}}, file, "timm", {})
    theirs = load_file(file)
    assert set(theirs) == {n for n in net.state_dict() if "num_batches" not in n}
    net.load_state_dict(theirs, strict=False)
    net.double().eval()
    x = np.random.default_rng(0).standard_normal((2, 3, 13, 13))
    h = F.relu6(net.bn1(net.conv_stem(_padded(torch.tensor(x), 3, 2))))
    h = F.relu6(net.bn2(net.conv_head(net.blocks(h)))).mean((2, 3))
    wanted = net.classifier(h).detach().numpy()
    (found,) = Interpreter(low.module, weights, float_dtype="f64").run(
        low.networks["main"].methods["forward"].function, x
    )
    assert error(found, wanted) < 1e-6


def test_filters_are_scipys() -> None:
    signal = pytest.importorskip("scipy.signal")
    special = pytest.importorskip("scipy.special")
    for taps, cutoff, width, rate in ((12, 2.0, 12.6, 32), (24, 5.1, 3.0, 64)):
        assert np.allclose(
            low_pass(taps, cutoff, width, rate), signal.firwin(taps, cutoff, width=width, fs=rate), atol=1e-12
        )
        place = (np.arange(taps) - (taps - 1) / 2) / rate
        radius = np.hypot(*np.meshgrid(place, place))
        jinc = special.j1(2 * cutoff * np.pi * radius) / (np.pi * radius)
        window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
        wanted = jinc * np.outer(window, window)
        assert np.allclose(radial_low_pass(taps, cutoff, width, rate), wanted / wanted.sum(), atol=1e-12)


def test_a_further_stage_keeps_the_layers_of_the_last_one() -> None:
    """All but the critically sampled ones, as `fresh_weights` and `frozen_weights` of the shipped stages say."""
    how = (3, 65_536, 1024, 2, 10)
    stem, grown = plans((10,), (16,), *how), plans((10, 7), (16, 32), *how)
    assert grown[:8] == stem[:8] and [plan.critical for plan in stem] == [False] * 8 + [True] * 3
    assert len(grown) == 8 + 8 and grown[8].before == grown[7].after
    assert [plan.after.side for plan in grown[-3:]] == [52, 32, 32] or grown[-1].after.side == 32
    assert len(plans((10, 7, 7), (16, 32, 64), *how)) == 13 + 8


def test_a_generator_is_rotation_equivariant_by_its_input() -> None:
    """Half a turn of the input's frequencies turns the image."""
    spec = load_spec("digits_stylegan_xl", None, [*TINY, "networks.main.kernel=1", "networks.main.radial=true"])
    low = lower(spec)
    weights = {n: a for n, a in weights_of(low, 0.5, 3).items() if n.startswith("main.")}
    weights |= {
        f"main.input.affine.{part}": np.zeros_like(weights[f"main.input.affine.{part}"]) for part in ("weight", "bias")
    }
    weights["main.input.affine.bias"][0, 0] = 1.0
    ws = np.random.default_rng(0).standard_normal((1, 5, 5))

    def image(turn: float) -> np.ndarray:
        changed = {**weights, "main.input.affine.bias": np.array([[turn, 0.0, 0.0, 0.0]])}
        run = Interpreter(low.module, changed, float_dtype="f64").run
        return run(low.networks["main"].methods["synthesize"].function, ws, prefix="main")[0]

    assert error(image(-1.0), image(1.0)[:, :, ::-1, ::-1]) < 1e-9


def test_training_moves_the_average_styles_of_classes(tmp_path: Path) -> None:
    spec = load_spec("digits_stylegan_xl", None, [*TINY, "networks.main.style_decay=0.9", "networks.main.mixing=0"])
    low = lower(spec)
    with emitted(low, spec, tmp_path / "project") as project:
        net = project.model.NETWORKS["main"]().train()
        state = net.mapping.w_avg
        state.copy_(torch.randn_like(state))
        before, z, y = state.clone(), torch.randn(3, 4), torch.tensor([2, 5, 2])
        w = net.map(z, y)[0]
        state.copy_(before)
        net.train_forward(z, y)
        wanted = before.clone()
        wanted[5] = 0.9 * before[5] + 0.1 * w[1]
        wanted[2] = 0.81 * before[2] + 0.19 * (w[0] + w[2]) / 2
        torch.testing.assert_close(net.mapping.w_avg, wanted, rtol=1e-5, atol=1e-6)


def test_features_are_frozen_and_guide_the_generator() -> None:
    """The discriminator's features and mixing get no update; the classifier's loss is a part of the generator's."""
    spec = load_spec("digits_stylegan_xl", None, [*TINY, "objective.augment=[]"])
    assert spec.networks["discriminator"].frozen_weights == ("features.*", "mixing.*")
    low = lower(spec)
    weights = {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in weights_of(low, 0.3, 2).items()}
    update = next(u for u in low.updates if u.name == "generator")
    rng, run = np.random.default_rng(1), Interpreter(low.module, weights, float_dtype="f64").run
    given = {"z": rng.standard_normal((3, 4)), "labels": np.array([1, 2, 3]), "z_other": rng.standard_normal((3, 4))}
    given["mix"] = np.ones((3, 2))
    names = [value.name for value in low.module.entry(update.loss).inputs]
    found = dict(zip(update.metrics, run(update.loss, *(given[n] for n in names)), strict=True))
    (made,) = run(low.networks["main"].methods["forward"].function, given["z"], given["labels"], prefix="main")
    (logits,) = run(low.networks["classifier"].methods["forward"].function, made, prefix="classifier")
    loss = (np.log(np.exp(logits).sum(1)) - logits[np.arange(3), given["labels"]]).mean()
    assert found["generator/guiding_classifier"] == pytest.approx(loss, rel=1e-6)
    assert found["generator/loss"] == pytest.approx(found["generator/hinge"] + 0.1 * loss, rel=1e-6)


def test_data_and_samples_are_judged_apart() -> None:
    """Norms by the batch see one of them at a time, in both updates."""
    calls = {}
    for kind in ("adversarial", "projected_adversarial"):
        low = lower(load_spec("digits_stylegan_xl", None, [*TINY, f"objective.kind={kind}"]))
        of = low.networks["discriminator"].methods["forward"].function
        for update in low.updates:
            nodes = low.module.functions[low.module.entries[update.loss]].nodes
            calls[kind, update.name] = sum(of in str(node.attrs) for node in nodes)
    assert calls["adversarial", "discriminator"] == 1 and calls["projected_adversarial", "discriminator"] == 2
    assert calls["adversarial", "generator"] == calls["projected_adversarial", "generator"] == 1


def test_lite0_has_the_published_size() -> None:
    assert [stage.width for stage in LITE0] == [16, 24, 40, 80, 112, 192, 320]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("networks.main.sides=[4]", "stages have sides of 4, 8"),
        ("networks.main.layers=[5, 5]", "2 stages have `layers`"),
        ("networks.main.layers=[2]", "2 layers are no more than the 2 critically sampled ones"),
        ("networks.discriminator.last=16", "the coarsest mixed features have a side of 8"),
        ("sampler.noise=const", "no noise images of its own"),
    ],
)
def test_refusals(change: str, words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        lower(load_spec("digits_stylegan_xl", None, [*ALONE, change]))
