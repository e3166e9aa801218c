"""VFMTok's tokenizer: the authors' numbers of its parts, and all of it against PyTorch under the authors' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_data import error, load
from random_weights import random_weights
from torch import Tensor

from latentc import api
from latentc.checkpoint import network_params
from latentc.components.kit.bicubic import bicubic_matrix
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.vfmtok.deformable import read_points
from latentc.systems.vfmtok.resizing import image_matrix
from latentc.weights import Array, write_safetensors

SPEC = "vfmtok_tokenizer"
TINY = [
    "data.shape=[3, 16, 16]",
    "backbone.vision={width: 16, depth: 3, heads: 2, patch: 4, registers: 2, side: 3, levels: [0, 2], image: 20}",
    "backbone.tokens=9",
    "backbone.width=16",
    "backbone.regions={depth: 2, heads: 2, points: 3, hidden: 24}",
    "backbone.depth=2",
    "backbone.block.mixer.heads=2",
    "backbone.block.feed_forward.hidden=24",
    "backbone.registers=1",
    "backbone.pixels={width: 8, multipliers: [1, 1, 2, 1], blocks: 1, groups: 4}",
    "backbone.bottleneck.size=32",
    "backbone.bottleneck.channels=5",
]
DECODER = [
    "data.shape=[3, 384, 384]",
    "backbone.vision={width: 1024, depth: 1, heads: 16, patch: 16, registers: 4, levels: [0]}",
    "backbone.tokens=16",
    "backbone.width=64",
    "backbone.regions={depth: 1, heads: 4, points: 1, hidden: 8}",
    "backbone.depth=2",
    "backbone.block.mixer.heads=4",
    "backbone.block.feed_forward.hidden=88",
    "backbone.pixels={width: 8, multipliers: [1, 1, 1, 1, 1], blocks: 1, groups: 4}",
    "backbone.bottleneck={kind: codebook, size: 16, channels: 64}",
]
"""The authors' decoder of features, behind a codebook whose rows are the latents that it was given."""


def official(sizes: list[str], folder: Path, scale: float) -> dict[str, np.ndarray]:
    """Random weights under the authors' names."""
    lowered = lower(load_spec(SPEC, None, sizes))
    own = random_weights(network_params(lowered, lowered.networks["main"]), np.random.default_rng(0), scale)
    tensors = {name: Array(np.float32(array)) for name, array in own.items()}
    write_safetensors(folder / "own.safetensors", tensors)
    api.convert_weights(
        SPEC, folder / "own.safetensors", folder / "theirs.safetensors", None, "official", overrides=sizes
    )
    theirs = read(folder / "theirs.safetensors")
    assert "encode_transformer.backbone.pretrained_encoder.blocks.0.ls1.gamma" in theirs
    return theirs


def read(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)  # type: ignore[no-any-return]


def weights(theirs: dict[str, np.ndarray], folder: Path) -> str:
    write_safetensors(folder / "given.safetensors", {name: Array(array) for name, array in theirs.items()})
    return str(folder / "given.safetensors")


def test_points_between_pixels_are_those_of_the_authors() -> None:
    numbers = load("vfmtok.ms_deform_attn_ref")
    sizes = [tuple(map(int, row)) for row in numbers.inputs["value_spatial_shapes"]]
    given = [numbers.inputs[name] for name in ("value", "sampling_locations", "attention_weights")]
    assert error(run_points(sizes, *given), numbers.outputs["out"]) < 1e-5


def test_points_beyond_an_edge_read_zeros() -> None:
    rng, sizes = np.random.default_rng(0), [(3, 5), (2, 2)]
    value = rng.standard_normal((2, 19, 2, 3))
    at, shares = rng.uniform(-0.4, 1.4, (2, 7, 2, 2, 4, 2)), rng.random((2, 7, 2, 2, 4))
    total, start = torch.zeros(4, 3, 7, dtype=torch.float64), 0
    for i, (rows, columns) in enumerate(sizes):
        pixels = torch.from_numpy(value[:, start : start + rows * columns])
        pixels = pixels.permute(0, 2, 3, 1).reshape(4, 3, rows, columns)
        grid = torch.from_numpy(2 * at[:, :, :, i] - 1).transpose(1, 2).flatten(0, 1)
        read = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)
        total += (read * torch.from_numpy(shares[:, :, :, i]).transpose(1, 2).reshape(4, 1, 7, 4)).sum(-1)
        start += rows * columns
    wanted = total.reshape(2, 6, 7).transpose(1, 2).numpy()
    assert error(run_points(sizes, value, at, shares), wanted) < 1e-12


