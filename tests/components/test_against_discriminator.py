"""Autoencoders against a discriminator: weights and starts of terms, video by frames, a classifier that compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

TINY = [
    "data.shape=[3, 16, 16]",
    *(f"networks.main.{size}" for size in ("width=8", "multipliers=[1, 2]", "blocks=1", "groups=4", "attention=[]")),
    "networks.main.bottleneck={kind: codebook, size: 8, channels: 4}",
    "networks.discriminator={kind: patch_discriminator, width: 8, depth: 1}",
    "networks.perceptual={kind: lpips, width: 4}",
]
CLASSIFIER = [
    "data.classes=7",
    "networks.perceptual={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 4, frozen: true, image: 14}",
]
PRIOR = "block: {mixer: {kind: attention, heads: 2, causal: true}, feed_forward: {kind: gelu_mlp}, "
PRIOR += "norm: {kind: layer_norm}, condition: {kind: in_context}}"
LARP = [
    "data.fields.x.shape=[3, 4, 16, 16]",
    *(
        f"networks.main.{size}"
        for size in ("tokens=6", "width=16", "depth=1", "patch=8", "frames=2", "block.mixer.heads=2")
    ),
    "networks.main.bottleneck={kind: stochastic_codebook, size: 8, channels: 4, temperature: 0.5}",
    f"networks.prior={{kind: vector_transformer, width: 16, depth: 1, length: 6, channels: 4, {PRIOR}}}",
    *TINY[-2:],
    *("objective.terms=[]", "objective.share_warmup=0"),
]
BLOCK = PRIOR.replace("causal: true", "qkv_bias: false").replace("gelu_mlp", "gelu_mlp, approximate: none")
BLOCK = BLOCK.replace("layer_norm", "layer_norm, eps: 1e-5, affine: true")
WHOLE = f"{{kind: transformer_discriminator, width: 16, depth: 2, patch: 8, frames: 2, {BLOCK}}}"


def loaded(name: str, sizes: list[str], variant: str | None = None) -> tuple[Any, Interpreter]:
    """A lowered spec, and an interpreter with random weights, variances positive."""
    lowered = lower(load_spec(name, variant, sizes))
    weights = weights_of(lowered, 0.3)
    weights |= {path: np.abs(array) + 0.5 for path, array in weights.items() if path.endswith("running_var")}
    return lowered, Interpreter(lowered.module, weights)


def run(lowered: Any, oracle: Interpreter, method: str, *given: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outputs of a network's method (`main.encode`)."""
    prefix = method.split(".")[0] + "."
    own = {name.removeprefix(prefix): array for name, array in oracle.params.items() if name.startswith(prefix)}
    return Interpreter(lowered.module, own).run(method, *given)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("classifier", [False, True])
def test_terms_have_their_weights_and_the_adversarial_one_its_start(classifier: bool) -> None:
    objective = (
        "objective={kind: adversarial_autoencoding, adaptive: false, reconstruction: l2, reconstruction_weight: 4, "
    )
    objective += "perceptual: 0.5, penalty: 0.9, adversarial: 0.3, generator: logistic, loss: logistic, start: 7}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, *(CLASSIFIER if classifier else []), objective])
    assert [(u.name, u.start, u.every) for u in lowered.updates] == [("autoencoder", 0, 1), ("discriminator", 7, 1)]
    assert "regularized_features" not in lowered.networks["main"].methods
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    made, penalty = run(lowered, oracle, "main.regularized", x)
    real, fake = (run(lowered, oracle, "discriminator.forward", of)[0] for of in (x, made))
    if classifier:
        sizes = [*CLASSIFIER, objective, "networks.perceptual.image=null", "data.shape=[3, 14, 14]"]
        small = lower(load_spec("vqgan_taming", None, [*TINY, *sizes]))
        resized = [F.interpolate(torch.from_numpy(of), 14, mode="bilinear", antialias=True) for of in (made, x)]
        logits = [run(small, oracle, "perceptual.forward", of.numpy())[0] for of in resized]
        distance = np.mean((logits[0] - logits[1]) ** 2)
    else:
        distance = run(lowered, oracle, "perceptual.forward", made, x)[0].mean()
    error = 4 * np.mean((made - x) ** 2) + 0.5 * distance
    plain, fooled = error + 0.9 * penalty.mean(), softplus(-fake).mean()
    for step, weight in ((6, 0.0), (7, 0.3)):
        found = oracle.run("loss.autoencoder", x, np.array(step))
        np.testing.assert_allclose(found, [plain + weight * fooled, error, penalty.mean(), fooled, weight], rtol=1e-9)
    (found,) = oracle.run("loss.discriminator", x)
    assert found == pytest.approx((softplus(-real).mean() + softplus(fake).mean()) / 2)


