"""NVG against the paper's algorithms and equations, written out in numpy and torch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emitted import emitted
from parity_data import error, load
from random_weights import random_weights
from torch.nn import functional as F

from latentc.checkpoint import arrays, network_params, network_weights
from latentc.components.blocks.bottlenecks.granularity_codebook import GranularityCodebook
from latentc.components.blocks.granules import clustered
from latentc.emit.project import project_files
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

K, L, Z, V = 4, 16, 4, 16
NETWORK = ("width=32", "depth=2", "heads=2", "side=4", "latent=4", "kind_channels=4")
SIZES = [
    "data={kind: npz, classes: 3, tokens: {vocabulary: 16, grid: [47]}}",
    *(f"networks.{name}.{size}" for name in ("main", "structure") for size in NETWORK),
    "networks.main.factors=[1.0, 4.0, 3.0, 2.0, 1.5, 1.25]",
    "networks.quantizer.codebook={size: 16, channels: 4, side: 4}",
    "conditioning.time.frequencies=16",
    "sampler.structure_steps=3",
]
STAGE = [
    *("data.shape=[3, 64, 64]", "backbone.width=32", "backbone.multipliers=[1, 1, 2, 1, 1]", "backbone.blocks=1"),
    "backbone.bottleneck={kind: granularity_codebook, size: 16, channels: 4, side: 4, convolutions: 0}",
]
RNG = np.random.default_rng(0)


def split(x: np.ndarray) -> list[list[int]]:
    """Positions of each cluster by the greedy algorithm: [stage][cluster], from the last stage but one on."""
    members, vectors, stages = [[i] for i in range(len(x))], list(x), []
    while len(members) > 1:
        left, pairs = set(range(len(members))), []
        while left:
            best = min((float(np.sum((vectors[i] - vectors[j]) ** 2)), i, j) for i in left for j in left if i < j)
            pairs.append(best[1:])
            left -= set(best[1:])
        members = [members[i] + members[j] for i, j in pairs]
        vectors = [(vectors[i] + vectors[j]) / 2 for i, j in pairs]
        stages.append(sorted(map(sorted, members)))
    return stages


def test_clusters_are_merged_greedily() -> None:
    mb = ModuleBuilder()
    b = mb.function("labels")
    b.output(b.sub("clustering", clustered, b.input("x", f32(B, L, Z))))
    mb.entries["labels"] = b.finish()
    x = RNG.standard_normal((3, L, Z))
    (labels,) = Interpreter(mb.finish(), {}).run("labels", x)
    for own, vectors in zip(labels, x, strict=True):
        assert sorted(own) == list(range(L))
        for stage, clusters in enumerate(split(vectors), 1):
            found = [sorted(np.flatnonzero(own >> stage == c)) for c in range(L >> stage)]
            assert sorted(found) == clusters


def shown(labels: np.ndarray, stage: int) -> np.ndarray:
    """Equation 6 of labels of the last stage: f64[L, K]."""
    label = labels >> (K - stage)
    bits = [2 * ((label >> (stage - 1 - j)) % 2) if j < stage else np.ones_like(label) for j in range(K)]
    return np.stack(bits, -1).astype(np.float64)


def smooth(w: dict[str, np.ndarray], k: int, x: torch.Tensor) -> torch.Tensor:
    """Half of stage k's convolution is added; four of them are spread over the five stages."""
    at = int(np.argmin(np.abs(np.linspace(1 / 12, 1 - 1 / 12, 4) - k / K)))
    weight, bias = (torch.from_numpy(w[f"smooth.{at}.conv.{name}"]) for name in ("weight", "bias"))
    return x + F.conv2d(x, weight, bias, padding=1) / 2


