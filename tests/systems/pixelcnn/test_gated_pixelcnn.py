"""The gated PixelCNN is what its paper defines by masked filters; drawn from caches, it is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn.functional import conv2d, conv_transpose2d  # noqa: E402

from latentc.checkpoint import network_params  # noqa: E402
from latentc.ir.builder import ModuleBuilder  # noqa: E402
from latentc.ir.costs import flops  # noqa: E402
from latentc.ir.interpret import Interpreter  # noqa: E402
from latentc.lower import build_networks, lower  # noqa: E402
from latentc.spec import load_spec  # noqa: E402

VALUES = 5
SIZES = [f"backbone.{size}" for size in ("width=6", "depth=3", "kernel=3", "first_kernel=5", "head_width=6")]
SIZES += [f"backbone.values={VALUES}", "backbone.conditions=null"]


def parts(z: Tensor, channels: int) -> Tensor:
    """tanh(f) sigmoid(g), of which z has f and g of the first channel, then of the next."""
    batch, features, *sides = z.shape
    f, g = z.reshape(batch, channels, 2, features // channels // 2, *sides).unbind(2)
    return (torch.tanh(f) * torch.sigmoid(g)).flatten(1, 2)


def triangle(w: dict[str, Tensor], name: str, channels: int, columns: int) -> Tensor:
    """The masked weight [D, columns, 1, 1] of which every channel has the part that its mask leaves."""
    blocks = [w.get(name.format(s)) for s in range(channels)]
    rows = next(block.shape[0] for block in blocks if block is not None)
    full = torch.zeros(rows * channels, columns, 1, 1, dtype=torch.float64)
    for s, block in enumerate(blocks):
        if block is not None:
            full[s * rows : (s + 1) * rows, : block.shape[1]] = block
    return full


def biases(w: dict[str, Tensor], name: str, channels: int) -> Tensor:
    return torch.cat([w[name.format(s)] for s in range(channels)])


def reference(w: dict[str, Tensor], x: Tensor, told: dict[str, Tensor], depth: int) -> Tensor:
    """Logits [B, C, V, H, W], by square filters of which masks leave a part, as figures 1 and 2 of the paper."""
    channels = x.shape[1]

    def conditions(layer: str, stack: str) -> Any:
        """V h and V s of equations 3 and 4."""
        bias: Any = 0.0
        if "c" in told:
            bias = bias + (told["c"] @ w[f"{layer}.{stack}_condition.weight"].T)[:, :, None, None]
        if "s" in told:
            bias = bias + conv2d(told["s"], w[f"{layer}.{stack}_map.weight"])
        return bias

    v = h = x
    for k in range(depth):
        name = f"layers.{k}"
        above, beside = w[f"{name}.vertical.weight"], w[f"{name}.left.weight"]
        features, inputs, rows, side = above.shape
        square = torch.zeros(features, inputs, side, side, dtype=torch.float64)
        square[:, :, :rows] = above
        line = torch.zeros(features, inputs, 1, side, dtype=torch.float64)
        line[:, :, 0, : side // 2] = beside
        centre = name + ".subpixels.{}.centre.weight"
        if any(centre.format(s) in w for s in range(channels)):
            line[:, :, :, side // 2] = triangle(w, centre, channels, inputs)[..., 0]
        of_rows = conv2d(v, square, w[f"{name}.vertical.bias"], padding=side // 2)
        across = conv2d(of_rows, w[f"{name}.across.weight"], w[f"{name}.across.bias"])
        v = parts(of_rows + conditions(name, "vertical"), 1) if k < depth - 1 else v
        z = conv2d(h, line, padding=(0, side // 2)) + across + conditions(name, "horizontal")
        out = name + ".subpixels.{}.out"
        mixed = conv2d(parts(z, channels), triangle(w, out + ".weight", channels, v.shape[1]))
        mixed = mixed + biases(w, out + ".bias", channels)[:, None, None]
        h = mixed + h if k else mixed
    for name in ("enter", "leave"):
        weight = triangle(w, f"heads.{{}}.{name}.weight", channels, h.shape[1])
        h = conv2d(torch.relu(h), weight, biases(w, f"heads.{{}}.{name}.bias", channels))
    return h.unflatten(1, (channels, -1))


CASES = {
    "nothing": ([3, 4, 5], ["conditioning.class=null"]),
    "class": ([1, 5, 4], []),
    "embedding": ([3, 3, 4], ["data.fields.face={shape: [7]}", "conditioning={face: {kind: vector, bias: false}}"]),
    "map": ([3, 4, 4], ["data.fields.layout={shape: [2, 2, 2]}", "conditioning.layout={kind: map}"]),
}


@pytest.mark.parametrize("name", CASES)
def test_network_of_masked_filters(name: str) -> None:
    shape, overrides = CASES[name]
    channels, height, width = shape
    data = f"data={{kind: npz, path: x.npz, classes: 10, shape: {shape}}}"
    lowered = lower(load_spec("pixelcnn", None, [data, *SIZES, *overrides]))
    network, rng = lowered.networks["main"], np.random.default_rng(0)
    weights = {
        key: 0.5 * rng.standard_normal([int(d) for d in param.type.shape])  # type: ignore[arg-type]
        for key, param in network_params(lowered, network).items()
    }
    w = {key: torch.tensor(value) for key, value in weights.items()}
    given: list[Any] = []
    told: dict[str, Tensor] = {}
    for port in network.methods["draw"].inputs[1:]:
        if port.name == "y":
            given.append(np.array([1, 7]))
            told["c"] = w["class_embed.weight"][[1, 7]]
        else:
            given.append(rng.standard_normal((2, *(int(d) for d in port.type.shape[1:]))))  # type: ignore[arg-type]
            value = torch.tensor(given[-1])
            told |= {"s": value} if value.ndim == 4 else {"c": value @ w["face_embed.weight"].T}
    if "s" in told:
        told["s"] = told["s"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    oracle = Interpreter(lowered.module, weights)
    u = rng.uniform(0, 1, (2, height, width, channels))
    (x,) = oracle.run("main.draw", u, *given)
    logits = reference(w, torch.tensor(x), told, 3)
    (found,) = oracle.run("main.forward", x, *given)
    np.testing.assert_allclose(found.reshape(logits.shape), logits.numpy(), rtol=0, atol=1e-10)
    # Each value is the one on which its uniform number falls.
    p = torch.softmax(logits, 2).cumsum(2).numpy()
    drawn = (p < u.transpose(0, 3, 1, 2)[:, :, None]).sum(2)
    np.testing.assert_allclose(x, drawn * 2 / (VALUES - 1) - 1, rtol=0, atol=1e-12)
    assert len(np.unique(x)) > 2
    (log_p,) = oracle.run("main.log_prob", x, *given)
    own = torch.log_softmax(logits, 2).gather(2, torch.tensor(drawn)[:, :, None])
    np.testing.assert_allclose(log_p, own.sum((1, 2, 3, 4)).numpy(), rtol=0, atol=1e-9)


PLACED = {
    "condition": "conditioning={place: {kind: encoded, network: mapper, form: map}}",
    "network": "networks.mapper={kind: deconvolution, field: place, widths: [5, 4, 3]}",
    "fields": "data.fields.place={shape: [6]}",
    "plain": "conditioning={place: {kind: map}}",
}
COMPRESSED = {
    "condition": "conditioning={place: {kind: encoded, network: mapper, form: vector}}",
    "network": "networks.mapper={kind: convolution, size: 3, widths: [4, 5]}",
    "fields": "data.fields.x={shape: [1, 4, 8]}",
    "plain": "conditioning={place: {kind: vector}}",
}


def spread(w: dict[str, Tensor], vector: Tensor) -> Tensor:
    x = (vector @ w["enter.weight"].T + w["enter.bias"]).reshape(2, 5, 1, 2)
    for i in range(2):
        x = conv_transpose2d(torch.relu(x), w[f"layers.{i}.weight"], w[f"layers.{i}.bias"], stride=2, padding=1)
    return x


def compressed(w: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in range(2):
        x = torch.relu(conv2d(x, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"], stride=2, padding=1))
    return x.flatten(1) @ w["leave.weight"].T + w["leave.bias"]


@pytest.mark.parametrize(
    ("texts", "encode", "shape", "name"),
    [(PLACED, spread, (2, 6), "place"), (COMPRESSED, compressed, (2, 1, 4, 8), "x")],
    ids=["a vector as a map", "the auto-encoder"],
)
def test_a_condition_that_a_network_encodes(texts: dict[str, str], encode: Any, shape: Any, name: str) -> None:
    """Samples are those of the network that is told the map, or the vector, itself, which PyTorch computes here."""
    data, rng = "data={kind: npz, path: x.npz, shape: [1, 4, 8]}", np.random.default_rng(0)
    sizes = [data, *SIZES, "backbone.depth=2"]
    told = lower(load_spec("pixelcnn", None, [*sizes, texts["fields"], texts["network"], texts["condition"]]))
    weights = weights_of(told, 0.5, rng)
    w = {key.removeprefix("mapper."): torch.tensor(value) for key, value in weights.items()}
    given, u = rng.standard_normal(shape), rng.uniform(0, 1, (2, 4, 8, 1))
    code = encode(w, torch.tensor(given)).numpy()
    plain = lower(
        load_spec("pixelcnn", None, [*sizes, f"data.fields.place={{shape: {[*code.shape[1:]]}}}", texts["plain"]])
    )
    for index, values in enumerate(({"u": u}, {"x": given if name == "x" else rng.choice([-1.0, 0.0], (2, 1, 4, 8))})):
        (found,) = _run(told, index, weights, **{name: given}, **{k: v for k, v in values.items() if k != name})
        (expected,) = _run(plain, index, weights, place=code, **values)
        (zeros,) = _run(plain, index, weights, place=0 * code, **values)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert (found != zeros).any()


def _run(lowered: Any, index: int, weights: dict[str, np.ndarray], **values: np.ndarray) -> tuple[np.ndarray, ...]:
    program = lowered.programs[index]
    ordered = [values[one.name] for one in program.inputs(lowered.module)]
    return tuple(Interpreter(lowered.module, weights).run(program.entry, *ordered))


def test_drawing_takes_no_more_than_one_evaluation() -> None:
    builder = ModuleBuilder()
    build_networks(builder, load_spec("pixelcnn", "imagenet32"))
    module = builder.finish()
    whole, all_pixels = (flops(module, module.entries[f"main.{name}"]) for name in ("forward", "draw"))
    assert all_pixels / whole == pytest.approx(1.0, abs=0.01)