def of_vqgan_plus(weights: dict[str, torch.Tensor], x: torch.Tensor, blur: int, side: int) -> torch.Tensor:
    """The scores by PyTorch's layers: pixels that a kernel reaches behind the edge count as 0, as in TensorFlow."""
    line = {3: [1, 2, 1], 4: [1, 3, 3, 1], 5: [1, 4, 6, 4, 1]}[blur]
    kernel = torch.outer(torch.tensor(line), torch.tensor(line)).double() / sum(line) ** 2

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same")

    h = F.leaky_relu(conv("conv_in", x), 0.1)
    for i in range(2):
        h = conv(f"blocks.{i}.conv", h)
        missing = (h.shape[-1] // 2 - 1) * 2 + blur - h.shape[-1]
        edges = (missing // 2, missing - missing // 2)
        h = F.conv2d(F.pad(h, (*edges, *edges)), kernel.expand(h.shape[1], 1, -1, -1), stride=2, groups=h.shape[1])
        h = F.group_norm(h, 4, weights[f"blocks.{i}.norm.weight"], weights[f"blocks.{i}.norm.bias"], eps=1e-5)
        h = F.leaky_relu(h, 0.1)
    h = F.adaptive_max_pool2d(h, side)
    return conv("score", F.leaky_relu(conv("conv_out", h), 0.1))


def test_the_adversarial_term_may_come_later_and_slowly() -> None:
    objective = "objective={kind: adversarial_autoencoding, adaptive: false, reconstruction: huber, delta: 0.4, "
    objective += "adversarial: 0.3, start: 7, head_start: 3, warmup: 4}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, objective])
    assert [(u.name, u.start) for u in lowered.updates] == [("autoencoder", 0), ("discriminator", 7)]
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    made = run(lowered, oracle, "main.regularized", x)[0]
    error = F.smooth_l1_loss(torch.tensor(made), torch.tensor(x), beta=0.4).item()
    error += run(lowered, oracle, "perceptual.forward", made, x)[0].mean()
    for step, weight in ((7, 0.0), (10, 0.0), (11, 0.075), (13, 0.225), (14, 0.3), (99, 0.3)):
        found = oracle.run("loss.autoencoder", x, np.array(step))
        np.testing.assert_allclose([found[1], found[4]], [error, weight], rtol=1e-9)


@pytest.mark.parametrize("bottleneck", ["lookup_free", "codebook, size: 8, entropy_temperature: 0.3"])
def test_entropies_weigh_more_at_first(bottleneck: str) -> None:
    sizes = [*TINY, *CLASSIFIER, "networks.main.decoder_blocks=1", "objective.adversarial=0"]
    bottleneck = f"networks.main.bottleneck={{kind: {bottleneck}, channels: 4, entropy"
    lowered, oracle = loaded("maskbit_tokenizer", [*sizes, f"{bottleneck}: 0.3}}"], "adversarial")
    plain, _ = loaded("maskbit_tokenizer", [*sizes, f"{bottleneck}: 0.0}}", "objective.entropy_boost=0"], "adversarial")
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    without = run(plain, oracle, "main.regularized", x)[1].mean()
    entropies = (run(lowered, oracle, "main.regularized", x, np.array(1.0))[1].mean() - without) / 0.3
    assert abs(entropies) > 1e-4
    for step, weight in ((0, 0.9), (500, 0.75), (2000, 0.3), (5000, 0.3)):
        found = oracle.run("loss.autoencoder", x, np.array(step))
        np.testing.assert_allclose(found[2], without + weight * entropies, rtol=1e-9)
    with pytest.raises(DiagnosticError, match="`entropy_boost` scales the entropy terms"):
        lower(load_spec("maskbit_tokenizer", "adversarial", [*sizes, f"{bottleneck}: 0.0}}"]))


def test_a_perceptual_distance_without_a_discriminator() -> None:
    objective = "objective={kind: autoencoding, reconstruction: huber, delta: 0.4, perceptual: 0.7, weight: 0.9}"
    lowered, oracle = loaded("vqgan_segmentation", [*TINY[:-2], TINY[-1], objective])
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    made, penalty = run(lowered, oracle, "main.regularized", x)
    error = F.smooth_l1_loss(torch.tensor(made), torch.tensor(x), beta=0.4).item()
    error += 0.7 * run(lowered, oracle, "perceptual.forward", made, x)[0].mean()
    found = oracle.run("loss", x)
    np.testing.assert_allclose(found, [error + 0.9 * penalty.mean(), error, penalty.mean()], rtol=1e-9)


@pytest.mark.parametrize(("blur", "side"), [(4, 4), (3, 2), (5, 1)])
def test_the_discriminator_of_vqgan_plus(blur: int, side: int) -> None:
    sizes = f"{{kind: blurred_discriminator, width: 8, depth: 2, groups: 4, blur: {blur}, side: {side}}}"
    lecam = "objective.terms=[{kind: lecam, of: means, weight: 0.5}]"
    lowered, oracle = loaded("vqgan_taming", [*TINY, f"networks.discriminator={sizes}", "objective.start=0", lecam])
    weights = {n.partition(".")[2]: torch.tensor(a) for n, a in oracle.params.items() if n.startswith("discriminator.")}
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    made = run(lowered, oracle, "main.regularized", x)[0]
    real, fake = (of_vqgan_plus(weights, torch.tensor(of), blur, side).numpy() for of in (x, made))
    np.testing.assert_allclose(run(lowered, oracle, "discriminator.forward", x)[0], real, rtol=1e-9)
    hinge = (np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()) / 2
    averages = [float(weights[f"average_of_{name}"]) for name in ("real", "fake")]
    excess = real.mean() - averages[1], averages[0] - fake.mean()
    of_averages = sum(max(e, 0.0) ** 2 for e in excess)
    assert list(oracle.run("loss.discriminator", x)) == pytest.approx([hinge + 0.5 * of_averages, hinge, of_averages])


def of_maskgit(weights: dict[str, torch.Tensor], x: torch.Tensor, blur: bool) -> torch.Tensor:
    """The scores by PyTorch's layers."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.conv2d(h, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding="same")

    def half(h: torch.Tensor) -> torch.Tensor:
        if not blur:
            return F.avg_pool2d(h, 2)
        kernel = torch.outer(line, line).expand(h.shape[1], 1, 4, 4)
        return F.conv2d(h, kernel, stride=2, padding=1, groups=h.shape[1])

    h = F.leaky_relu(conv("conv_in", x), 0.2)
    for i in range(2):
        inner = F.leaky_relu(conv(f"blocks.{i}.conv1", h), 0.2)
        inner = F.leaky_relu(conv(f"blocks.{i}.conv2", half(inner)), 0.2)
        h = (conv(f"blocks.{i}.shortcut", half(h)) + inner) / 2**0.5
    h = F.leaky_relu(conv("conv_out", h), 0.2).flatten(1)
    h = F.leaky_relu(F.linear(h, weights["hidden.weight"], weights["hidden.bias"]), 0.2)
    return F.linear(h, weights["score.weight"], weights["score.bias"])


@pytest.mark.parametrize(
    ("blur", "kind", "features"), [(4, "style_discriminator", 4), (None, "vitok_discriminator", 8)]
)
def test_the_discriminator_of_maskgit(blur: int | None, kind: str, features: int) -> None:
    small = f"{{kind: {kind}, channel_base: 64, channel_max: 12, blur: {blur or 'null'}}}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, f"networks.discriminator={small}", "objective.start=0"])
    weights = {n.partition(".")[2]: torch.tensor(a) for n, a in oracle.params.items() if n.startswith("discriminator.")}
    assert weights["blocks.0.conv1.weight"].shape == (features, 4, 3, 3)
    assert weights["blocks.1.conv2.weight"].shape[0] == 12
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    scores = of_maskgit(weights, torch.tensor(x), blur is not None)
    np.testing.assert_allclose(run(lowered, oracle, "discriminator.forward", x)[0], scores.numpy(), rtol=1e-9)


def test_strided_blocks_have_one_blur() -> None:
    small = "networks.discriminator={kind: strided_discriminator, channel_base: 64, blur: 4}"
    with pytest.raises(DiagnosticError, match="blur` is the number 4, not 3"):
        load_spec("vqgan_taming", None, [*TINY, small])


def normed(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A weight over its largest singular value, by one step from the vector that is kept."""
    weight, u = weights[f"{name}.weight"], weights[f"{name}.u"]
    matrix = weight.flatten(1)
    right = F.normalize(u @ matrix, dim=0)
    return weight / (F.normalize(matrix @ right, dim=0) @ matrix @ right)


def of_dino(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The scores by PyTorch's layers: a transformer of 3 blocks on 4 patches, heads at its start and two depths."""
    x = F.interpolate(x, size=8, mode="area")
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = F.conv2d((x / 2 + 0.5 - mean) / std, weights["vision.x_embedder.weight"], weights["vision.x_embedder.bias"], 4)
    h = torch.cat([weights["vision.cls_token"].expand(len(x), 1, 8), x.flatten(2).mT], 1) + weights["vision.positions"]
    seen = [h]
    for i in range(2):
        layer = torch.nn.TransformerEncoderLayer(
            8, 2, 32, 0, lambda v: F.gelu(v, approximate="tanh"), 1e-6, batch_first=True, norm_first=True
        )
        own = {n.removeprefix(f"vision.blocks.{i}."): w for n, w in weights.items() if f"vision.blocks.{i}." in n}
        names = {"attn.qkv.": "self_attn.in_proj_", "attn.proj.": "self_attn.out_proj.", "mlp.fc": "linear"}
        for ours, theirs in names.items():
            own = {n.replace(ours, theirs): w for n, w in own.items()}
        layer.double().load_state_dict(own)
        h = layer(h)
        seen.append(h)
    scores = []
    for i, h in enumerate((seen[0], seen[1], seen[2])):
        h = (h[:, 1:] + h[:, :1]).mT
        for j, kernel in enumerate((1, 3)):
            part = f"heads.{i}.{'ring' if j else 'enter'}"
            made = F.pad(h, (kernel // 2, kernel // 2), mode="circular") if j else h
            made = F.conv1d(made, normed(weights, f"{part}.conv"), weights[f"{part}.conv.bias"])
            affine = [weights[f"{part}.norm_{p}"].flatten() for p in ("weight", "bias")]
            made = F.leaky_relu(F.batch_norm(made, None, None, *affine, training=True, eps=1e-6), 0.2)
            h = (made + h) / 2**0.5 if j else made
        scores.append(F.conv1d(h, normed(weights, f"heads.{i}.score"), weights[f"heads.{i}.score.bias"]).flatten(1))
    return torch.cat(scores, 1)


def test_a_discriminator_on_features_of_dino() -> None:
    sizes = "width: 8, depth: 3, heads: 2, patch: 4, side: 2, levels: [0, 1], kernel: 3"
    small = f"networks.discriminator={{kind: feature_discriminator, {sizes}, frozen_weights: ['vision.*']}}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, small, "objective.start=0"])
    weights = {n.partition(".")[2]: torch.tensor(a) for n, a in oracle.params.items() if n.startswith("discriminator.")}
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    with torch.no_grad():
        scores = of_dino(weights, torch.tensor(x))
    np.testing.assert_allclose(
        run(lowered, oracle, "discriminator.forward", x)[0], scores.numpy(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_discriminator_sees_parts_of_images(adaptive: bool) -> None:
    """Of 16 by 16 pixels, 8 by 8 at a place of their own in each image, or all of them made smaller."""
    sizes = "width: 8, depth: 3, heads: 2, patch: 4, side: 2, levels: [0, 1], kernel: 3"
    small = f"networks.discriminator={{kind: feature_discriminator, {sizes}, crops: 0.5, frozen_weights: ['vision.*']}}"
    loss = f"objective={{kind: adversarial_autoencoding, adaptive: {str(adaptive).lower()}, loss: logistic}}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, small, loss])
    rng = np.random.default_rng(1)
    x, u = rng.uniform(-1, 1, (3, 3, 16, 16)), np.array([[0.4, 0.99, 0.0], [0.6, 0.5, 0.5], [0.1, 0.5, 0.2]])

    weights = {n[14:]: torch.tensor(a) for n, a in oracle.params.items() if n.startswith("discriminator.")}
    (found,) = run(lowered, oracle, "discriminator.forward", x, u)
    resized = F.interpolate(torch.from_numpy(x), 8, mode="area").numpy()
    parts = np.stack([x[0, :, 8:, :8], resized[1], x[2, :, 4:12, 1:9]])
    with torch.no_grad():
        wanted = of_dino(weights, torch.tensor(parts)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    draws = [draw.name for update in lowered.updates for draw in update.draws]
    assert draws == ["crop_of_made", "crop_of_real", "crop_of_fake"]
    made = run(lowered, oracle, "main.regularized", x)[0]
    scores = [run(lowered, oracle, "discriminator.forward", of, u)[0] for of in (x, made)]
    (game,) = oracle.run("loss.discriminator", x, u, u)
    assert game == pytest.approx((softplus(-scores[0]).mean() + softplus(scores[1]).mean()) / 2)
    fooled = oracle.run("loss.autoencoder", x, u)[3]
    assert fooled == pytest.approx(-scores[1].mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("networks.discriminator.crops=0.5", "images of 16 by 16 are too small to crop: sides must exceed 16 pixels"),
        ("objective.terms=[gradient_penalty]", "differentiates scores of whole images"),
        ("objective.terms=[{kind: gradient_penalty, every: 4}]", "`gradient_penalty` is part of every update here"),
    ],
)
def test_parts_that_cannot_be_seen(change: str, message: str) -> None:
    side = 4 if "crops" in change else 2
    small = (
        f"networks.discriminator={{kind: feature_discriminator, width: 8, depth: 1, heads: 2, patch: 4, side: {side}, "
    )
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("vqgan_taming", None, [*TINY, f"{small}levels: [0], kernel: 3, crops: 0.5}}", change]))


def test_samples_of_noise_are_judged_whole() -> None:
    sizes = "width: 8, depth: 1, heads: 2, patch: 4, side: 2, levels: [0], kernel: 3, crops: 0.5"
    opponent = f"networks.discriminator={{kind: feature_discriminator, {sizes}}}"
    with pytest.raises(DiagnosticError, match="judges whole images, but the discriminator scores random crops"):
        lower(load_spec("wgan_gp", None, [opponent, "objective={kind: adversarial}"]))


@pytest.mark.parametrize("term", ["hinge", "auxiliary_classifier"])
def test_terms_of_the_discriminator_alone(term: str) -> None:
    with pytest.raises(DiagnosticError, match=f"`{term}` does not depend on the discriminator's scores alone"):
        load_spec("vqgan_taming", None, [f"objective.terms=[{term}]"])


def waves(length: int, width: int) -> torch.Tensor:
    angles = torch.outer(torch.arange(length).double(), 10000.0 ** (-torch.arange(width // 2).double() / (width // 2)))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def test_a_discriminator_that_sees_the_whole_video() -> None:
    lowered, oracle = loaded("larp_tokenizer", [*LARP, f"networks.discriminator={WHOLE}"], "adversarial")
    weights = {n.partition(".")[2]: torch.tensor(a) for n, a in oracle.params.items() if n.startswith("discriminator.")}
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 4, 16, 16))
    h = F.conv3d(torch.tensor(x), weights["x_embedder.weight"], weights["x_embedder.bias"], stride=(2, 8, 8))
    rows, columns = waves(2, 8)[:, None].expand(2, 2, 8), waves(2, 8)[None].expand(2, 2, 8)
    at = waves(2, 16)[:, None, None] + torch.cat([columns, rows], dim=-1)
    h = torch.cat([weights["cls_token"].expand(2, 1, 16), h.flatten(2).mT + at.reshape(8, 16)], dim=1)
    for i in range(2):
        layer = (
            torch.nn.TransformerEncoderLayer(16, 2, 64, 0, F.gelu, batch_first=True, norm_first=True).double().eval()
        )
        own = {n.removeprefix(f"blocks.{i}."): w for n, w in weights.items() if n.startswith(f"blocks.{i}.")}
        names = {"attn.qkv.weight": "self_attn.in_proj_weight", "attn.proj": "self_attn.out_proj"}
        names |= {"mlp.fc": "linear"}
        renamed = {"self_attn.in_proj_bias": torch.zeros(48)}
        for name, weight in own.items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            renamed[name] = weight
        layer.load_state_dict(renamed)
        h = layer(h)
    h = F.layer_norm(h[:, 0], (16,), weights["norm.weight"], weights["norm.bias"], eps=1e-6)
    score = F.linear(h, weights["score.weight"], weights["score.bias"])
    found = run(lowered, oracle, "discriminator.forward", x)[0]
    np.testing.assert_allclose(found, score.detach().numpy(), rtol=1e-9)


def test_larp_against_a_discriminator_that_sees_frames() -> None:
    lowered, oracle = loaded("larp_tokenizer", LARP, "adversarial")  # PatchGAN in place of theirs
    assert [(u.name, u.every) for u in lowered.updates] == [("autoencoder", 1), ("discriminator", 5)]
    rng = np.random.default_rng(1)
    x, u = rng.uniform(-1, 1, (2, 3, 4, 16, 16)), rng.random((2, 6))
    made, *_ = run(lowered, oracle, "main.regularized_codes", x, u)
    scores, distance = (
        run(lowered, oracle, "discriminator.forward", made)[0],
        run(lowered, oracle, "perceptual.forward", made, x)[0],
    )
    found = oracle.run("loss.autoencoder", x, u, rng.random((2, 5)), rng.random((2, 5)))
    total, error, of_codes, prior, fooled = found
    assert error == pytest.approx(np.abs(made - x).mean() + distance.mean())
    assert fooled == pytest.approx(softplus(-scores).mean())
    assert total == pytest.approx(error + 0.1 * of_codes + 0.06 * prior + 0.3 * fooled)
    noise = rng.standard_normal((2, *scores.shape))
    (real,) = run(lowered, oracle, "discriminator.forward", x)
    moved = [np.minimum(np.abs(n) * 0.15, 0.3) for n in noise]
    (found,) = oracle.run("loss.discriminator", x, u, *noise)
    of_data = (1 - moved[0]) * softplus(-real) + moved[0] * softplus(real)
    of_samples = (1 - moved[1]) * softplus(scores) + moved[1] * softplus(-scores)
    assert found == pytest.approx((of_data.mean() + of_samples.mean()) / 2)
    # Both networks as they are of images, on one frame after another.
    of_images, others = loaded("vqgan_taming", TINY)
    images = Interpreter(of_images.module, {**others.params, **oracle.params})
    for i in range(2):
        frames = [video[i].transpose(1, 0, 2, 3) for video in (made, x)]
        assert distance[i] == pytest.approx(run(of_images, images, "perceptual.forward", *frames)[0].mean())
        np.testing.assert_allclose(
            scores[4 * i : 4 * i + 4], run(of_images, images, "discriminator.forward", frames[0])[0]
        )
