"""HPDM's network, loss and sampler against the same computations written out in PyTorch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIDE, PATCH, CLASSES = 4, 2, 4
SIZES = [
    "data.fields.x={shape: [2, 2, 16, 16], axes: [channel, frame, height, width]}",
    "backbone.blocks=[3, 2, 1]",
    "backbone.data_width=8",
]
SIZES += ["backbone.width=16", "backbone.latents=3", "backbone.heads=2", "backbone.compute_heads=2"]
SIZES += ["sampler.steps=2", "sampler.guidance=null", "backbone.frames=2", "conditioning.class.dropout=0"]
BLOCKS, GRID = (3, 2, 1), SIDE // PATCH
Tensor = torch.Tensor


class Written:
    """The network in float64, patch by patch. A map of tokens is f64[E, G, G]; there is one token per two frames."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.w = {name: torch.from_numpy(value).double() for name, value in weights.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return x @ weight.reshape(len(weight), -1).T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def attend(self, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int = 2) -> Tensor:
        out = []
        for query, key, value in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            out.append(torch.softmax(query @ key.T / math.sqrt(query.shape[1]), 1) @ value)
        return self.linear(f"{name}.attn.proj", torch.cat(out, 1))

    def feed(self, name: str, x: Tensor) -> Tensor:
        return x + self.linear(f"{name}.fc2", F.gelu(self.linear(f"{name}.fc1", self.norm(f"{name}.norm2", x))))

    def cross(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        q = self.linear(f"{name}.attn.q", self.norm(f"{name}.norm1", x))
        return self.feed(name, x + self.attend(name, q, *self.linear(f"{name}.attn.kv", context).chunk(2, 1)))

    def within(self, name: str, x: Tensor) -> Tensor:
        return self.feed(
            name, x + self.attend(name, *self.linear(f"{name}.attn.qkv", self.norm(f"{name}.norm1", x)).chunk(3, 1))
        )

    def condition(self, t: float, y: int) -> Tensor:
        angle = 1000 * t * torch.exp(-math.log(10000) * torch.arange(2, dtype=torch.float64) / 2)
        x = torch.cat([angle.cos(), angle.sin()])
        x = (x - x.mean()) / x.std()
        moment = self.linear("t_embedder.fc2", F.silu(self.linear("t_embedder.fc1", x)))
        return torch.stack([moment, self.w["y_embedder.weight"][y] + self.w["y_embedder.bias"]])

    def level(self, number: int, x: Tensor, corner: Tensor, cond: Tensor, context) -> tuple[Tensor, list[Tensor]]:
        """x [C, F, r, r]; `context(i)`: tokens f64[T, E] of coarser levels before block i, one per coarser level."""
        rows = []
        for i in range(GRID):
            for j in range(GRID):
                pixels = x[:, :, PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)]
                rows.append(pixels.permute(1, 2, 3, 0).reshape(-1))
        h = self.norm("x_embedder.norm", self.linear("x_embedder.proj", torch.stack(rows)))
        h = h + self.w["x_embedder.positions"] + self.linear(f"place.{number}", corner)
        z, seen = torch.cat([self.w["latents"], cond]), []
        for i in range(BLOCKS[number]):
            if number:
                h = self.linear(f"fusion.{i}.proj", torch.cat([h, torch.stack(context(i)).mean(0)], 1))
            seen.append(h)
            z = self.cross(f"blocks.{i}.read", z, h)
            z = self.within(f"blocks.{i}.process.0", z)
            h = self.cross(f"blocks.{i}.write", h, z)
        h = self.linear("final.proj", self.norm("final.norm", h)).reshape(GRID, GRID, 2, PATCH, PATCH, -1)
        return h.permute(5, 2, 0, 3, 1, 4).reshape(x.shape), seen

    def patches(self, x: Tensor, corners: Tensor, t: float, y: int) -> Tensor:
        """One patch per level [L, C, F, r, r]; tokens are read by torch's own grid_sample."""
        cond, outs, seen = self.condition(t, y), [], []
        for number in range(3):

            def context(i: int, number: int = number) -> list[Tensor]:
                found = []
                for k in range(number):
                    ticks = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID * 2.0**-number
                    row, column = (((corners[number, a] + ticks) - corners[k, a]) * 2**k * 2 - 1 for a in (0, 1))
                    at = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1)[None]
                    whole = seen[k][i].T.reshape(1, -1, GRID, GRID)
                    read = F.grid_sample(whole, at, padding_mode="border", align_corners=False)
                    found.append(read[0].reshape(-1, GRID * GRID).T)
                return found

            out, tokens = self.level(number, x[number], corners[number], cond, context)
            outs.append(out)
            seen.append(tokens)
        return torch.stack(outs)

    def tiles(self, x: Tensor, t: float, y: int) -> Tensor:
        """All tiles [1 + 4 + 16, C, F, r, r]; whole levels are enlarged by torch's interpolate."""
        cond, outs, seen, first = self.condition(t, y), [], [], 0
        for number in range(3):
            side, found = 2**number, []
            for q in range(side * side):
                row, column = divmod(q, side)

                def context(i: int, number: int = number, row: int = row, column: int = column) -> list[Tensor]:
                    read = []
                    for k in range(number):
                        rows = [torch.cat([m[i].T.reshape(-1, GRID, GRID) for m in line], 2) for line in seen[k]]
                        whole = torch.cat(rows, 1)[None]
                        whole = F.interpolate(whole, size=(GRID * 2**number,) * 2, mode="bilinear", align_corners=False)
                        part = whole[0, :, GRID * row : GRID * (row + 1), GRID * column : GRID * (column + 1)]
                        read.append(part.reshape(-1, GRID * GRID).T)
                    return read

                corner = torch.tensor([row / side, column / side], dtype=torch.float64)
                out, tokens = self.level(number, x[first + q], corner, cond, context)
                outs.append(out)
                found.append(tokens)
            seen.append([found[side * r : side * (r + 1)] for r in range(side)])
            first += side * side
        return torch.stack(outs)


