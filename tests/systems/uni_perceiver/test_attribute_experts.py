"""Experts that the condition chooses: merged layers are those of the authors, and a sample's own mixture of experts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from inline_tensors import InlineTensors
from parity_data import error, load
from random_weights import random_weights
from tiny_systems import SYSTEMS
from torch.nn import functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.diagnostics import DiagnosticError
from latentc.export.onnx import flat_module, onnx_from_module
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.uni_perceiver.attribute_experts import AttributeExperts
from latentc.systems.uni_perceiver.merged_experts import ExpertRouter, merged_linear
from latentc.systems.uni_perceiver.routed_attention import RoutedAttention
from latentc.weights import Array, write_safetensors
from latentc_runtime.backends.openvino import core

TINY = ["data={kind: digits}", "backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2"]
TINY += ["sampler.guidance.channels=null"]
EXPERTS = "backbone.block.feed_forward={kind: attribute_experts, experts: 3, chosen: 2, ratio: 2}"


@pytest.mark.parametrize("name", ["fused_experts", "mergelayer"])
def test_merged_layers_of_the_authors(name: str) -> None:
    numbers = load(f"uni_perceiver.{name}")
    experts = [f"deepspeed_experts.{i}" for i in range(4)]
    stacks = [np.stack([numbers.weights[f"{e}.{part}"] for e in experts]) for part in ("weight", "bias")]
    gates = np.zeros((2, 4), np.float32)
    gates[:, 1], gates[:, 3] = numbers.inputs["p1"], numbers.inputs["p2"]
    mb = ModuleBuilder()
    b = mb.function("merged")
    inputs = {"x": f32(2, 5, 16), "gates": f32(2, 4), "weight": f32(4, 16, 16), "bias": f32(4, 16)}
    b.output(merged_linear(b, *(b.input(key, type) for key, type in inputs.items())))
    mb.entries["merged"] = b.finish("Merged experts.")
    module, given = mb.finish(), [numbers.inputs["x"], gates, *stacks]
    (found,) = Interpreter(module, {}).run("merged", *given)
    assert error(found, numbers.outputs["out"]) < 1e-5
    model = onnx_from_module(flat_module(module, "merged"), "merged", InlineTensors(lambda path, param: None))
    model = model.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = dict(zip((i.name for i in session.get_inputs()), given, strict=True))
    assert error(session.run(None, feeds)[0], numbers.outputs["out"]) < 1e-5
    compiled = core().compile_model(core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert error(compiled(feeds)[0], numbers.outputs["out"]) < 1e-5


def routed(
    w: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, bits: torch.Tensor | None = None
) -> torch.Tensor:
    """A DiT of two blocks, of which the second has experts, in attention too, merged for each sample.

    The class and the time choose them, or `bits` do.
    """

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (8,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def gates(name: str, c: torch.Tensor) -> torch.Tensor:
        norm = w[f"{name}.router.norm.weight"], w[f"{name}.router.norm.bias"]
        tag = F.layer_norm(linear(f"{name}.router.transform", c), (8,), *norm)
        return linear(f"{name}.router.gate", tag).softmax(-1)

    def merged(name: str, row: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        best = gates.topk(2)
        share = best.values / best.values.sum()
        weight, bias = (w[f"{name}.{kind}"][best.indices] for kind in ("weight", "bias"))
        return F.linear(row, torch.tensordot(share, weight, 1), torch.tensordot(share, bias, 1))

    def layers(name: str, layer: str, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """One layer, of a sample's experts if there are some."""
        if f"{name}.router.gate.weight" not in w:
            return linear(f"{name}.{layer}", x)
        return torch.stack([merged(f"{name}.{layer}", *each) for each in zip(x, gates(name, chooses), strict=True)])

    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(4) / 4)
    c = linear("t_embedder.fc2", F.silu(linear("t_embedder.fc1", torch.cat([angles.cos(), angles.sin()], -1))))
    c = c + w["y_embedder.weight"][y]
    chooses = c if bits is None else linear("bits_embedder", bits)
    h = (
        F.conv2d(x, w["x_embedder.weight"].reshape(8, 1, 2, 2), w["x_embedder.bias"], stride=2)
        .flatten(2)
        .transpose(1, 2)
    )
    h = h + w["pos_embed"]
    for i in range(2):
        shift, scale, gate, *second = linear(f"blocks.{i}.adaLN", F.silu(c)).chunk(6, -1)
        q, k, v = (
            layers(f"blocks.{i}.attn", "qkv", modulated(h, shift, scale), c)
            .unflatten(-1, (3, 2, 4))
            .permute(2, 0, 3, 1, 4)
        )
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate[:, None] * layers(f"blocks.{i}.attn", "proj", a, c)
        m = modulated(h, *second[:2])
        if i:
            m = layers(f"blocks.{i}.mlp", "fc2", F.gelu(layers(f"blocks.{i}.mlp", "fc1", m, c)), c)
        else:
            m = linear(f"blocks.{i}.mlp.fc2", F.gelu(linear(f"blocks.{i}.mlp.fc1", m), approximate="tanh"))
        h = h + second[2][:, None] * m
    shift, scale = linear("final_layer.adaLN", F.silu(c)).chunk(2, -1)
    out = linear("final_layer.linear", modulated(h, shift, scale)).reshape(len(x), 4, 4, 2, 2, 2)
    return out.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 2, 8, 8)


