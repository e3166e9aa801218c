"""Batch norms and spectrally normalised layers as torch modules, in inference and in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_module import error, loaded

from latentc.components import layers
from latentc.emit.model import networks_file
from latentc.ir.builder import ModuleBuilder, f32, i64, module_class
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B


@module_class("Layers")
def forward(b: Any, x: Any, y: Any, *, channels: int, rows: int) -> Any:
    """One layer of each kind."""
    h = layers.conv(b, "conv", x, channels, 3, "orthogonal", spectral=True)
    h = b.upsample_nearest(b.relu(layers.batch_norm(b, "norm", h, affine=True, eps=1e-4, momentum=0.2)), factor=2)
    h = layers.batch_norm(b, "bare", h, affine=False, eps=1e-5)
    h = b.max_pool(layers.conv(b, "out", b.avg_pool(h, size=2), channels, 1, "normal", bias=False), size=2)
    h = b.sum(h, axes=(2, 3), keepdims=False)
    h = layers.linear(b, "linear", h, channels, "normal", spectral=True)
    return b.tanh(h + layers.embedding(b, "table", y, rows, channels, "normal", spectral=True))


@module_class("Products", x="B T T", y="B T T", z="B T T")
def products(b: Any, x: Any, y: Any, z: Any, **sizes: Any) -> Any:
    """Matrix products beside products by element, which do not associate."""
    return b.concat(b.matmul(x, y * z), x * b.matmul(y, z), b.matmul(x, b.matmul(y, z)), b.matmul(x, y) * z, axis=1)


def test_matrix_products_do_not_associate_with_products() -> None:
    mb = ModuleBuilder()
    fn = mb.entries["main"] = mb.define(products, [f32(B, 3, 3)] * 3, {})
    module = mb.finish()
    given = list(np.random.default_rng(0).standard_normal((3, 2, 3, 3)))
    model = loaded(networks_file(module, {"main": [fn]}).text, torch.float64)["build"]()
    assert error(model(*map(torch.as_tensor, given)), Interpreter(module, {}).run("main", *given)[0]) < 1e-12


@module_class("Half", x="B width")
def half(b: Any, x: Any, *, width: int) -> Any:
    """A linear layer."""
    return b.tanh(layers.linear(b, "linear", x, width, "normal"))


@module_class("Stack", x="B width")
def stack(b: Any, x: Any, *, width: int) -> Any:
    """Four blocks, whose numbers start at 2, in two rows."""
    for i in (2, 3):
        x = b.sub(f"blocks.{i}", half, x, width=width, out="x")
    x = b.exp(x, out="x")
    for i in (4, 5):
        x = b.sub(f"blocks.{i}", half, x, width=width, out="x")
    return x


def test_a_list_whose_numbers_do_not_start_at_zero() -> None:
    mb = ModuleBuilder()
    fn = mb.entries["main"] = mb.define(stack, [f32(B, 3)], {"width": 3})
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal(tuple(map(int, p.type.shape))) for path, p in parameters(module, fn).items()}
    text = networks_file(module, {"main": [fn]}).text
    assert "in list(self.blocks.values())[:-2]:" in text and "in list(self.blocks.values())[2:]:" in text
    model = loaded(text, torch.float64)["build"]().double()
    model.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()})
    x = rng.standard_normal((2, 3))
    found = model(torch.as_tensor(x)).detach()
    assert error(found, Interpreter(module, weights).run("main", x)[0]) < 1e-12


def systems() -> tuple[Any, dict[str, np.ndarray], str, list[np.ndarray]]:
    mb = ModuleBuilder()
    fn = mb.define(forward, [f32(B, 3, 4, 4), i64(B)], {"channels": 4, "rows": 5})
    mb.entries["main"] = fn
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {}
    for path, param in parameters(module, fn).items():
        shape = tuple(map(int, param.type.shape))
        weights[path] = INITS[param.init.kind](rng, shape, **param.init.args) + rng.uniform(0, 0.5, shape)
    inputs = [rng.standard_normal((6, 3, 4, 4)), rng.integers(0, 5, 6)]
    return module, weights, networks_file(module, {"main": [fn]}).text, inputs


@pytest.mark.parametrize("training", [False, True])
def test_layers_and_their_state(training: bool) -> None:
    """Outputs, and the running statistics and vectors after two passes, are those of the oracle."""
    module, weights, source, inputs = systems()
    model = loaded(source, torch.float64)["build"]().double().train(training)
    model.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()})
    for _ in range(2):
        oracle = Interpreter(module, weights, training=training)
        (expected,) = oracle.run("main", *inputs)
        assert error(model(*map(torch.as_tensor, inputs)), expected) < 1e-12
        state = {path for path in weights if path.split(".")[-1] in ("running_mean", "running_var", "u")}
        assert set(oracle.written) == (state if training else set())
        weights = {**weights, **oracle.written}
        for path, value in weights.items():
            assert error(model.state_dict()[path], value) < 1e-12, path


def test_control_training_is_not_inference() -> None:
    module, weights, _, inputs = systems()
    one, other = (Interpreter(module, weights, training=t).run("main", *inputs)[0] for t in (False, True))
    assert np.abs(one - other).max() > 1e-2


def test_the_text_reads_as_torch() -> None:
    source = systems()[2]
    for line in (
        "self.conv = SNConv2d(3, channels, kernel_size=3, padding=1)",
        "self.norm = nn.BatchNorm2d(channels, eps=0.0001, momentum=0.2)",
        "self.bare = nn.BatchNorm2d(channels, eps=1e-5, affine=False)",
        "self.out = nn.Conv2d(channels, channels, kernel_size=1, bias=False)",
        "self.linear = SNLinear(channels, channels)",
        "self.table = SNEmbedding(rows, channels)",
        "nn.init.orthogonal_(self.conv.weight)",
    ):
        assert line in source, source


@module_class("Convolutions")
def convolutions(b: Any, x: Any, mel: Any, *, channels: int, dilation: int) -> Any:
    """As in a vocoder: a dilated convolution over samples, and a mel spectrogram upsampled along time alone."""

    def layer(op: str, name: str, v: Any, shape: Any, features: Any, **attrs: Any) -> Any:
        weight = b.param(f"{name}.weight", f32(*shape), "normal", std=0.3)
        return b.op(op, v, weight, b.param(f"{name}.bias", f32(features), "zeros"), **attrs)

    h = layer("conv", "dilated", x, (2 * channels, channels, 3), 2 * channels, padding=dilation, dilation=dilation)
    h = layer("conv", "depthwise", h, (2 * channels, 1, 3), 2 * channels, padding=1, groups=2 * channels)
    up = layer("conv_transpose", "up", mel, (1, 2, 3, 8), 2, stride=(1, 4), padding=(1, 2))
    return b.tanh(h), up


def test_convolutions_of_any_rank() -> None:
    mb = ModuleBuilder()
    fn = mb.define(convolutions, [f32(B, 4, 9), f32(B, 1, 5, 6)], {"channels": 4, "dilation": 2})
    mb.entries["main"] = fn
    module = mb.finish()
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal(tuple(map(int, p.type.shape))) for path, p in parameters(module, fn).items()}
    source = networks_file(module, {"main": [fn]}).text
    for line in (
        "self.dilated = nn.Conv1d(channels, 2 * channels, kernel_size=3, padding=dilation, dilation=dilation)",
        "self.up = nn.ConvTranspose2d(1, 2, kernel_size=(3, 8), stride=(1, 4), padding=(1, 2))",
    ):
        assert line in source, source
    model = loaded(source, torch.float64)["build"]().double()
    model.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()})
    inputs = [rng.standard_normal((2, 4, 9)), rng.standard_normal((2, 1, 5, 6))]
    for found, expected in zip(
        model(*map(torch.as_tensor, inputs)), Interpreter(module, weights).run("main", *inputs), strict=True
    ):
        assert error(found, expected) < 1e-12


@module_class("Centred", x="B width")
def centred(b: Any, x: Any, *, width: int) -> Any:
    return x - b.param("average", f32(width), "zeros", "state")


def test_state_is_part_of_the_state_dict_even_if_it_starts_at_zero() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(centred, [f32(B, 3)], {"width": 3})
    model = loaded(networks_file(mb.finish(), {"main": [mb.entries["main"]]}).text)["build"]()
    model.load_state_dict({"average": torch.tensor([1.0, 2.0, 3.0])})
    assert model(torch.zeros(1, 3)).tolist() == [[-1.0, -2.0, -3.0]]


@module_class("ScaledConv", x="B channels H W")
def scaled_conv(b: Any, x: Any, *, channels: int) -> Any:
    h = b.conv(x, b.param("conv.weight", f32(channels, channels, 1, 1), "ones"))
    return h * 2.0 + b.reshape(b.param("conv.bias", f32(channels), "zeros"), shape=(1, channels, 1, 1))


def test_a_bias_that_the_convolution_does_not_take_is_added_once() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(scaled_conv, [f32(B, 1, 1, 1)], {"channels": 1})
    model = loaded(networks_file(mb.finish(), {"main": [mb.entries["main"]]}).text)["build"]()
    model.load_state_dict({"conv.weight": torch.full((1, 1, 1, 1), 3.0), "conv.bias": torch.tensor([5.0])})
    assert model(torch.ones(1, 1, 1, 1)).item() == 11.0


@module_class("NormedTokens", x="B H W channels")
def normed_tokens(b: Any, x: Any, *, channels: int) -> Any:
    h = layers.conv(b, "conv", b.transpose(x, perm=(0, 3, 1, 2)), channels, 1, "normal")
    return layers.group_norm(b, "norm", h, channels, 1e-6)


def test_a_map_of_tokens_is_laid_out_by_channels_before_it_is_normalised() -> None:
    mb = ModuleBuilder()
    mb.entries["main"] = mb.define(normed_tokens, [f32(B, 8, 8, 4)], {"channels": 4})
    module = mb.finish()
    rng = np.random.default_rng(0)
    fn = mb.entries["main"]
    weights = {path: rng.standard_normal(tuple(map(int, p.type.shape))) for path, p in parameters(module, fn).items()}
    model = loaded(networks_file(module, {"main": [fn]}).text)["build"]()
    model.load_state_dict({path: torch.as_tensor(value) for path, value in weights.items()})
    x = 1 + 1e-2 * rng.standard_normal((2, 8, 8, 4))  # a mean of many deviations
    (expected,) = Interpreter(module, weights).run("main", x)
    assert error(model(torch.as_tensor(x, dtype=torch.float32)), expected) < 1e-4
