"""LLIA: the network written out in PyTorch, clips of fewer frames, what the engine computes once, refusals."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from random_weights import weights_of
from tiny_systems import SYSTEMS
from torch import Tensor

import latentc_runtime
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

CLIP, BEFORE, HEADS, GROUPS = 3, 2, 2, 4
SIZES = ("backbone.width=8", "backbone.groups=4", "conditioning.time.frequencies=8", "conditioning.length.shortest=1")
TEACHER = ("networks.main.width=8", "networks.main.groups=4", *SIZES[2:], "objective.distance=l2")
RNG = np.random.default_rng(5)


def frames(clip: int) -> tuple[str, ...]:
    return (f"data.fields.x.shape=[1, {clip}, 8, 8]", f"data.fields.audio.shape=[{clip + BEFORE}, 2, 3]")


@cache
def lowered(name: str, clip: int = CLIP, *overrides: str) -> Lowered:
    sizes = SIZES if name == "digits_llia" else TEACHER
    return lower(load_spec(name, overrides=[*sizes, *frames(clip), *overrides]))


@cache
def oracle(name: str, clip: int = CLIP, *overrides: str) -> Interpreter:
    """With the same weights for clips of all lengths."""
    return Interpreter(lowered(name, clip, *overrides).module, weights_of(lowered(name), 0.3), float_dtype="f64")


@cache
def given(count: int = 2) -> dict[str, np.ndarray]:
    shapes = {"x": (1, CLIP, 8, 8), "image": (1, 8, 8), "before": (1, BEFORE, 8, 8), "audio": (CLIP + BEFORE, 2, 3)}
    found = {name: RNG.standard_normal((count, *shape)) for name, shape in shapes.items()}
    found |= {"t": np.array([250.0, 700.0]), "y": np.array([2, 3]), "length": np.array([2.0, 3.0])}
    return found | {"noise": RNG.standard_normal((count, *shapes["x"]))}


class Reference:
    """The network frame by frame and position by position. `w`: weights by name."""

    def __init__(self, w: dict[str, Tensor]) -> None:
        self.w = w

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def group(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, GROUPS, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def layer(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def residual(self, name: str, x: Tensor, c: Tensor | None) -> Tensor:
        h = self.conv(f"{name}.conv0", F.silu(self.group(f"{name}.norm0", x, 1e-5)))
        h = h if c is None else h + self.linear(f"{name}.affine", c)[..., None, None]
        h = self.conv(f"{name}.conv1", F.silu(self.group(f"{name}.norm1", h, 1e-5)))
        return h + (self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.w else x)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of sequences [T, C] and [L, C], head by head."""
        size, out = q.shape[1] // HEADS, []
        for i in range(HEADS):
            own = slice(i * size, (i + 1) * size)
            out.append((q[:, own] @ k[:, own].T / math.sqrt(size)).softmax(1) @ v[:, own])
        return torch.cat(out, dim=1)

    def fed(self, name: str, h: Tensor) -> Tensor:
        value, gate = self.linear(f"{name}.feed_forward.fc1", h).chunk(2, dim=-1)
        return self.linear(f"{name}.feed_forward.fc2", value * F.gelu(gate))

    def within(self, name: str, x: Tensor, other: Tensor | None, audio: Tensor | None) -> tuple[Tensor, Tensor]:
        """One frame [C, H, W] after its transformer, and what its attention is computed from."""
        h = self.group(f"{name}.norm", x[None], 1e-6)[0].flatten(1).T
        h = self.linear(f"{name}.proj_in", h)
        own = self.layer(f"{name}.norm1", h)
        if f"{name}.proj_out.weight" not in self.w:
            return x, own
        seen = own if other is None else torch.cat([own, other])
        k, v = self.linear(f"{name}.attention.kv", seen).chunk(2, dim=1)
        mixed = self.attention(self.linear(f"{name}.attention.q", own), k, v)
        h = h + self.linear(f"{name}.attention.proj", mixed)
        if audio is not None:
            k, v = self.linear(f"{name}.cross_attention.kv", audio).chunk(2, dim=1)
            q = self.linear(f"{name}.cross_attention.q", self.layer(f"{name}.norm2", h))
            h = h + self.linear(f"{name}.cross_attention.proj", self.attention(q, k, v))
        h = h + self.fed(name, self.layer(f"{name}.norm3", h))
        return x + self.linear(f"{name}.proj_out", h).T.reshape(x.shape), own

    def along(self, name: str, x: Tensor, clip: int) -> Tensor:
        """Frames [T, C, H, W] after the motion module; those after the clip are looked at by none."""
        h = torch.stack([self.group(f"{name}.norm", frame[None], 1e-6)[0] for frame in x])
        out = x.clone()
        place = sinusoids(torch.arange(len(x), dtype=torch.float64), x.shape[1])
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                s = self.linear(f"{name}.proj_in", h[:, :, row, column])
                for i in (1, 2):
                    q, k, v = self.linear(f"{name}.attention{i}.qkv", self.layer(f"{name}.norm{i}", s) + place).chunk(
                        3, dim=1
                    )
                    mixed = self.attention(q, k[: BEFORE + clip], v[: BEFORE + clip])
                    s = s + self.linear(f"{name}.attention{i}.proj", mixed)
                s = s + self.fed(name, self.layer(f"{name}.norm3", s))
                out[:, :, row, column] += self.linear(f"{name}.proj_out", s)
        return out

    def unet(self, prefix: str, x: Tensor, block: Any) -> Tensor:
        """The two levels, one block each on the way down and two on the way up; of frames [T, C, H, W]."""
        first = self.conv(f"{prefix}in_conv", x)
        fine = block(f"{prefix}down.0.0", first, False)
        half = self.conv(f"{prefix}down.0.downsample", fine, 2)
        x = coarse = block(f"{prefix}down.1.0", half, True)
        x = block(f"{prefix}middle.1", block(f"{prefix}middle.0", x, True), False)
        x = block(f"{prefix}up.1.0", torch.cat([x, coarse], dim=1), True)
        x = block(f"{prefix}up.1.1", torch.cat([x, half], dim=1), True)
        if prefix:
            return x  # the reference ends here
        x = self.conv(f"{prefix}up.1.upsample", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        x = block(f"{prefix}up.0.0", torch.cat([x, fine], dim=1), False)
        return block(f"{prefix}up.0.1", torch.cat([x, first], dim=1), False)

    def __call__(self, x: Tensor, t: Tensor, y: int, image: Tensor, before: Tensor, audio: Tensor, clip: int) -> Tensor:
        maps: list[Tensor] = []

        def of_image(name: str, x: Tensor, attends: bool) -> Tensor:
            x = self.residual(f"{name}.residual", x, None)
            if attends:
                frame, found = self.within(f"{name}.attention", x[0], None, None)
                maps.append(found)
                x = frame[None]
            return x

        self.unet("reference.", image[None], of_image)
        time = self.linear("t_embedder.fc2", F.silu(self.linear("t_embedder.fc1", sinusoids(t[None], 8)[0])))
        c, rest = F.silu(time + self.w["y_embedder.weight"][y]), iter(maps)

        def of_frames(name: str, x: Tensor, attends: bool) -> Tensor:
            x = self.residual(f"{name}.residual", x, c)
            if attends:
                seen = next(rest)
                x = torch.stack(
                    [self.within(f"{name}.attention", f, seen, a)[0] for f, a in zip(x, audio, strict=True)]
                )
            return self.along(f"{name}.motion", x, clip)

        h = self.unet("", torch.cat([before, x], dim=1).transpose(0, 1), of_frames)[BEFORE:]
        return self.conv("out_conv", F.silu(self.group("out_norm", h, 1e-5))).transpose(0, 1)


def sinusoids(t: Tensor, dim: int) -> Tensor:
    angles = t[:, None] * 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def test_the_network_is_what_it_says() -> None:
    low = lowered("digits_llia")
    weights = {n.removeprefix("main."): torch.from_numpy(a).double() for n, a in weights_of(low, 0.3).items()}
    network, wanted = Reference(weights), []
    of = {name: torch.from_numpy(a) for name, a in given().items()}
    for i in range(2):
        arrays = (of[name][i] for name in ("image", "before", "audio"))
        wanted.append(network(of["x"][i], of["t"][i], int(of["y"][i]), *arrays, int(of["length"][i])))
    ports = low.networks["main"].main.inputs
    values = [given()[port.name] for port in ports]
    (found,) = oracle("digits_llia").run(low.networks["main"].main.function, *values, prefix="main")
    reference = torch.stack(wanted).numpy()
    assert np.abs(found - reference).max() < 1e-9 * np.abs(reference).max()


def cut(clip: int) -> dict[str, np.ndarray]:
    """The inputs of a system of fewer frames."""
    own = dict(given()) | {"length": np.full(2, float(clip))}
    own |= {name: own[name][:, :, :clip] for name in ("x", "noise")}
    return own | {"audio": own["audio"][:, : clip + BEFORE]}


def run(name: str, clip: int, values: dict[str, np.ndarray], **more: np.ndarray) -> Any:
    fn = lowered(name, clip).module.entry("loss")
    values = {**values, **more}
    return oracle(name, clip).run("loss", *(values[v.name] for v in fn.inputs))[0]


@pytest.mark.parametrize("name", ["digits_llia", "digits_llia_consistency"])
def test_a_short_clip_is_that_of_a_system_of_fewer_frames(name: str) -> None:
    """Its loss is a mean over all frames, of which those after the clip have none; they change nothing."""
    draws = {"t": np.array([250, 700]), "pair": np.array([3, 40]), "drop": np.array([0.5, 0.05])}
    short = {**given(), "length": np.full(2, 2.2)}
    found = run(name, CLIP, short, **draws)
    other = {**short, "x": short["x"].copy(), "noise": short["noise"].copy()}
    other["x"][:, :, 2:] += 3.0
    other["noise"][:, :, 2:] *= -1.0
    assert run(name, CLIP, other, **draws) == pytest.approx(float(found), rel=1e-9)
    assert float(found) * CLIP / 2 == pytest.approx(float(run(name, 2, cut(2), **draws)), rel=1e-9)
    assert float(found) > 0


def test_without_a_length_the_losses_are_the_usual_ones() -> None:
    draws = {"t": np.array([250, 700]), "drop": np.array([0.5, 0.05]), "length": np.full(2, 3.0)}
    usual = (
        "objective={kind: diffusion, process: {kind: discrete, schedule: cosine, steps: 1000}, predicts: velocity}",
    )
    low = lowered("digits_llia", CLIP, "conditioning.length=null", *usual)
    values = {**given(), **draws}
    inputs = [values[v.name] for v in low.module.entry("loss").inputs]
    (wanted,) = oracle("digits_llia", CLIP, "conditioning.length=null", *usual).run("loss", *inputs)
    assert float(run("digits_llia", CLIP, given(), **draws)) == pytest.approx(float(wanted), rel=1e-12)


def test_an_engine_of_the_shortest_clips_takes_no_other_length(tmp_path: Path) -> None:
    tiny = SYSTEMS["llia_consistency"]
    pipe = latentc_runtime.load(tiny_bundle(tiny.spec, tmp_path / "bundle", tiny.sizes), "cpu", threads=1)
    arrays = {"image": (1, 8, 8), "before": (1, 1, 8, 8), "audio": (3, 1, 3)}
    asked: dict[str, Any] = {"classes": [2], "conditions": {n: np.ones((1, *s)) for n, s in arrays.items()}}
    made = pipe.sample(**asked, seeds=[1], settings={"length": 2})
    assert made.shape == (1, 1, 2, 8, 8)
    assert np.array_equal(made, pipe.sample(**asked, seeds=[1]))
    with pytest.raises(latentc_runtime.BundleError, match="`length` 1 is out of range"):
        pipe.sample(**asked, seeds=[1], settings={"length": 1})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.fields.audio.shape=[3, 2, 3]"], "condition `audio` has shape [3, 2, 3], not [5, tokens, features]"),
        (["data.fields.image.shape=[1, 4, 4]"], "condition `image` has shape [1, 4, 4], not [1, 8, 8]"),
        (["data.fields.face={shape: [1, 8, 8]}", "conditioning.face={kind: array}"], "not `face`"),
        (["conditioning.length.shortest=4"], "the shortest clip has 4 frames, but the data has 3"),
        (
            ["conditioning.length=null", "conditioning.frames={kind: clip_length}"],
            "is condition `length`, not `frames`",
        ),
        (["backbone.attention=[2]"], "level 2 is out of range"),
        (["backbone.heads=3"], "3 heads of even width do not divide"),
        (["backbone.groups=3"], "3 groups do not divide"),
        (["backbone.multipliers=[1, 1, 1, 1, 1]"], "are no multiples of 16"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_llia", None, [*SIZES, *frames(CLIP), *overrides])
    assert any(said in one.message for one in caught.value.diagnostics), caught.value