BITS_BESIDE = "data={kind: npz, path: x.npz, fields: {x: {shape: [1, 8, 8]}, y: {classes: 10}, bits: {shape: [8]}}}"


@pytest.mark.parametrize("by_bits", [False, True])
@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx", "openvino"])
def test_the_routed_network(backend: api.Backend, by_bits: bool, tmp_path: Path) -> None:
    sizes = [BITS_BESIDE, "conditioning.bits={kind: vector}", "backbone.routed_by=[bits]"] if by_bits else [TINY[0]]
    sizes += ["backbone.width=8", "backbone.depth=2", "backbone.block.mixer.heads=2", TINY[-1]]
    sizes += ["conditioning.time.frequencies=8", "backbone.interleaved.experts=4", "backbone.interleaved.ratio=2"]
    sizes += ["backbone.interleaved_mixer.heads=2", "backbone.interleaved_mixer.routed.experts=4"]
    lowered, rng = lower(load_spec("uni_perceiver_moe", "B", sizes)), np.random.default_rng(0)
    weights = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.4)
    write_safetensors(tmp_path / "w.safetensors", {n: Array(a.astype(np.float32)) for n, a in weights.items()})
    x, t, y = (
        rng.standard_normal((3, 1, 8, 8)).astype(np.float32),
        np.array([5.0, 700, 30], np.float32),
        np.array([1, 2, 10]),
    )
    given, files = {"x": x, "t": t, "y": y}, [f"main={tmp_path / 'w.safetensors'}"]
    more = [rng.integers(2, size=(3, 8)).astype(np.float32)] if by_bits else []
    given |= dict(zip(["bits"], more, strict=False))
    (found,) = api.run_method("uni_perceiver_moe", files, given, backend, variant="B", overrides=sizes).values()
    own = {n: torch.from_numpy(a).double() for n, a in weights.items()}
    doubles = [torch.from_numpy(a.astype(np.float64)) for a in (x, t, *more)]
    wanted = routed(own, *doubles[:2], torch.from_numpy(y), *doubles[2:])
    assert error(found, wanted.numpy()) < 1e-5


def test_a_sample_goes_through_the_experts_of_its_class() -> None:
    lowered, rng = lower(load_spec("dit", None, [*TINY, EXPERTS])), np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    weights = {n: 0.5 * rng.standard_normal([int(d) for d in p.type.shape]) for n, p in params.items()}  # type: ignore[arg-type]
    oracle = Interpreter(lowered.module, weights)
    x, t, y = rng.standard_normal((3, 1, 8, 8)), np.full(3, 5.0), np.array([1, 2, 1])
    (both,) = oracle.run("main.forward", x, t, y)
    for i in range(3):
        (alone,) = oracle.run("main.forward", x[i : i + 1], t[i : i + 1], y[i : i + 1])
        np.testing.assert_allclose(both[i : i + 1], alone, atol=1e-10)


