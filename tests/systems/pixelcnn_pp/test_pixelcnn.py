"""PixelCNN++: what is drawn from cached rows and cells is what the whole network would draw; mixtures of logistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from parity_data import error, load
from random_weights import random_weights

from latentc import api
from latentc.checkpoint import network_params
from latentc.emit import model_source
from latentc.ir.builder import ModuleBuilder
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.ir.types import f32
from latentc.lower import build_networks, lower
from latentc.passes.fuse import FOLDING, fuse
from latentc.spec import load_spec
from latentc.systems.pixelcnn.pixels import LogisticMixture
from latentc.weights import Array, materialise, read_safetensors, write_safetensors

SIZES = ["backbone.width=4", "backbone.blocks=1", "backbone.mixture=2"]


def drawn(params: np.ndarray, u: np.ndarray, components: int) -> np.ndarray:
    """Pixels [B, C, H, W] of params [B, F, H, W] and uniform numbers [B, H, W, K + C], as the paper defines them."""
    batch, features, height, width = params.shape
    p = params.transpose(0, 2, 3, 1)
    logits, rest = p[..., :components], p[..., components:]
    channels = 3 if features == 10 * components else 1
    u = 1e-5 + (1 - 2e-5) * u
    chosen = (logits - np.log(-np.log(u[..., :components]))).argmax(-1)
    each = rest.reshape(batch, height, width, channels, -1, components)
    own = np.take_along_axis(each, chosen[..., None, None, None], -1)[..., 0]
    noise = np.log(u[..., components:]) - np.log(1 - u[..., components:])
    values = own[..., 0] + np.exp(np.maximum(own[..., 1], -7)) * noise
    red = np.clip(values[..., 0], -1, 1)
    if channels == 1:
        return red[:, None]
    by = np.tanh(own[..., 2])
    green = np.clip(values[..., 1] + by[..., 0] * red, -1, 1)
    blue = np.clip(values[..., 2] + by[..., 1] * red + by[..., 2] * green, -1, 1)
    return np.stack([red, green, blue], 1)


@pytest.mark.parametrize(
    ("shape", "levels", "told"), [([3, 8, 4], 3, False), ([1, 4, 8], 2, True), ([3, 3, 5], 1, True)]
)
def test_drawing_from_caches_is_drawing_by_the_whole_network(shape: list[int], levels: int, told: bool) -> None:
    sizes = [f"data.shape={shape}", f"backbone.levels={levels}", *SIZES]
    sizes += ["backbone.conditions=null"] if told else []
    lowered, rng = lower(load_spec("pixelcnn_pp", None, sizes)), np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    oracle = Interpreter(lowered.module, random_weights(params, rng, 0.3))
    channels, height, width = shape
    u, y = rng.uniform(0, 1, (2, height, width, 2 + channels)), [np.array([1, 7])] if told else []
    (x,) = oracle.run("main.draw", u, *y)
    (found,) = oracle.run("main.forward", x, *y)
    np.testing.assert_allclose(drawn(found, u, 2), x, atol=1e-12)
    assert np.std(x) > 0.1


def authors_names(width: int, blocks: int, levels: int, mixture: int) -> dict[str, tuple[int, ...]]:
    """The authors' variables in the order of their calls, weights with their shapes: pixel_cnn_pp/model.py, its sizes.

    A layer is counted by its kind; gated blocks call a convolution, the one pixel wide of what stands beside, if any,
    and another convolution.
    """
    found: dict[str, tuple[int, ...]] = {}

    def layer(kind: str, shape: tuple[int, ...], outputs: int) -> None:
        name = f"{kind}_{sum(key.startswith(kind + '_') for key in found) // 3}"
        found.update({f"{name}.V": shape, f"{name}.g": (outputs,), f"{name}.b": (outputs,)})

    def conv(stream: str, inputs: int, outputs: int) -> None:
        layer("conv2d", (2, 3 if stream == "u" else 2, inputs, outputs), outputs)

    def block(stream: str, beside: int) -> None:
        conv(stream, 2 * width, width)
        if beside:
            layer("dense", (2 * beside, width), width)
        conv(stream, 2 * width, 2 * width)

    for kernel in ((2, 3), (1, 3), (2, 1)):
        layer("conv2d", (*kernel, 4, width), width)
    for level in range(levels):
        for _ in range(blocks):
            block("u", 0)
            block("ul", width)
        for stream in ("u", "ul") if level < levels - 1 else ():
            conv(stream, width, width)
    for level in range(levels):
        for _ in range(blocks + (level > 0)):
            block("u", width)
            block("ul", 2 * width)
        for side in (3, 2) if level < levels - 1 else ():
            layer("deconv2d", (2, side, width, width), width)
    layer("dense", (width, 10 * mixture), 10 * mixture)
    return found


@pytest.mark.parametrize(("blocks", "levels"), [(2, 3), (1, 2), (3, 1)])
def test_variables_of_the_authors(blocks: int, levels: int, tmp_path: Path) -> None:
    """The map `openai` reads and writes them; a transposed convolution's weight is [rows, columns, outputs, inputs]."""
    official = authors_names(4, blocks, levels, 2)
    rng = np.random.default_rng(0)
    raw = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in official.items()}
    write_safetensors(tmp_path / "tf.safetensors", {name: Array(value) for name, value in raw.items()})
    sizes = [
        "data.classes=0",
        "conditioning.class=null",
        *SIZES,
        f"backbone.blocks={blocks}",
        f"backbone.levels={levels}",
    ]
    own, back = tmp_path / "own.safetensors", tmp_path / "back.safetensors"
    api.convert_weights("pixelcnn_pp", tmp_path / "tf.safetensors", own, "openai", variant="openai", overrides=sizes)
    api.convert_weights("pixelcnn_pp", own, back, None, "openai", variant="openai", overrides=sizes)
    again = {name: materialise(value) for name, value in read_safetensors(back).items()}
    assert {name: value.shape for name, value in again.items()} == official
    assert all(np.array_equal(again[name], value) for name, value in raw.items())
    gated = materialise(read_safetensors(own)["up_layers.0.ul_stream.0.conv_out.conv.weight"])
    assert np.array_equal(gated, raw["conv2d_6.V"].transpose(3, 2, 0, 1))


