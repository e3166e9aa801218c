"""D-JEPA and D-JEPA·T2I against their networks, losses and sampler written out in PyTorch.

Known tokens are dropped and put back, as the papers do it, where the networks mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from random_weights import random_weights
from torch import Tensor
from torch.nn import functional as F

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

B, T, C, D, R, L, SIDE, HEADS = 2, 16, 2, 16, 3, 3, 4, 2
SIZES = (
    "data.first_stage=null",
    f"data.shape=[{C}, {SIDE}, {SIDE}]",
    *(f"networks.main.{size}" for size in (f"width={D}", "depth=2", f"buffer={R}", f"block.mixer.heads={HEADS}")),
    *("networks.head.width=16", "networks.head.depth=1", "conditioning.time.frequencies=16", "objective.repeats=2"),
)
CAPTIONS = (
    *SIZES,
    *(f"data.fields.caption.shape=[{L}, 4]", f"data.fields.caption_mask.shape=[{L}]"),
    *("networks.main.positions.pairs=2", "networks.main.positions.side=6"),
    *(
        "sampler.steps=3",
        "sampler.diffusion.steps=3",
        "objective.prediction.weight=0.5",
        "objective.prediction.beta=0.3",
    ),
)
MASKED = "{kind: masked_autoencoder, width: 16, depth: 1, block: {mixer: {kind: attention, heads: 2}, feed_forward: "
MASKED += "{kind: gelu_mlp}, norm: {kind: layer_norm}, condition: {kind: in_context}}}"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, C, SIDE, SIDE))
CAPTION, SEEN = RNG.standard_normal((B, L, 4)), np.array([[True, True, False], [True, True, True]])
ORDER = np.stack([RNG.permutation(T) for _ in range(B)])


@cache
def system(name: str, *sizes: str) -> tuple[Lowered, Interpreter, dict[str, Tensor]]:
    lowered = lower(load_spec(name, None, sizes))
    weights = random_weights(parameters(lowered.module, lowered.module.entries["loss.terms"]), RNG, 0.4)
    tensors = {path: torch.from_numpy(np.asarray(value)).double() for path, value in weights.items()}
    return lowered, Interpreter(lowered.module, weights), tensors


def of_network(lowered: Lowered, w: dict[str, Tensor], entry: str, *given: np.ndarray) -> np.ndarray:
    """What a method NETWORK.METHOD returns."""
    name = entry.split(".")[0]
    own = {path[len(name) + 1 :]: value.numpy() for path, value in w.items() if path.startswith(f"{name}.")}
    return Interpreter(lowered.module, own).run(entry, *given)[0]


class Reference:
    """A network of a D-JEPA whose weights have these names."""

    def __init__(self, weights: dict[str, Tensor], name: str = "main") -> None:
        self.w = {path[len(name) + 1 :]: value for path, value in weights.items() if path.startswith(f"{name}.")}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def apart(self, name: str, x: Tensor, front: int, layer: Callable[[str, Tensor], Tensor]) -> Tensor:
        """x [1, N, D] through a layer NAME; the first tokens have one of their own, if captions are told in blocks."""
        own = name.replace(".mlp.", ".front_mlp.") if ".mlp." in name else ".front_".join(name.rsplit(".", 1))
        if f"{own}.weight" not in self.w:
            return layer(name, x)
        return torch.cat([layer(own, x[:, :front]), layer(name, x[:, front:])], 1)

    def block(self, name: str, x: Tensor, front: int, turn: Tensor | None) -> Tensor:
        def linear(part: str, x: Tensor) -> Tensor:
            return self.apart(f"{name}.{part}", x, front, self.linear)

        def norm(part: str, x: Tensor) -> Tensor:
            return self.apart(f"{name}.{part}", x, front, self.norm)

        def rms(path: str, x: Tensor) -> Tensor:
            return F.rms_norm(x, x.shape[-1:], self.w[f"{path}.weight"], 1e-6)

        q, k, v = (t.unflatten(-1, (HEADS, -1)) for t in linear("attn.qkv", norm("norm1", x)).chunk(3, -1))
        q, k = (self.apart(f"{name}.attn.{part}_norm", t, front, rms) for t, part in ((q, "q"), (k, "k")))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if turn is not None:
            q, k = (
                torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
                for t in (q, k)
            )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear("attn.proj", h)
        return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))

    def encoded(self, x: Tensor, front: Tensor, turn: Tensor | None, kept: list[int]) -> Tensor:
        """x [T, C] and the tokens in front [P, D], of which those at places `kept` go in: [1, kept, D]."""
        x = self.linear("z_proj", x)
        if "encoder_pos" in self.w:
            x = x + self.w["encoder_pos"][0]
        x = self.norm("z_proj_ln", torch.cat([front, x])[None, kept])
        for i in range(2):
            in_front = sum(place < len(front) for place in kept)
            x = self.block(f"encoder_blocks.{i}", x, in_front, None if turn is None else turn[kept])
        return self.norm("encoder_norm", x)

    def features(self, x: Tensor, front: Tensor, mask: Tensor, counts: Tensor, turn: Tensor | None) -> Tensor:
        """[T, D] of one sample; mask [T] is true where a token is hidden, counts [P] where one in front counts."""
        size, prefix = self.w["mask_token"], len(front)
        known = torch.cat([counts, ~mask])
        kept = torch.nonzero(known).flatten().tolist()
        padded = size.expand(1, prefix + T, D).clone()
        padded[:, kept] = self.linear("decoder_embed", self.encoded(x, front, turn, kept))
        if "decoder_pos" in self.w:
            padded[:, prefix:] += self.w["decoder_pos"]
        every = torch.nonzero(torch.cat([counts, torch.ones(T, dtype=torch.bool)])).flatten().tolist()
        x = padded[:, every]
        for i in range(2):
            x = self.block(f"decoder_blocks.{i}", x, int(counts.sum()), None if turn is None else turn[every])
        return self.norm("decoder_norm", x)[0, -T:]

    def targets(self, x: Tensor, front: Tensor, counts: Tensor, turn: Tensor | None) -> Tensor:
        kept = torch.nonzero(torch.cat([counts, torch.ones(T, dtype=torch.bool)])).flatten().tolist()
        return self.encoded(x, front, turn, kept)[0, -T:]

    def predicted(self, z: Tensor) -> Tensor:
        return self.linear("predictor.fc2", self.norm("predictor.norm", F.gelu(self.linear("predictor.fc1", z))))

    def of_label(self, label: int) -> Tensor:
        return self.w["buffer_tokens"][0] + self.w["y_embedder.weight"][label]

    def of_caption(self, caption: Tensor | None) -> Tensor:
        features = self.w["caption_embedder_null"] if caption is None else caption
        h = F.gelu(self.linear("caption_embedder.fc1", features), approximate="tanh")
        return torch.cat([self.w["buffer_tokens"][0], self.linear("caption_embedder.fc2", h)])

    def velocity(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The head: x [N, C] at times t [N], told z [N, D]."""
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(8, dtype=torch.float64) / 8)
        time = torch.cat([angles.cos(), angles.sin()], -1)
        c = self.linear("time_embed.fc2", F.silu(self.linear("time_embed.fc1", time))) + self.linear("cond_embed", z)
        x = self.linear("input_proj", x)
        shift, scale, gate = self.linear("res_blocks.0.adaLN", F.silu(c)).chunk(3, -1)
        h = self.linear("res_blocks.0.fc1", self.norm("res_blocks.0.in_ln", x) * (1 + scale) + shift)
        x = x + gate * self.linear("res_blocks.0.fc2", F.silu(h))
        shift, scale = self.linear("final_layer.adaLN", F.silu(c)).chunk(2, -1)
        return self.linear("final_layer.linear", F.layer_norm(x, (16,), eps=1e-6) * (1 + scale) + shift)