def added(w: dict[str, np.ndarray], k: int, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the codes [2^k] of stage k add to the latents: f64[L, Z]."""
    rows = w["codebook.weight"][codes][labels >> (K - k)]
    square = torch.from_numpy(rows.T.reshape(1, Z, 4, 4).copy())
    return smooth(w, k, square).numpy().reshape(Z, L).T


def test_codes_are_residuals_of_cluster_means() -> None:
    codebook = GranularityCodebook(kind="granularity_codebook", size=V, channels=Z, side=4)
    mb = ModuleBuilder()
    for method in ("codes", "mode"):
        b = mb.function(method)
        b.output(getattr(codebook, method)(b, b.input("h", f32(B, Z, 4, 4)), {"codes": V, "latent": Z}))
        mb.entries[method] = b.finish()
    module = mb.finish()
    w = random_weights(parameters(module, "codes"), RNG, 0.5)
    h = RNG.standard_normal((2, Z, 4, 4))
    (tokens,), (mode,) = (Interpreter(module, w).run(method, h) for method in ("codes", "mode"))
    for drawn, latents, found in zip(tokens, h, mode, strict=True):
        rest, labels = latents.reshape(Z, L).T.copy(), drawn[2 * L - 1 :]
        for k in range(K + 1):
            codes = drawn[2**k - 1 : 2 ** (k + 1) - 1]
            means = np.stack([rest[labels >> (K - k) == c].mean(0) for c in range(2**k)])
            nearest = np.square(means[:, None] - w["codebook.weight"]).sum(-1).argmin(-1)
            assert (codes == nearest).all()
            rest -= added(w, k, codes, labels)
        assert np.allclose(latents.reshape(Z, L).T - rest, found.reshape(Z, L).T)
    nvg = lower(load_spec("nvg", None, SIZES))
    (canvases,) = Interpreter(nvg.module, w).run("quantizer.canvases", tokens)
    assert np.allclose(canvases[:, -1].transpose(0, 2, 1).reshape(mode.shape), mode)
    scaled = lower(load_spec("nvg", None, [*SIZES, "networks.quantizer.scale=4"]))
    run = Interpreter(scaled.module, w).run
    assert np.allclose(run("quantizer.canvases", tokens)[0], canvases * 4)
    (first,) = run("quantizer.add_1", canvases[:, 1] * 4, tokens[:, 1:3], tokens[:, 2 * L - 1 :] >> (K - 1))
    assert np.allclose(first, canvases[:, 2] * 4)


def block(w: dict[str, torch.Tensor], name: str, x: torch.Tensor, c: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    def linear(part: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.{part}.weight"], w[f"{name}.{part}.bias"])

    shift, scale, gate = linear("modulation", F.silu(c))[:, None].chunk(3, -1)
    h = linear("linear1", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
    q, k, v, mlp = h.split([32, 32, 32, 128], dim=-1)
    q, k, v = (t.unflatten(-1, (2, 16)).transpose(1, 2) for t in (q, k, v))
    q, k = (F.rms_norm(t, (16,), w[f"{name}.{n}_norm.weight"], eps=1e-6) for t, n in ((q, "q"), (k, "k")))

    def turned(t: torch.Tensor) -> torch.Tensor:
        rotated = torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
            torch.ones_like(turn), turn
        ).unsqueeze(1)
        return torch.view_as_real(rotated).flatten(-2)

    h = F.scaled_dot_product_attention(turned(q), turned(k), v).transpose(1, 2).flatten(2)
    return x + gate * linear("linear2", torch.cat([h, F.gelu(mlp, approximate="tanh")], -1))


def turn_of(structure: torch.Tensor, kind: int) -> torch.Tensor:
    """Angles [B, L, 8]: two of the kind, four of the structure, one each of row and column."""
    place = torch.arange(L, dtype=torch.float64)
    fixed = [kind * torch.ones(L, dtype=torch.float64), kind * torch.full((L,), 1e-2, dtype=torch.float64)]
    parts = [torch.stack(fixed, -1), structure, torch.stack([place // 4, place % 4], -1)]
    return torch.cat([p.expand(len(structure), *p.shape[-2:]) for p in parts], -1)


TURN_OF_CLASS = torch.tensor([1, 1e-2, 1, 1, 1, 1, 1, 1], dtype=torch.float64)


def network(w: dict[str, torch.Tensor], c: torch.Tensor, tokens: list[torch.Tensor], turns: list[torch.Tensor]) -> Any:
    x, turn = torch.cat(tokens, 1), torch.cat([TURN_OF_CLASS.expand(len(c), 1, 8), *turns], 1)
    for i in range(2):
        x = block(w, f"blocks.{i}", x, c, turn)
    shift, scale = F.linear(F.silu(c), w["output.modulation.weight"], w["output.modulation.bias"])[:, None].chunk(2, -1)
    x = F.layer_norm(x[:, -L:], (32,), eps=1e-6) * (1 + scale) + shift
    return F.linear(x, w["output.linear.weight"], w["output.linear.bias"])


def test_the_loss_is_the_papers() -> None:
    lowered = lower(load_spec("nvg", None, SIZES))
    own = {name: random_weights(network_params(lowered, net), RNG, 0.3) for name, net in lowered.networks.items()}
    whole = {f"{net}.{name}": a for net, weights in own.items() for name, a in weights.items()}
    labels = np.stack([RNG.permutation(L) for _ in range(3)])
    tokens = np.concatenate([RNG.integers(0, V, (3, 2 * L - 1)), labels], 1)
    given: dict[str, Any] = {
        "tokens": tokens,
        "y": np.array([0, 2, 1]),
        "drop": np.ones(3),
        "logit": RNG.normal(size=3),
    }
    given |= {"stage": np.array([0, 2, 4]), "structure_stage": np.array([0, 1, 2])}
    given["noise"] = RNG.standard_normal((3, L, K))
    (update,) = lowered.updates
    names = [*update.batch, *(draw.name for draw in update.draws)]
    total, error, codes, flow = Interpreter(lowered.module, whole).run("loss", *(given[name] for name in names))

    canvases = np.zeros((3, K + 2, L, Z))
    for i, k in ((i, k) for i in range(3) for k in range(K + 1)):
        drawn = tokens[i, 2**k - 1 : 2 ** (k + 1) - 1]
        canvases[i, k + 1] = canvases[i, k] + added(own["quantizer"], k, drawn, labels[i])
    with torch.no_grad():
        w = {name: torch.from_numpy(a) for name, a in own["main"].items()}
        stage = given["stage"]
        canvas, last = torch.from_numpy(canvases[np.arange(3), stage]), torch.from_numpy(canvases[:, -1])
        text = w["y_embedder.weight"][given["y"]]
        c = text + w["stage_embedder.weight"][stage]
        ids = torch.from_numpy(np.stack([shown(labels[i], s) for i, s in enumerate(stage)]))
        factors = torch.tensor([1.0, 4.0, 3.0, 2.0, 1.5], dtype=torch.float64)[stage, None, None]
        seen = torch.where(torch.from_numpy(stage == 0)[:, None, None], w["start"], canvas * factors)
        inputs = [text[:, None], F.linear(seen, w["embed.weight"], w["embed.bias"])]
        made = network(w, c, inputs, [turn_of(ids, 0)]) / 1.25
        assert np.isclose(error, float(((made - last) ** 2).mean()))
        terms = []
        for i, s in enumerate(stage):
            label, change = labels[i] >> (K - s), (made - canvas)[i]
            means = torch.stack([change[label == cluster].mean(0) for cluster in range(2**s)])
            logits = F.linear(means, w["head.weight"], w["head.bias"])
            terms.append(F.cross_entropy(logits, torch.from_numpy(tokens[i, 2**s - 1 : 2 ** (s + 1) - 1])))
        assert np.isclose(codes, float(sum(terms)) / 3)

        w = {name: torch.from_numpy(a) for name, a in own["structure"].items()}
        stage = given["structure_stage"] + 1
        canvas = torch.from_numpy(canvases[np.arange(3), stage])
        data = torch.from_numpy(np.stack([shown(one, K) for one in labels])) - 1
        noise, t = torch.from_numpy(given["noise"]), torch.from_numpy(given["logit"]).sigmoid()
        unknown = torch.arange(K) >= torch.from_numpy(stage)[:, None, None] - 1
        noisy = torch.where(unknown, t[:, None, None] * noise + (1 - t[:, None, None]) * data, data)
        text = w["y_embedder.weight"][given["y"]]
        waves = 1000 * t[:, None] * 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
        h = torch.cat([waves.cos(), waves.sin()], -1)
        for layer in ("fc1", "fc2"):
            h = F.linear(h, w[f"t_embedder.{layer}.weight"], w[f"t_embedder.{layer}.bias"])
            h = F.silu(h) if layer == "fc1" else h
        c = text + w["stage_embedder.weight"][stage - 1] + h
        inputs = [text[:, None], F.linear(canvas, w["embed_canvas.weight"], w["embed_canvas.bias"])]
        inputs.append(F.linear(noisy, w["embed_structure.weight"], w["embed_structure.bias"]))
        ids = torch.from_numpy(np.stack([shown(labels[i], s - 1) for i, s in enumerate(stage)]))
        velocity = network(w, c, inputs, [turn_of(ids, 2), turn_of(ids, 0)])
        assert np.isclose(flow, float(((velocity - (noise - data) * unknown) ** 2).mean()))
    assert np.isclose(total, error + codes + flow)


def test_samples_are_codes_of_halved_clusters() -> None:
    """The flow's shares say which half of each cluster is split off; codes are drawn of the clusters' logits."""
    plain = ("sampler.guidance=null", "sampler.structure_guidance=null", "sampler.random_splits=true")
    lowered = lower(load_spec("nvg", None, [*SIZES, *plain]))
    own = {name: random_weights(network_params(lowered, net), RNG, 0.3) for name, net in lowered.networks.items()}
    whole = {f"{net}.{name}": a for net, weights in own.items() for name, a in weights.items()}
    y, x = np.array([1, 0]), RNG.standard_normal((2, L, K))
    gumbel, u = RNG.gumbel(size=(2, K - 1, L)), RNG.random((2, 2 * L - 1))
    given = {"y": y, "x": x, "gumbel": gumbel, "u": u}
    entry = lowered.module.entry(lowered.programs[0].entry)
    (tokens,) = Interpreter(lowered.module, whole).run(
        lowered.programs[0].entry, *(given[v.name] for v in entry.inputs)
    )

    run = {name: Interpreter(lowered.module, weights).run for name, weights in own.items()}
    labels, canvas, found = np.zeros((2, L), np.int64), np.zeros((2, L, Z)), []
    for k in range(K + 1):
        at = np.full(2, k)
        if k > 0:
            score = x[..., K - 1]
            if k < K:
                z = x.copy()
                mu = np.exp(0.5 + 0.65 * (L - 256) / (4096 - 256))
                times = [1.0, *(mu / (mu + 1 / t - 1) for t in (2 / 3, 1 / 3)), 0.0]
                for now, then in pairwise(times):
                    known = np.stack([shown(one << (K - k + 1), k - 1) for one in labels]) - 1
                    z[..., : k - 1] = known[..., : k - 1]
                    (v,) = run["structure"]("structure.forward", z, np.full(2, now), canvas, at, y)
                    z = z + (then - now) * v
                share = np.clip(z[..., k - 1], -1, 1) + 1
                of_cluster = [np.bincount(one, p)[one] for one, p in zip(labels, share, strict=True)]
                score = gumbel[:, k - 1] + np.log(share / np.maximum(np.stack(of_cluster), 1e-8) + 1e-8)
            for own_labels, own_score in zip(labels, score, strict=True):
                before = own_labels.copy()
                for cluster in range(2 ** (k - 1)):
                    members = np.flatnonzero(before == cluster)
                    best = members[np.argsort(own_score[members])][len(members) // 2 :]
                    own_labels[members] = 2 * cluster
                    own_labels[best] += 1
        ids = np.stack([shown(one << (K - k), k) for one in labels])
        _, logits = run["main"]("main.forward", canvas, ids, at, y)
        nucleus = 1 - 0.5 * (K ** (k / K) - 1) / (K - 1)
        codes = np.zeros((2, 2**k), np.int64)
        for i, cluster in ((i, c) for i in range(2) for c in range(2**k)):
            row = logits[i, np.flatnonzero(labels[i] == cluster)[0]]
            order = np.argsort(-row)
            p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            kept = order[np.cumsum(p[order]) - p[order] <= nucleus]
            p = np.where(np.isin(np.arange(V), kept), p, 0.0)
            codes[i, cluster] = np.sum(np.cumsum(p) < u[i, 2**k - 1 + cluster] * p.sum())
        found.append(codes)
        canvas = canvas + np.stack([added(own["quantizer"], k, codes[i], labels[i] << (K - k)) for i in range(2)])
    assert (tokens == np.concatenate([*found, labels], 1)).all()


def test_all_rows_of_the_codebook_learn_in_the_warm_up(tmp_path: Path) -> None:
    """Gradients of the authors' quantizer in its first epoch, and after it."""
    numbers = load("nvg.vqae")
    lowered = lower(spec := load_spec("vq_multi_granularity", None, [*STAGE, "backbone.bottleneck.warmup=1"]))
    write_safetensors(tmp_path / "w.safetensors", {name: Array(a) for name, a in numbers.weights.items()})
    weights = arrays(network_weights(spec, lowered, [f"main={tmp_path / 'w.safetensors'}"], "official")["main"])
    with emitted(lowered, spec, tmp_path / "project") as project:
        model = project.model.build()
        model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in weights.items()})
        for step, wanted in enumerate(("out.warm_grad", "out.cold_grad")):
            model.zero_grad()
            _, penalty = model.regularized(torch.from_numpy(numbers.inputs["x"]), torch.tensor(step))
            penalty.mean().backward()
            assert np.isclose(penalty.mean().item(), numbers.outputs["out.loss"], rtol=1e-5)
            assert error(model.codebook.weight.grad, numbers.outputs[wanted]) < 1e-4


def test_the_project_with_its_decoder_is_emitted_at_the_published_size() -> None:
    """Not only at the tests' sizes: the pairings of 256 vectors are of two classes."""
    spec = load_spec("nvg")
    files = project_files(lower(spec, to_emit=True), spec)
    source = next(str(text) for name, text in files.items() if name.endswith("autoencoder.py"))
    assert "class Clustering(" in source