@pytest.fixture(scope="module")
def lowered():
    return lower(load_spec("digits_hpdm", None, SIZES))


@pytest.fixture(scope="module")
def weights(lowered) -> dict[str, np.ndarray]:
    rng, params = np.random.default_rng(0), network_params(lowered, lowered.networks["main"])
    shapes = {name: [int(d) for d in p.type.shape] for name, p in params.items()}
    return {n: (0.4 * rng.standard_normal(s) + n.endswith("norm.weight")).astype(np.float32) for n, s in shapes.items()}


def one_hot(y: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[y]


def test_all_tiles_are_denoised_as_written_out(weights: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    x, t, y = (
        rng.standard_normal((2, 21, 2, 2, SIDE, SIDE)).astype(np.float32),
        np.float32([0.1, 0.7]),
        np.array([0, 3]),
    )
    found = api.forward("digits_hpdm", weights, {"x": x, "t": t, "y": one_hot(y)}, overrides=SIZES)
    written = Written(weights)
    wanted = np.stack(
        [written.tiles(torch.from_numpy(a).double(), float(b), int(c)) for a, b, c in zip(x, t, y, strict=True)]
    )
    assert np.abs(wanted).max() > 0.1
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_loss_is_that_of_one_patch_per_level(weights: dict[str, np.ndarray]) -> None:
    """Patches are cut from means of pixels, one inside the other; the error of the velocity is a mean over all."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, (2, 2, 2, 16, 16)).astype(np.float32), np.array([1, 2])
    u, place = np.float32([0.2, 0.6]), rng.uniform(size=(2, 2, 2)).astype(np.float32)
    noise = rng.standard_normal((2, 3, 2, 2, SIDE, SIDE)).astype(np.float32)
    given = {"x": x, "y": y, "place": place, "u": u, "noise": noise}
    losses = []
    written = Written(weights)
    for n in range(2):
        patches, corners, begin = [], [], np.zeros(2, int)
        for level in range(3):
            factor = 4 >> level
            small = x[n].reshape(2, 2, 16 // factor, factor, 16 // factor, factor).mean((3, 5))
            if level:
                begin = 2 * begin + np.minimum(np.floor(place[n, level - 1] * (SIDE + 1)), SIDE).astype(int)
            (i, j), whole = begin, SIDE << level
            patches.append(small[:, :, i : i + SIDE, j : j + SIDE])
            corners.append(begin / whole)
        clean = torch.from_numpy(np.stack(patches)).double()
        gamma = math.cos(math.pi / 2 * u[n]) ** 2
        assert 1e-4 < gamma < 1 - 1e-4
        alpha, sigma, drawn = math.sqrt(gamma), math.sqrt(1 - gamma), torch.from_numpy(noise[n]).double()
        out = written.patches(alpha * clean + sigma * drawn, torch.from_numpy(np.stack(corners)), gamma, int(y[n]))
        losses.append(float((out - (alpha * drawn - sigma * clean)).square().mean()))
    found = api.loss("digits_hpdm", weights, given, overrides=SIZES)
    assert abs(float(found["loss"]) - np.mean(losses)) < 1e-5 * np.mean(losses)


def test_a_sample_is_the_finest_level(lowered, weights: dict[str, np.ndarray]) -> None:
    """Two steps of DDIM from the process's levels, without clipping, written out."""
    low = lower(load_spec("digits_hpdm", None, [*SIZES, "sampler.clip=null"]))
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((1, 21, 2, 2, SIDE, SIDE)), np.array([2])
    named = {f"main.{name}": value for name, value in weights.items()}
    (program,) = low.programs
    found = Interpreter(low.module, named).run(program.entry, x, one_hot(y))[0]
    written, state = Written(weights), x[0]
    process = load_spec("digits_hpdm", None, SIZES).objective.process
    times = [1.0, 0.5, 0.0]
    for t, after in itertools.pairwise(times):
        now, then = process.point(np.float64(t)), process.point(np.float64(after))
        v = written.tiles(torch.from_numpy(state), float(now.time), 2).numpy()
        data, drawn = now.alpha * state - now.sigma * v, now.sigma * state + now.alpha * v
        state = then.alpha * data + then.sigma * drawn
    tiles = state[5:].reshape(4, 4, 2, 2, SIDE, SIDE)
    wanted = np.concatenate([np.concatenate(list(line), -1) for line in tiles], -2)
    assert found.shape == (1, 2, 2, 16, 16)
    assert np.abs(found[0] - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.fields.x.shape=[1, 16, 16]"], "a patch_pyramid takes video"),
        (["backbone.patch=3"], "tokens of 3 pixels do not tile patches"),
        (["backbone.frames=2"], "tokens of 2 frames do not divide 5 frames"),
        (["backbone.blocks=[1, 2]"], "a finer level reads what coarser ones compute"),
        (["sampler={kind: ddim}"], "denoise"),
        (["objective={kind: diffusion}"], "denoise"),
        (["sampler.guidance.channels=1"], "channels of a pyramid's tiles are not handled apart"),
        (["sampler.clip_quantile=0.9", "sampler.clip_per_channel=true"], "channels of a pyramid's tiles are not"),
    ],
)
def test_what_does_not_fit_is_said(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("digits_hpdm", None, overrides)
    assert said in str(error.value), error.value