def turns() -> Tensor:
    """Rotations [P + T, 4] of a head's pairs: one of the row, one of the column, two of the place in front."""
    prefix = R + L
    front = torch.arange(prefix, dtype=torch.float64) * (6 / prefix)
    place = torch.arange(T, dtype=torch.float64)
    zeros = torch.zeros(prefix, 2, dtype=torch.float64)
    grid = torch.stack([place // SIDE, place % SIDE], -1) * (6 / SIDE)
    angles = torch.cat(
        [
            torch.cat([zeros, torch.stack([front, front / 100], -1)], -1),
            torch.cat([grid, torch.zeros(T, 2, dtype=torch.float64)], -1),
        ]
    )
    return torch.polar(torch.ones_like(angles), angles)


def tokens(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.reshape(B, C, T).transpose(0, 2, 1).copy())


def hidden(fraction: float) -> Tensor:
    """bool[B, T]: the first tokens of the order."""
    return torch.from_numpy(np.argsort(ORDER, axis=1) < math.ceil(fraction * T))


def test_features_and_targets_of_d_jepa() -> None:
    lowered, _, w = system("d_jepa", *SIZES, "data.classes=5")
    main, target, labels = Reference(w), Reference(w, "target"), (1, 5)
    counts, mask, x = torch.ones(R, dtype=torch.bool), hidden(0.75), tokens(X)
    given = (x.numpy(), mask.double().numpy(), np.array(labels))
    wanted = torch.stack([main.features(x[i], main.of_label(labels[i]), mask[i], counts, None) for i in range(B)])
    for method in ("forward", "forward_known"):
        np.testing.assert_allclose(of_network(lowered, w, f"main.{method}", *given), wanted, rtol=0, atol=1e-9)
    found = of_network(lowered, w, "target.targets", given[0], given[2])
    whole = torch.stack([target.targets(x[i], target.of_label(labels[i]), counts, None) for i in range(B)])
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        of_network(lowered, w, "main.predict", wanted.numpy()), main.predicted(wanted), atol=1e-9
    )


def test_the_loss_of_d_jepa_adds_predicted_features() -> None:
    """The averaged encoder is given the class, which the trained one is not."""
    lowered, oracle, w = system("d_jepa", *SIZES, "data.classes=5")
    main, target = Reference(w), Reference(w, "target")
    deviations, y, null = np.array([0.2, 1.0]), np.array([1, 3]), 5
    noise, at = RNG.standard_normal((B, 2, T, C)), RNG.integers(0, 1000, (B, 2, T))
    drop = np.array([0.05, 0.5])
    found = oracle.run("loss.terms", X, y, deviations, ORDER, at, noise, drop)
    values = dict(zip(lowered.updates[0].metrics, found, strict=True))
    counts, x, terms = torch.ones(R, dtype=torch.bool), tokens(X), []
    for i, told in enumerate((null, y[1])):
        mask = hidden(1 - 0.25 * deviations[i])[i]
        z = main.features(x[i], main.of_label(told), mask, counts, None)
        wanted = target.targets(x[i], target.of_label(y[i]), counts, None)
        error = F.smooth_l1_loss(main.predicted(z), wanted, beta=2.0, reduction="none").mean(-1)
        terms.append(error[mask].mean())
    np.testing.assert_allclose(values["prediction"], torch.stack(terms), rtol=1e-6)
    np.testing.assert_allclose(values["loss"], values["base"] + values["prediction"], rtol=1e-6)


def respaced(steps: list[int]) -> list[tuple[float, float]]:
    """(beta, product of 1 - beta) of a cosine schedule of 1000 steps that visits only these."""
    times = np.arange(1001) / 1000
    signal = np.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    products = np.cumprod(1 - np.minimum(1 - signal[1:] / signal[:-1], 0.999))[steps]
    return list(zip(1 - products / np.concatenate([[1.0], products[:-1]]), products, strict=True))


def test_the_sampler_of_d_jepa() -> None:
    """Sets of tokens in a random order, each token by three ancestral steps whose variance the head predicts."""
    lowered, oracle, w = system(
        "d_jepa", *SIZES, "data.classes=5", *("sampler.steps=3", "sampler.diffusion.respacing='3'")
    )
    main, head, scale, null, steps = Reference(w), Reference(w, "head"), 2.5, 5, [0, 500, 999]
    labels, counts, schedule = (1, 3), torch.ones(R, dtype=torch.bool), respaced(steps)
    start, noise = RNG.standard_normal((B, T, C)), RNG.standard_normal((B, 3, T, C))
    given = {"y": np.array(labels), "scale": np.full(B, scale), "order": ORDER, "x": start, "noise": noise}
    names = [value.name for value in lowered.module.entry("sample.3").inputs]
    (found,) = oracle.run("sample.3", *(given[name] for name in names))
    for i in range(B):
        made, left = torch.zeros(T, C, dtype=torch.float64), T
        for step in range(3):
            after = math.floor(T * math.cos(math.pi / 2 * (step + 1) / 3)) if step < 2 else 0
            mask = torch.zeros(T, dtype=torch.bool)
            mask[ORDER[i, :left]] = True
            places = ORDER[i, after:left]
            conditional, free = (
                main.features(made, main.of_label(y), mask, counts, None)[places] for y in (labels[i], null)
            )
            weight = 1 + (scale - 1) * (T - max(after, 1)) / T
            x = torch.from_numpy(start[i, after:left])
            for k, at in reversed(list(enumerate(steps))):
                (beta, product), before = schedule[k], schedule[k - 1][1] if k else 1.0
                t = torch.full((len(places),), float(at), dtype=torch.float64)
                (with_class, share), without = (
                    head.velocity(x, t, conditional).split(C, -1),
                    head.velocity(x, t, free)[:, :C],
                )
                guess = without + weight * (with_class - without)
                data = (x - math.sqrt(1 - product) * guess) / math.sqrt(product)
                kept, added = math.sqrt(1 - beta) * (1 - before), math.sqrt(before) * beta
                x = (added * data + kept * x) / (1 - product)
                if k:
                    small = beta * (1 - before) / (1 - product)
                    share = (share + 1) / 2
                    std = torch.exp((share * math.log(beta) + (1 - share) * math.log(small)) / 2)
                    x = x + 0.98 * std * torch.from_numpy(noise[i, len(steps) - 1 - k, after:left])
            made[places], left = x, after
        np.testing.assert_allclose(found[i].reshape(C, T).T, made, rtol=0, atol=1e-8 * float(made.abs().max()))


def test_the_loss_of_d_jepa_t2i() -> None:
    lowered, oracle, w = system("d_jepa_t2i", *CAPTIONS)
    main, target, head, turn = Reference(w), Reference(w, "target"), Reference(w, "head"), turns()
    deviations, drop = np.array([0.2, 1.0]), np.array([0.5, 0.05])
    u, noise = RNG.uniform(size=(B, 2, T)), RNG.standard_normal((B, 2, T, C))
    found = oracle.run("loss.terms", X, CAPTION, SEEN, deviations, ORDER, u, noise, drop)
    values = dict(zip(lowered.updates[0].metrics, found, strict=True))
    x, given = tokens(X), torch.from_numpy(CAPTION)
    every, bases, predictions = torch.ones(R + L, dtype=torch.bool), [], []
    for i in range(B):
        mask = hidden(1 - 0.25 * deviations[i])[i]
        counts = torch.cat([every[:R], torch.from_numpy(SEEN[i])])
        told = (main.of_caption(given[i]), counts) if drop[i] > 0.1 else (main.of_caption(None), every)
        z = main.features(x[i], told[0], mask, told[1], turn)
        t, e = (torch.from_numpy(v[i]) for v in (u, noise))
        x_t = t[..., None] * x[i] + (1 - t[..., None]) * e
        guess = head.velocity(x_t.flatten(0, 1), t.flatten(), z.repeat(2, 1)).reshape(2, T, C)
        bases.append((guess - (x[i] - e)).square().mean(-1).mean(0)[mask].mean())
        wanted = target.targets(x[i], target.of_caption(given[i]), counts, turn)
        error = F.smooth_l1_loss(main.predicted(z), wanted, beta=0.3, reduction="none").mean(-1)
        predictions.append(error[mask].mean())
    np.testing.assert_allclose(values["base"], torch.stack(bases), rtol=1e-6)
    np.testing.assert_allclose(values["prediction"], torch.stack(predictions), rtol=1e-6)
    np.testing.assert_allclose(values["loss"], values["base"] + 0.5 * values["prediction"], rtol=1e-6)


def test_the_sampler_of_d_jepa_t2i() -> None:
    """Sets of tokens in a random order, each token by three steps of Euler under a scale that grows with the sets."""
    _, oracle, w = system("d_jepa_t2i", *CAPTIONS)
    main, head, turn, scale = Reference(w), Reference(w, "head"), turns(), 2.5
    start = RNG.standard_normal((B, T, C))
    (found,) = oracle.run("sample.3", CAPTION, SEEN, np.full(B, scale), ORDER, start)
    every = torch.ones(R + L, dtype=torch.bool)
    for i in range(B):
        counts = torch.cat([every[:R], torch.from_numpy(SEEN[i])])
        fronts = (main.of_caption(torch.from_numpy(CAPTION[i])), counts), (main.of_caption(None), every)
        made, left = torch.zeros(T, C, dtype=torch.float64), T
        for step in range(3):
            after = math.floor(T * math.cos(math.pi / 2 * (step + 1) / 3)) if step < 2 else 0
            mask = torch.zeros(T, dtype=torch.bool)
            mask[ORDER[i, :left]] = True
            places = ORDER[i, after:left]
            told, null = (main.features(made, front, mask, c, turn)[places] for front, c in fronts)
            weight = 1 + (scale - 1) * (T - max(after, 1)) / T
            x = torch.from_numpy(start[i, after:left])
            for k in range(3):
                t = torch.full((len(places),), k / 3, dtype=torch.float64)
                with_caption, without = head.velocity(x, t, told), head.velocity(x, t, null)
                x = x + (without + weight * (with_caption - without)) / 3
            made[places], left = x, after
        np.testing.assert_allclose(found[i].reshape(C, T).T, made, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("networks.target={kind: like, frozen: true}", "must be an average of `main`"),
        (f"networks.main={MASKED}", "predicts those of a hidden one"),
        ("networks.main.decoder={width: 16, depth: 2, heads: 2}", "must be like the encoder"),
        ("networks.main.positions={kind: sincos_2d}", "added to the input"),
        ("sampler={kind: recap_autoregressive, steps: 4, reuse: {after: 1}}", "does not return"),
        ("networks.main.block.mixer={kind: cosine_attention, heads: 2}", "the same weights for all tokens"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        lower(load_spec("d_jepa_t2i", None, [*CAPTIONS, override]))
    assert words in str(error.value.diagnostics), error.value.diagnostics


def test_any_resolution_spans_the_same_range() -> None:
    """The corner of a grid twice as fine is half a row and column away, not in the next octave."""
    name, sizes = "main.freqs_cos", list(CAPTIONS)
    coarse: Any = system("d_jepa_t2i", *CAPTIONS)[2][name]
    sizes[1] = f"data.shape=[{C}, {2 * SIDE}, {2 * SIDE}]"
    fine = system("d_jepa_t2i", *sizes)[2][name]
    grids = [t[R + L :].reshape(side, side, 4) for t, side in ((coarse, SIDE), (fine, 2 * SIDE))]
    torch.testing.assert_close(grids[0], grids[1][::2, ::2])
