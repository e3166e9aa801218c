"""Every shipped spec, shrunk: the emitted network, loss and sampler give what the float64 interpreter gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import error, model_text, network, objective_and_sampler, random_input, random_weights, tensors

from latentc.components.contract import Lowered
from latentc.emit.numbered import method_of
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

DIT = [
    "backbone.width=32",
    "backbone.depth=3",
    "backbone.block.mixer.heads=4",
    "data={kind: npz, classes: 5, shape: [4, 8, 8]}",
]
LLAMAGEN = [
    "backbone.width=32",
    "backbone.depth=3",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.multiple_of=8",
    "data={kind: npz, classes: 5, tokens: {vocabulary: 11, grid: [4, 4]}}",
    "sampler.top_k=5",
]
LATENTS = "data={kind: npz, classes: 5, shape: [4, 8, 8]}"
EXPERTS = "backbone.block.feed_forward={kind: mixture_of_experts, experts: 3, ratio: 1, shared: 1}"
CASES: dict[str, tuple[str, list[str]]] = {
    "dit": ("dit", [*DIT, "sampler.steps=4", "objective.process.steps=100"]),
    "dit-interval": ("dit", [*DIT, "sampler.steps=6", "sampler.guidance.interval=[0.2, 0.8]"]),
    "dit-qk-norm": ("dit", [*DIT, "backbone.block.mixer.qk_norm={kind: rms_norm}", "sampler.steps=2"]),
    "dit-grouped": ("dit", [*DIT, "backbone.block.mixer.kv_heads=2", "sampler.steps=2"]),
    "dit-rope": ("dit", [*DIT, "backbone.positions={kind: rope_2d}", "sampler.steps=2"]),
    "dit-learned": ("dit", [*DIT, "backbone.positions={kind: learned}", "sampler.steps=2"]),
    "dit-swiglu": ("dit", [*DIT, "backbone.block.feed_forward={kind: swiglu, multiple_of: 8}", "sampler.steps=2"]),
    "dit-affine": ("dit", [*DIT, "backbone.block.norm={kind: layer_norm, affine: true}", "sampler.steps=2"]),
    "dit-unipc": ("dit", [*DIT, "sampler={kind: unipc, steps: 5, guidance: {scale: 2}}"]),
    "dit-dpm": ("dit", [*DIT, "sampler={kind: dpm_solver_pp, steps: 5, guidance: {scale: 2}}"]),
    "dit-moe": ("dit_moe", [*DIT, "sampler.steps=2"]),
    "dit-moe-normal": ("dit_moe", [*DIT, EXPERTS, "backbone.weights=normal", "sampler.steps=2"]),
    "ascan": (
        "ascan",
        [
            *(LATENTS, "backbone.width=8", "backbone.multipliers=[1, 2, 1]", "backbone.convolutions=[1, 1, 2]"),
            *("backbone.depths=[0, 1, 1]", "backbone.heads=[2, 4, 2]", "backbone.embedding=12"),
            *("backbone.convolution.groups=4", "sampler.steps=2"),
        ],
    ),
    "ldm": ("ldm", [*SYSTEMS["ldm"].sizes]),
    "cm": ("cm", [*SYSTEMS["cm"].sizes, "objective.target=null", "networks.target=null"]),
    "diffusers_dit": ("diffusers_dit", [*DIT, "sampler.steps=2"]),
    "diffit": (
        "diffit",
        [
            *(LATENTS, "backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=2"),
            *("objective.process.steps=100",),
        ],
    ),
    "dico": ("dico", [LATENTS, "backbone.width=8", "backbone.depths=[1, 2, 1, 1, 1]", "sampler.steps=2"]),
    "dimr": (
        "dimr",
        [
            LATENTS,
            "backbone.branches=[{width: 8, half: 2, patch: 2, block: coarse, heads: 2}, {width: 4, half: 1}]",
            "sampler.steps=2",
        ],
    ),
    "iwin": (
        "iwin",
        [
            LATENTS,
            "backbone.width=16",
            "backbone.depth=2",
            "backbone.block.mixer.size=4",
            "backbone.block.mixer.mixer.heads=2",
            "backbone.block.feed_forward.hidden=16",
            "sampler.steps=2",
        ],
    ),
    "sit": ("sit", [*DIT, "sampler.steps=3"]),
    "sit-vp": (
        "sit",
        [
            *DIT,
            "objective={kind: flow, process: {kind: interpolant, path: vp}, predicts: score, weighting: likelihood}",
        ],
    ),
    "edm": (
        "digits_dit",
        [
            "objective={kind: diffusion, process: {kind: edm}, predicts: preconditioned}",
            "sampler={kind: heun, steps: 4, churn: {amount: 2, max: 50}, guidance: {scale: 2, interval: [0.2, 0.9]}}",
        ],
    ),
    **{
        f"{process}-{sampler}": (
            "digits_dit",
            [
                f"objective={{kind: diffusion, process: {{kind: {process}}}, predicts: {predicts}}}",
                f"sampler={{kind: {sampler}, steps: 3}}",
            ],
        )
        for process, predicts, sampler in (
            ("vp", "noise", "dpm_solver_singlestep"),
            ("ve", "scaled_score", "ddpm"),
            ("sub_vp", "score", "euler_maruyama"),
        )
    },
    "unet": (
        "edm",
        [
            *("data={kind: digits}", "backbone.width=16", "backbone.multipliers=[1, 2]", "backbone.blocks=2"),
            *("backbone.early=[class]", "conditioning.augment=null", "conditioning.time.frequencies=16"),
            "sampler.steps=2",
        ],
    ),
    "uvit": (
        "uvit",
        [
            *("data={kind: digits}", "backbone.width=16", "backbone.half=2", "backbone.block.mixer.heads=2"),
            *("conditioning.time.frequencies=16", "sampler.steps=4"),
        ],
    ),
    "sit-sde": ("sit", [*DIT, "sampler={kind: euler_maruyama, steps: 5, guidance: {scale: 2}}"]),
    "llamagen": ("llamagen", LLAMAGEN),
    "llamagen-grouped": ("llamagen", [*LLAMAGEN, "backbone.block.mixer.kv_heads=2"]),
    "llamagen-learned": ("llamagen", [*LLAMAGEN, "backbone.positions={kind: learned}"]),
    "llamagen-interval": ("llamagen", [*LLAMAGEN, "sampler.guidance={scale: 2, interval: [0, 0.5]}"]),
    "llamagen-top-p": ("llamagen", [*LLAMAGEN, "sampler.top_p=0.8", "sampler.temperature=0.9"]),
    "llamagen-greedy": ("llamagen", [*LLAMAGEN, "sampler.temperature=0", "sampler.guidance=null"]),
    "digits-dit": ("digits_dit", ["sampler.steps=3"]),
    "digits-maskgit": ("digits_maskgit", ["backbone.depth=2", "sampler.steps=4"]),
    "digits-maskgit-halton": (
        "digits_maskgit",
        [
            "backbone.depth=1",
            "sampler={kind: halton, steps: 3, top_k: 5}",
            "objective.schedule=arccos",
            "objective.visible=true",
        ],
    ),
    "digits-maskgit-smoothing": (
        "digits_maskgit",
        ["backbone.depth=1", "sampler={kind: confidence, steps: 3, randomness: 0}", "objective.smoothing=0.1"],
    ),
    "digits-llamagen": ("digits_llamagen", ["backbone.depth=2"]),
}


@cache
def lowered(case: str) -> Lowered:
    spec, overrides = CASES[case]
    return lower(load_spec(spec, overrides=overrides))


def inputs_of(low: Lowered, function: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    forward = low.networks["main"].methods["forward"]
    limits = {p.role: (p.values or 1) - (p.null is not None) for p in forward.inputs}
    arrays = []
    for value in low.module.functions[function].inputs:
        high = limits["state"] if value.name in ("idx", "tokens", "token", "given") else limits["condition"]
        array = random_input(value.type, rng, high)
        if value.name == "t":
            array = np.abs(array * 10) if value.type.is_float else np.array([0, 7])
        if value.name in ("drop", "u"):
            array = rng.uniform(0.01, 0.99, array.shape)
        if value.name == "drop":
            array[0] = 0.001  # one label is dropped
        if value.name == "scale":
            array = np.array([1.5, 3.0])
        if value.name == "position":
            array = np.array(3)
        if value.name in ("order", "rank"):
            array = rng.permuted(np.broadcast_to(np.arange(array.shape[1]), array.shape), axis=1)
        arrays.append(array)
    return arrays


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_network_is_the_interpreters(case: str, dtype: torch.dtype) -> None:
    low = lowered(case)
    methods = low.networks["main"].methods
    weights = random_weights(low.module, [method.function for method in methods.values()])
    model = network(model_text(low), weights, dtype)
    for method, function in ((name, method.function) for name, method in methods.items()):
        arrays = inputs_of(low, function)
        expected = Interpreter(low.module, weights).run(function, *arrays)
        with torch.no_grad():
            actual = method_of(model, method)(*tensors(arrays, dtype))
        actual = actual if isinstance(actual, tuple) else (actual,)
        for a, e in zip(actual, expected, strict=True):
            assert error(a, e) < (1e-12 if dtype == torch.float64 else 1e-5), (method, e.shape)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_sampler_are_the_interpreters(case: str) -> None:
    low = lowered(case)
    methods = list(low.networks["main"].functions)
    plain = random_weights(low.module, methods)
    model = network(model_text(low), plain, torch.float64)
    weights = {f"main.{k}": v for k, v in plain.items()}
    objective, sampler, _ = objective_and_sampler(low, torch.float64)
    (update,) = objective["UPDATES"]
    arrays = inputs_of(low, low.module.entries["loss"])
    with torch.no_grad():
        actual = update.loss(model, *tensors(arrays, torch.float64))
    expected = Interpreter(low.module, weights).run("loss", *arrays)
    for a, e in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
        assert error(a, e) < 1e-7  # the bound takes logarithms of small differences
    for program in low.programs:
        arrays = inputs_of(low, low.module.entries[program.entry])
        with torch.no_grad():
            actual = sampler["PROGRAMS"][program.name][program.steps].sample(model, *tensors(arrays, torch.float64))
        (expected,) = Interpreter(low.module, weights).run(program.entry, *arrays)
        assert error(actual, expected) < 1e-9