def run_points(sizes: list[tuple[int, int]], value: np.ndarray, at: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[B, N, H d] of values [B, S, H, d] at places [B, N, H, L, P, 2] from 0 to 1, as the authors' does."""
    count = len(sizes)
    pixels = at * np.array([[columns, rows] for rows, columns in sizes])[:, None] - 0.5
    given = [value.transpose(0, 2, 1, 3), *np.moveaxis(pixels, 3, 0), *np.moveaxis(shares, 3, 0)]
    mb = ModuleBuilder()
    b = mb.function("points")
    values, *others = (b.input(f"x{i}", f32(*array.shape)) for i, array in enumerate(given))
    b.output(read_points(b, values, others[:count], others[count:], sizes))
    mb.entries["points"] = b.finish("Reads points.")
    (out,) = Interpreter(mb.finish(), {}).run("points", *given)
    return np.asarray(out).transpose(0, 2, 1, 3).reshape(*at.shape[:2], -1)


@pytest.mark.parametrize(
    ("side", "wanted", "offset", "antialias"), [(8, 5, 0.1, False), (8, 5, 0, True), (3, 4, 0, True)]
)
def test_positions_are_resized_as_pytorch_does(side: int, wanted: int, offset: float, antialias: bool) -> None:
    x, factor = torch.randn(1, 2, side, side, dtype=torch.float64), (wanted + offset) / side
    theirs = F.interpolate(x, scale_factor=(factor, factor), mode="bicubic", antialias=antialias)
    matrix = torch.from_numpy(bicubic_matrix(side, wanted, offset, antialias))
    torch.testing.assert_close(matrix @ x @ matrix.T, theirs)


@pytest.mark.parametrize(("side", "wanted"), [(8, 13), (16, 11), (20, 5)])
def test_images_are_resized_as_for_the_authors(side: int, wanted: int) -> None:
    x = torch.randn(1, 2, side, side, dtype=torch.float64)
    matrix = torch.from_numpy(image_matrix(side, wanted))
    torch.testing.assert_close(matrix @ x @ matrix.T, seen(x, wanted))


def test_a_decoder_without_registers_reads_their_empty_tensor(tmp_path: Path) -> None:
    theirs = official([*TINY, "backbone.registers=0"], tmp_path, 0.3)
    theirs["decode_transformer.register_tokens"] = np.zeros((1, 0, 16), np.float32)
    given: Any = {"overrides": [*TINY, "backbone.registers=0"], "names": "official", "method": "decode"}
    out = api.run_method(SPEC, weights(theirs, tmp_path), {"z": np.zeros((1, 9), np.int64)}, "oracle", **given)
    assert next(iter(out.values())).shape == (1, 3, 16, 16)


def test_the_decoder_of_features_is_that_of_the_authors(tmp_path: Path) -> None:
    numbers = load("vfmtok.decoder")
    theirs = official(DECODER, tmp_path, 0.1)
    theirs |= {f"decode_transformer.{name}": array for name, array in numbers.weights.items()}
    theirs["slot_quantize.embedding.weight"] = numbers.inputs["slots"][0]
    theirs |= {
        "post_slots_quant.weight": np.eye(64, dtype=np.float32),
        "post_slots_quant.bias": np.zeros(64, np.float32),
    }
    given, file = {"z": np.arange(16)[None]}, weights(theirs, tmp_path)
    for backend in ("oracle", "torch", "onnx", "openvino"):
        out = api.run_method(
            SPEC,
            file,
            given,
            backend,
            overrides=DECODER,
            names="official",
            method="decode_features",  # type: ignore[arg-type]
        )
        assert error(out["map"], numbers.outputs["out.0"]) < 1e-5, backend
    # And the features of the other queries, which the authors' code returns in training.
    torch.testing.assert_close(
        torch.from_numpy(np.float32(out["like"])),
        of_features(tensors_of(theirs), torch.from_numpy(numbers.inputs["slots"]), 4, 24)[1],
        atol=1e-4,
        rtol=1e-4,
    )


def test_the_whole_tokenizer_is_what_its_authors_wrote(tmp_path: Path) -> None:
    theirs = official(TINY, tmp_path, 0.3)
    x = np.random.default_rng(1).uniform(-1.3, 1.3, (2, 3, 16, 16)).astype(np.float32)
    file, of = weights(theirs, tmp_path), tensors_of(theirs)
    with torch.no_grad():
        made, tokens, penalty = reference(of, torch.from_numpy(x))
    sizes: Any = {"overrides": TINY, "names": "official"}
    for backend in ("oracle", "torch", "onnx", "openvino"):
        out = api.run_method(SPEC, file, {"x": x}, backend, **sizes)  # type: ignore[arg-type]
        assert error(next(iter(out.values())), made.numpy()) < 1e-5, backend
    found = next(iter(api.run_method(SPEC, file, {"x": x}, "oracle", method="encode", **sizes).values()))
    assert np.array_equal(found, tokens.numpy())
    trained = api.run_method(SPEC, file, {"x": x}, "torch", method="regularized", **sizes)
    assert error(list(trained.values())[1], penalty.numpy()) < 1e-4
    # Without its vision model, as the authors publish it, a file still decodes.
    bare = {name: array for name, array in theirs.items() if "backbone" not in name}
    out = api.run_method(SPEC, weights(bare, tmp_path), {"z": tokens.numpy()}, "oracle", method="decode", **sizes)
    assert error(next(iter(out.values())), made.numpy()) < 1e-5
    sizes["overrides"] = [*TINY, "backbone.decoded=12"]  # as figures are of them
    out = api.run_method(SPEC, weights(bare, tmp_path), {"z": tokens.numpy()}, "oracle", method="decode", **sizes)
    scaled = torch.nn.functional.interpolate(made, size=(12, 12), mode="bicubic")
    assert error(next(iter(out.values())), scaled.numpy()) < 1e-5


def test_dinov2_is_read_from_its_own_file(tmp_path: Path) -> None:
    theirs = official(TINY, tmp_path, 0.3)
    prefix = "encode_transformer.backbone.pretrained_encoder."
    alone = {name.removeprefix(prefix): array for name, array in theirs.items() if name.startswith(prefix)}
    alone["mask_token"] = np.zeros((1, 16), np.float32)
    api.convert_weights(SPEC, weights(alone, tmp_path), tmp_path / "vision.safetensors", "dinov2", overrides=TINY)
    found, own = read(tmp_path / "vision.safetensors"), read(tmp_path / "own.safetensors")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in own.items() if name.startswith("vision.")
    }
    assert not [name for name in own if name[0] == "v" and name not in found]  # the pattern `[!v]*` of the spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.shape=[1, 16, 16]", "square images of 3 channels"),
        ("backbone.vision.patch=6", "do not tile a side of 20"),
        ("backbone.vision.levels=[2, 1]", "must be in ascending order"),
        ("backbone.vision.levels=[0, 1]", "the last level is 1"),
        ("backbone.tokens=8", "8 regions are not a square"),
        ("backbone.block.mixer.causal=false", "must see only what precedes them"),
        ("backbone.pixels.multipliers=[1, 1, 1, 1, 1, 1]", "a side that is a multiple of 32"),
        ("backbone.pixels.groups=3", "do not divide into 3 groups"),
        ("backbone.regions.heads=3", "3 heads do not divide a width of 16"),
    ],
)
def test_what_does_not_fit_is_refused(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec(SPEC, None, [*TINY, change])


# ---- the tokenizer in PyTorch, by the authors' names

Weights = dict[str, Tensor]


def tensors_of(theirs: dict[str, np.ndarray]) -> Weights:
    return {name: torch.from_numpy(np.float32(array)) for name, array in theirs.items()}


def norm(of: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], of[f"{name}.weight"], of[f"{name}.bias"], eps)