ROUTED = "{kind: routed_attention, heads: 2, routed: {experts: 3, chosen: 2}}"
WINDOWS = "{kind: windows, size: 3, mixer: {kind: attention, heads: 2}}"


def test_bits_of_a_task_choose_experts_beside_the_class() -> None:
    bits = ["data={kind: npz, path: x.npz, fields: {x: {shape: [1, 8, 8]}, y: {classes: 3}, bits: {shape: [8]}}}"]
    bits += [*TINY[1:], "conditioning.bits={kind: vector}", f"backbone.block.mixer={ROUTED}"]
    lowered, rng = lower(load_spec("dit", None, bits)), np.random.default_rng(0)
    weights = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.5)
    names = [port.name for port in lowered.networks["main"].methods["forward"].inputs]
    given = {"x": rng.standard_normal((2, 1, 8, 8)), "t": np.full(2, 5.0), "y": np.array([1, 1])}
    given["bits"] = np.array([[1, 0, 0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 1, 1, 0.0]])
    given["x"][1] = given["x"][0]
    (out,) = Interpreter(lowered.module, weights).run("main.forward", *(given[name] for name in names))
    assert error(out[0], out[1]) > 1e-3


BITS = ((1.0, 1, 0, 1, 1, 0, 0, 0), (1.0, 1, 0, 1, 0, 1, 0, 1))  # of an image and of its caption


@pytest.mark.parametrize("count", [1, 2])
def test_attributes_of_the_parts_of_a_sequence(count: int) -> None:
    """The authors' whole layer: an image of three tokens and a caption of four, or all of them as an image."""
    numbers = load("uni_perceiver.parts")
    attributes = numbers.inputs["attributes"][:count]
    assert attributes.tolist() == [list(row) for row in BITS[:count]]
    choice: dict[str, Any] = {"experts": 4, "chosen": 2, "attributes": BITS[:count]}
    mixer = RoutedAttention(kind="routed_attention", heads=2, routed=ExpertRouter(**choice))
    feed_forward = AttributeExperts(kind="attribute_experts", ratio=2.0, **choice)
    norm = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)
    block = InContext(kind="in_context").block(mixer, feed_forward, norm, "xavier")
    mb = ModuleBuilder()
    b = mb.function("layer")
    sizes = {**mixer.static(16), **feed_forward.static(16), **({"lead": 3} if count == 2 else {})}
    b.output(b.sub("block", block, b.input("x", f32(2, 7, 16)), dim=16, **sizes))
    mb.entries["layer"] = b.finish("A layer.")
    module = mb.finish()
    layers = {
        "attn.qkv": "self_attn.qkv_proj",
        "attn.proj": "self_attn.dense",
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
    }
    weights = {
        f"block.{ours}.{part}": np.stack(
            [numbers.weights[f"{own}.experts.deepspeed_experts.{i}.{part}"] for i in range(4)]
        )
        for ours, own in layers.items()
        for part in ("weight", "bias")
    }
    for ours, own in (("attn", "self_attn.qkv_proj"), ("mlp", "linear1")):  # the second layer of each shares the choice
        for name, place in (("transform", "tag_transform.0"), ("norm", "tag_transform.1"), ("gate", "wg")):
            for part in ("weight", "bias")[: 1 + (name != "gate")]:
                weights[f"block.{ours}.router.{name}.{part}"] = numbers.weights[f"{own}.gate.{place}.{part}"]
    for part in ("weight", "bias"):
        weights |= {f"block.norm{i}.{part}": numbers.weights[f"norm{i}.{part}"] for i in (1, 2)}
    (found,) = Interpreter(module, weights).run("layer", numbers.inputs["x"])
    assert error(found, numbers.outputs["out" if count == 2 else "out.one"]) < 1e-5


ROWS = [list(row) for row in BITS]
BEHIND_BUFFER = (  # a transformer over latents behind tokens of the condition
    *SYSTEMS["mar"].sizes,
    f"networks.main.block.mixer={{kind: routed_attention, heads: 2, routed: {{experts: 4, attributes: {ROWS}}}}}",
    f"networks.main.block.feed_forward={{kind: attribute_experts, experts: 4, ratio: 2, attributes: {ROWS}}}",
)


