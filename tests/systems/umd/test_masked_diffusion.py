"""Unified masked diffusion's loss, written out, and what its network hides."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from parity_data import load
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import arrays, network_params, network_weights
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

UMD = SYSTEMS["umd"]


@pytest.mark.parametrize(("hidden", "clean"), [(0.25, 0.05), (0.0, 0.05), (0.5, 0.0)])
def test_the_loss(hidden: float, clean: float) -> None:
    """Noise is compared where patches are seen, data where they are hidden; clean images have time 0 and no class."""
    spec = load_spec(UMD.spec, UMD.variant, [*UMD.sizes, f"objective.hidden={hidden}", f"objective.clean={clean}"])
    lowered, rng = lower(spec), np.random.default_rng(0)
    weights = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.1)
    x, noise = rng.standard_normal((2, 1, 8, 8)), rng.standard_normal((2, 1, 8, 8))
    given = {"x": x, "y": np.array([3, 4]), "t": np.array([10, 700]), "noise": noise, "drop": np.array([0.05, 0.5])}
    given |= {f"scores_{name}": rng.random((2, 16)) for name in ("noisy", "clean")}
    inputs = lowered.module.functions[lowered.module.entries["loss.terms"]].inputs
    whole = Interpreter(lowered.module, {f"main.{path}": a for path, a in weights.items()})
    found = whole.run("loss.terms", *(given[v.name] for v in inputs))[0]

    net = Interpreter(lowered.module, weights)
    at = spec.objective.process.point(given["t"])  # type: ignore[union-attr]
    x_t = at.alpha[:, None, None, None] * x + at.sigma[:, None, None, None] * noise
    y = np.array([10, 4])  # the first is dropped

    def where(scores: np.ndarray, ratio: float) -> np.ndarray:
        """1 where a pixel's patch is hidden: those with the highest scores."""
        seen = int(16 * (1 - ratio))
        mask = np.zeros((2, 16))
        np.put_along_axis(mask, np.argsort(scores, axis=1)[:, seen:], 1.0, axis=1)
        return mask.reshape(2, 1, 4, 4).repeat(2, 2).repeat(2, 3)

    def mean(squares: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return (squares * mask).sum(axis=(1, 2, 3)) / mask.sum(axis=(1, 2, 3))

    if hidden:
        made, _, _ = net.run("main.predict_hidden_0", x_t, given["t"] + 1.0, y, given["scores_noisy"])
        mask = where(given["scores_noisy"], hidden)
    else:
        made, _ = net.run("main.predict", x_t, given["t"] + 1.0, y)
        mask = None
    errors = (made[:, :1] - x) ** 2, (made[:, 1:] - noise) ** 2
    of_data = mean(errors[0], np.ones_like(x) if mask is None else mask)
    of_noise = mean(errors[1], np.ones_like(x) if mask is None else 1 - mask)
    wanted = (of_data + of_noise) / 2
    if clean:
        method = f"main.predict_hidden_{int(hidden > 0)}"
        made, _, _ = net.run(method, x, np.zeros(2), np.full(2, 10), given["scores_clean"])
        wanted = (1 - clean) * wanted + clean * mean((made[:, :1] - x) ** 2, where(given["scores_clean"], 0.75))
    assert np.allclose(found, wanted, rtol=1e-6)


def test_it_is_sampled_by_either_prediction() -> None:
    """A width that is no multiple of four, too."""
    given = np.random.default_rng(0).standard_normal((2, 1, 8, 8)), np.array([10.0, 700.0]), np.array([3, 10])
    for sampling, part in (("noise", slice(1, 2)), ("x0", slice(0, 1))):
        sizes = [*UMD.sizes, "backbone.width=6", f"objective.sampling={sampling}"]
        lowered = lower(load_spec(UMD.spec, UMD.variant, sizes))
        weights = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(1), 0.3)
        net = Interpreter(lowered.module, weights)
        (made,), (both, _) = net.run("main.forward", *given), net.run("main.predict", *given)
        np.testing.assert_array_equal(made, both[:, part])
        assert lowered.programs[0].evaluations == 3


def test_blocks_in_a_scan_are_read_too(tmp_path: Path) -> None:
    """The authors' configurations stack the blocks' weights."""
    recorded = load("umd.vit_ae").weights
    stacked: dict[str, list[np.ndarray]] = {}
    for name in sorted(recorded):
        stacked.setdefault(re.sub(r"Encoder1DBlock_\d+", "ScanCheckpointEncoder1DBlock_0", name), []).append(
            recorded[name]
        )
    scan = {name: np.stack(parts) if "Scan" in name else parts[0] for name, parts in stacked.items()}
    sizes = ["data.shape=[3, 16, 16]", "data.classes=10", "data.class_names=null", "backbone.width=32"]
    sizes += ["backbone.depth=2", "backbone.decoder_depth=1", "backbone.block.mixer.heads=4"]
    spec = load_spec("umd", "B/4-labels", sizes)
    lowered, found = lower(spec), []
    for name, weights in (("plain", recorded), ("scan", scan)):
        write_safetensors(tmp_path / name, {path: Array(np.ascontiguousarray(a)) for path, a in weights.items()})
        found.append(arrays(network_weights(spec, lowered, [f"main={tmp_path / name}"], "official")["main"]))
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][path], found[1][path]) for path in found[0])


def test_its_network_can_learn_average_velocities() -> None:
    """The length of a step is a second time."""
    block = "mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}"
    block = f"block: {{{block}, condition: {{kind: in_context}}}}"
    network = f"backbone={{kind: masked_denoiser, width: 16, depth: 1, decoder_depth: 1, patch: 4, {block}}}"
    lowered = lower(load_spec("digits_mean_flow", None, [network]))
    ports = lowered.networks["main"].methods["predict"].inputs
    assert [port.role for port in ports] == ["state", "time", "condition", "time"]