def test_drawing_takes_no_more_than_one_evaluation() -> None:
    builder = ModuleBuilder()
    build_networks(builder, load_spec("pixelcnn_pp", "cifar10"))
    module = fuse(builder.finish(), FOLDING)
    whole, all_pixels = (flops(module, module.entries[f"main.{name}"]) for name in ("forward", "draw"))
    assert all_pixels / whole == pytest.approx(1.001, abs=0.001)


def test_drawing_of_the_authors() -> None:
    numbers = load("pixelcnnpp.dmol_sample")
    choice, uniform = numbers.noise
    u = np.concatenate([choice, uniform], axis=-1)
    params = load("pixelcnnpp.dmol_loss").outputs["out.logits"]
    found = drawn(params, (u - 1e-5) / (1 - 2e-5), 2)
    assert error(found, numbers.outputs["out"]) < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_has_probabilities_that_add_up_to_one(channels: int) -> None:
    mixture, rng = LogisticMixture(2, levels=5), np.random.default_rng(0)
    values = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * channels, indexing="ij"), -1).reshape(1, -1, channels)
    count = values.shape[1]
    mb = ModuleBuilder()
    b = mb.function("log_prob")
    params, x = b.input("params", f32(1, count, mixture.features(channels))), b.input("x", f32(1, count, channels))
    b.output(mixture.log_prob(b, params, x))
    mb.entries["log_prob"] = b.finish("Log-probabilities.")
    one = rng.standard_normal((1, 1, mixture.features(channels)))
    oracle = Interpreter(mb.finish(), {})
    (log_p,) = oracle.run("log_prob", np.repeat(one, count, 1), values)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_levels_of_all_sizes_are_of_one_class(blocks: int) -> None:
    """Drawing treats rows of two pixels as any others, whatever the values of the levels are called."""
    spec = load_spec(
        "pixelcnn_pp", None, [*SIZES, f"backbone.blocks={blocks}", "backbone.levels=3", "data={kind: digits}"]
    )
    text = model_source(lower(spec))
    assert text.count("class DownLevel") == 2 and text.count("class UpLevel") == 1  # the coarsest lacks a skip