def linear(of: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, of[f"{name}.weight"], of.get(f"{name}.bias"))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


def causal_attention(of: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = (linear(of, f"{name}.{part}_proj", x) for part in "qkv")
    return linear(of, f"{name}.out_proj", attend(q, k, v, heads, True))


def depth(of: Weights, prefix: str) -> range:
    return range(1 + max(int(name[len(prefix) :].split(".")[0]) for name in of if name.startswith(prefix)))


def seen(x: Tensor, side: int) -> Tensor:
    """Images resized as kornia does it with antialiasing: a Gaussian blur, then aligned corners."""
    factor = x.shape[-1] / side
    if factor > 1:
        deviation = (factor - 1) / 2
        reach = int(max(4 * deviation, 3)) // 2
        kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * deviation**2)).to(x)
        kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
        padded = F.pad(x, (reach,) * 4, mode="reflect")
        x = F.conv2d(F.conv2d(padded, kernel, groups=x.shape[1]), kernel.transpose(2, 3), groups=x.shape[1])
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=True)


def of_vision(of: Weights, x: Tensor, levels: tuple[int, ...], heads: int, registers: int) -> list[Tensor]:
    """DINOv2 with registers: positions are resized with antialiasing."""
    at = "encode_transformer.backbone.pretrained_encoder"
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    kernel = of[f"{at}.patch_embed.proj.weight"]
    x = F.conv2d(((x + 1) / 2 - mean) / std, kernel, of[f"{at}.patch_embed.proj.bias"], stride=kernel.shape[2])
    side, first = x.shape[2], of[f"{at}.pos_embed"][:, :1]
    places = of[f"{at}.pos_embed"][:, 1:]
    learned = round(places.shape[1] ** 0.5)
    places = places.transpose(1, 2).unflatten(2, (learned, learned))
    places = (
        F.interpolate(places, scale_factor=side / learned, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    )
    x = x.flatten(2).transpose(1, 2) + places
    before = [(of[f"{at}.cls_token"] + first), of[f"{at}.register_tokens"]]
    x = torch.cat([*(t.expand(len(x), -1, -1) for t in before), x], dim=1)
    found = []
    for i in depth(of, f"{at}.blocks."):
        block = f"{at}.blocks.{i}"
        q, k, v = linear(of, f"{block}.attn.qkv", norm(of, f"{block}.norm1", x, 1e-6)).chunk(3, dim=2)
        x = x + linear(of, f"{block}.attn.proj", attend(q, k, v, heads, False)) * of[f"{block}.ls1.gamma"]
        h = F.gelu(linear(of, f"{block}.mlp.fc1", norm(of, f"{block}.norm2", x, 1e-6)))
        x = x + linear(of, f"{block}.mlp.fc2", h) * of[f"{block}.ls2.gamma"]
        found += [x[:, 1 + registers :]] if i in levels[:-1] else []
    return [*found, norm(of, f"{at}.norm", x, 1e-6)[:, 1 + registers :]]


def of_regions(of: Weights, levels: list[Tensor], heads: int, points: int) -> Tensor:
    at, maps = "encode_transformer", []
    for i, level in enumerate(levels):
        h = F.relu(norm(of, f"{at}.projectors.{i}.mlp.1", linear(of, f"{at}.projectors.{i}.mlp.0", level)))
        h = norm(of, f"{at}.projectors.{i}.mlp.4", linear(of, f"{at}.projectors.{i}.mlp.3", h))
        maps.append(norm(of, f"{at}.norm_layers.{i}", h))
    x = norm(of, f"{at}.norm_pre1", of[f"{at}.carrier_tokens"]).expand(len(levels[0]), -1, -1)
    places, side = of[f"{at}.slots_pos"], round(x.shape[1] ** 0.5)
    centre = (torch.arange(side) + 0.5) / side
    centre = torch.stack([centre.repeat(side), centre.repeat_interleave(side)], dim=1)[None, :, None, None]
    for i in depth(of, f"{at}.transformer.layers."):
        layer, count = f"{at}.transformer.layers.{i}", len(levels)
        query = x + places
        offsets = linear(of, f"{layer}.cross_attn.sampling_offsets", query).unflatten(2, (heads, count, points, 2))
        shares = linear(of, f"{layer}.cross_attn.attention_weights", query).unflatten(2, (heads, -1)).softmax(-1)
        shares = shares.unflatten(3, (count, points))
        read = 0
        for m, pixels in enumerate(maps):
            value = linear(of, f"{layer}.cross_attn.value_proj", pixels)
            grid = round(value.shape[1] ** 0.5)
            value = value.transpose(1, 2).unflatten(2, (grid, grid)).unflatten(1, (heads, -1)).flatten(0, 1)
            where = (2 * (centre + offsets[:, :, :, m] / grid) - 1).transpose(1, 2).flatten(0, 1)
            seen = F.grid_sample(value, where, padding_mode="zeros", align_corners=False)  # [B H, d, N, P]
            read = read + (seen * shares[:, :, :, m].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        read = read.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)
        x = norm(of, f"{layer}.norm1", x + linear(of, f"{layer}.cross_attn.output_proj", read))
        x = norm(of, f"{layer}.norm3", x + causal_attention(of, f"{layer}.self_attn", x + places, heads))
        h = linear(of, f"{layer}.linear2", F.relu(linear(of, f"{layer}.linear1", x)))
        x = norm(of, f"{layer}.norm2", x + h)
    return x


def of_features(of: Weights, slots: Tensor, heads: int, grid: int) -> tuple[Tensor, Tensor]:
    """The map [B, D, grid, grid] that an image is decoded from, and features like those of the vision model."""
    at, batch = "decode_transformer", len(slots)
    context = norm(of, f"{at}.norm_post1", slots + of[f"{at}.slot_position_embedding"])
    table = of[f"{at}.position_embedding"]
    side = round((table.shape[1] - 1) ** 0.5)
    cells = table[:, 1:]
    if side != grid:
        cells = cells.transpose(1, 2).unflatten(2, (side, side))
        cells = F.interpolate(cells, scale_factor=(grid + 0.1) / side, mode="bicubic").flatten(2).transpose(1, 2)

    def asked(mask: str, places: Tensor, which: str) -> Tensor:
        parts = [of[f"{at}.cls_token"] + table[:, :1], of[f"{at}.{mask}"] + places, of[f"{at}.register_tokens"]]
        queries = norm(of, f"{at}.{which}", torch.cat(parts, dim=1)).expand(batch, -1, -1)
        x = torch.cat([context, queries], dim=1)
        for i in depth(of, f"{at}.transformer.layers."):
            layer = f"{at}.transformer.layers.{i}"
            x = x + causal_attention(of, f"{layer}.attn1", norm(of, f"{layer}.norm1", x), heads)
            gate, value = linear(of, f"{layer}.ffnet.w12", norm(of, f"{layer}.norm2", x)).chunk(2, dim=2)
            x = x + linear(of, f"{layer}.ffnet.w3", F.silu(gate) * value)
        start = context.shape[1] + 1
        return x[:, start : start + places.shape[1]]

    found = asked("mask_embedding", cells, "norm_post1").transpose(1, 2).unflatten(2, (grid, grid))
    return found, linear(of, f"{at}.proj", asked("mask_dino", table[:, 1:], "norm_post2"))


def of_pixels(of: Weights, h: Tensor, groups: int) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        weight = of[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, of[f"decoder.{name}.bias"], padding=weight.shape[2] // 2)

    def grouped(name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, groups, of[f"decoder.{name}.weight"], of[f"decoder.{name}.bias"], 1e-6)

    def residual(name: str, x: Tensor) -> Tensor:
        h = conv(f"{name}.conv1", F.silu(grouped(f"{name}.norm1", x)))
        h = conv(f"{name}.conv2", F.silu(grouped(f"{name}.norm2", h)))
        return h + (conv(f"{name}.nin_shortcut", x) if f"decoder.{name}.nin_shortcut.weight" in of else x)

    h = residual("mid.0", conv("conv_in", h))
    q, k, v = (conv(f"mid.1.{p}", grouped("mid.1.norm", h)).flatten(2).transpose(1, 2) for p in "qkv")
    h = h + conv("mid.1.proj_out", attend(q, k, v, 1, False).transpose(1, 2).unflatten(2, h.shape[2:]))
    h = residual("mid.2", h)
    levels = depth(of, "decoder.conv_blocks.")
    for i in levels:
        for j in depth(of, f"decoder.conv_blocks.{i}.res."):
            h = residual(f"conv_blocks.{i}.res.{j}", h)
        h = conv(f"conv_blocks.{i}.upsample.conv", F.interpolate(h, scale_factor=2.0)) if i < levels[-1] else h
    return conv("conv_out", F.silu(grouped("norm_out", h)))


def reference(of: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, tokens, and the penalty of a sample in training: VQ and 1 - cosine."""
    levels = of_vision(of, seen(x, 20).clamp(-1, 1), (0, 2), 2, 2)
    rows = F.normalize(linear(of, "pre_slots_quant", of_regions(of, levels, 2, 3)), dim=-1)
    table = F.normalize(of["slot_quantize.embedding.weight"], dim=-1)
    tokens = torch.cdist(rows, table.expand(len(x), -1, -1)).argmin(-1)
    cells, like = of_features(of, linear(of, "post_slots_quant", table[tokens]), 2, 2)
    penalty = 1.25 * ((table[tokens] - rows) ** 2).mean((1, 2))
    return of_pixels(of, cells, 4), tokens, penalty + (1 - F.cosine_similarity(like, levels[-1], dim=2)).mean(1)