def test_a_network_whose_leading_tokens_have_attributes(tmp_path: Path) -> None:
    sizes = [*BEHIND_BUFFER, "sampler={kind: masked_autoregressive, steps: 4, diffusion: {kind: ddpm, respacing: '4'}}"]
    lowered, rng = lower(load_spec("mar", None, sizes)), np.random.default_rng(0)
    main = lowered.networks["main"]
    weights = random_weights(network_params(lowered, main), rng, 0.3)
    write_safetensors(tmp_path / "w.safetensors", {n: Array(a.astype(np.float32)) for n, a in weights.items()})
    given, files = {}, [f"main={tmp_path / 'w.safetensors'}"]
    for port in main.methods["forward"].inputs:
        shape = [2, *(int(d) for d in port.type.shape[1:])]  # type: ignore[arg-type]
        given[port.name] = rng.standard_normal(shape).astype(np.float32) if port.type.is_float else np.ones(shape, int)

    def run(backend: api.Backend) -> np.ndarray:
        return np.asarray(next(iter(api.run_method("mar", files, given, backend, overrides=sizes).values())))

    oracle = run("oracle")
    for backend in ("torch", "onnx", "openvino"):
        assert error(run(backend), oracle) < 1e-5, backend


def test_parts_of_a_sequence_are_not_taken_apart_by_reuse() -> None:
    with pytest.raises(DiagnosticError, match="if leading tokens have their own attributes"):
        load_spec("mar", None, list(BEHIND_BUFFER))


@pytest.mark.parametrize(
    ("spec", "override", "told"),
    [
        ("digits_tarflow", f"backbone.block.mixer={ROUTED[:-1]}, causal: true}}", "do not pass it to the mixer"),
        ("dit", f"backbone.block.mixer={ROUTED.replace('chosen: 2', 'chosen: 4')}", "exceed `experts`"),
        ("dit", f"backbone.block.mixer={ROUTED.replace('chosen: 2', 'noise_std: 2.0')}", "without `noise`"),
        ("dit", f"backbone.block.mixer={ROUTED[:-2]}, attributes: [[1], [1, 0]]}}}}", "of one length, and not empty"),
        (
            "dit",
            f"backbone.block.mixer={ROUTED[:-2]}, attributes: [[1], [0]]}}}}",
            "`masked_autoencoder` have leading",
        ),
        (
            "digits_tarflow",
            f"backbone.block.mixer={ROUTED[:-2]}, attributes: [[1]]}}, causal: true}}",
            "whole sequences",
        ),
        (
            "uni_perceiver_moe",
            "backbone.routed_by=[task]",
            "no condition of this network that enters as a vector",
        ),
        ("uni_perceiver_moe", "backbone.interleaved_mixer={kind: attention, heads: 7}", "7 heads do not divide"),
        (
            "uni_perceiver_moe",
            "backbone.interleaved_mixer={kind: windows, size: 3, mixer: {kind: attention, heads: 16}}",
            "do not tile",
        ),
    ],
)
def test_experts_that_do_not_fit_are_refused(spec: str, override: str, told: str) -> None:
    sizes = [override] if spec != "dit" else [*TINY, override]
    with pytest.raises(DiagnosticError, match=told):
        lower(load_spec(spec, None, sizes))


def test_conditions_route_nothing_without_experts() -> None:
    plain = ["backbone.interleaved={kind: gelu_mlp}", "backbone.interleaved_mixer={kind: attention, heads: 16}"]
    with pytest.raises(DiagnosticError, match="no block has experts that a condition chooses"):
        load_spec("uni_perceiver_moe", None, [*plain, "backbone.routed_by=[class]"])


def test_blocks_that_do_not_tell_the_condition_are_refused() -> None:
    tarflow = ["backbone.block.feed_forward={kind: attribute_experts}"]
    with pytest.raises(DiagnosticError, match="depends on the condition"):
        lower(load_spec("digits_tarflow", None, tarflow))
