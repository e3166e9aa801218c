"""LION's network of points against its layers written out one point, one voxel and one neighbour at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

POINTS = 12
DOWN = (
    {"voxels": {"width": 8, "blocks": 2, "side": 3}, "points": 6, "radius": 0.9, "neighbours": 4, "widths": [8, 16]},
    {"voxels": {"width": 16, "side": 2}, "points": 3, "radius": 1.5, "neighbours": 3, "widths": [16]},
)
UP = ({"widths": [16, 8], "voxels": {"width": 16, "side": 2}}, {"widths": [8]})
SIZES = ["data.classes=2", "data.fields.x.shape=[12, 4]", "conditioning.time.frequencies=8"]
SIZES += ["backbone.style=6", "backbone.heads=2", "backbone.hidden=8"]


def _yaml(levels: tuple[dict, ...]) -> str:
    return str(list(levels)).replace("'", "")


SIZES += [f"backbone.down={_yaml(DOWN)}", f"backbone.up={_yaml(UP)}"]


class Written:
    """The authors' layers in float64: W are the weights by latentc's names, one sample of points f64[N, D]."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.w = {name: torch.from_numpy(value).double() for name, value in weights.items()}

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return x @ weight.reshape(*weight.shape[:2]).T + (0 if bias is None else bias)

    def norm(self, name: str, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """x [C, ...]."""
        x = F.group_norm(x[None], 8, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)[0]
        shape = (-1, *(1 for _ in x.shape[1:]))
        return x * self.linear(f"{name}.scale", style).reshape(shape) + self.linear(f"{name}.shift", style).reshape(
            shape
        )

    def layer(self, name: str, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """x [..., C] -> [..., C']."""
        x = self.linear(f"{name}.conv", x).movedim(-1, 0)
        return F.silu(self.norm(f"{name}.norm", x, style)).movedim(0, -1)

    def attention(self, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = self.linear(f"{name}.qkv", x).reshape(len(x), 3, heads, 32).unbind(1)
        k = k.softmax(dim=0)
        out = torch.einsum("nhd,nhe,mhd->mhe", k, v, q)
        return self.linear(f"{name}.proj", out.reshape(len(x), heads * 32))

    def block(self, name: str, x: torch.Tensor, at: torch.Tensor, style: torch.Tensor, side: int) -> torch.Tensor:
        centred = at - at.mean(0)
        place = (centred / (2 * max(float(p.norm()) for p in centred)) + 0.5) * side
        place = place.clamp(0, side - 1)
        filled: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for p, row in zip(place, x, strict=True):
            filled.setdefault(tuple(int(i) for i in torch.round(p)), []).append(row)
        grid = torch.zeros(1, x.shape[1], side, side, side, dtype=torch.float64)
        for voxel, rows in filled.items():
            grid[(0, slice(None), *voxel)] = torch.stack(rows).mean(0)
        conv = [(self.w[f"{name}.conv{i}.weight"], self.w[f"{name}.conv{i}.bias"]) for i in (1, 2)]
        grid = F.silu(self.norm(f"{name}.norm1", F.conv3d(grid, *conv[0], padding=1)[0], style))
        grid = self.norm(f"{name}.norm2", F.conv3d(grid[None], *conv[1], padding=1)[0], style)
        gate = self.linear(f"{name}.excite", F.relu(self.linear(f"{name}.squeeze", grid.mean((1, 2, 3)))))
        grid = grid * torch.sigmoid(gate).reshape(-1, 1, 1, 1)
        read = []
        for p in place.tolist():
            total = torch.zeros(grid.shape[0], dtype=torch.float64)
            for corner in np.ndindex(2, 2, 2):
                share, cell = 1.0, []
                for along, up in zip(p, corner, strict=True):
                    part = along - math.floor(along)
                    share *= part if up else 1 - part
                    cell.append(min(math.floor(along) + up, side - 1))
                total += share * grid[(slice(None), *cell)]
            read.append(total)
        x = torch.stack(read) + self.layer(f"{name}.point", x, style)
        return self.attention(f"{name}.attention", x, 4) if f"{name}.attention.qkv.weight" in self.w else x

    def gather(self, name: str, x: torch.Tensor, at: torch.Tensor, style: torch.Tensor, level: dict) -> tuple:
        chosen = [0]
        while len(chosen) < level["points"]:
            away = [min(float((p - at[c]).square().sum()) for c in chosen) for p in at]
            chosen.append(int(np.argmax(away)))
        centres, groups = at[chosen], []
        for centre in centres:
            inside = [i for i, p in enumerate(at) if float((p - centre).square().sum()) < level["radius"] ** 2]
            inside = inside[: level["neighbours"]]
            inside += inside[:1] * (level["neighbours"] - len(inside))
            groups.append(torch.stack([torch.cat([at[i] - centre, x[i]]) for i in inside]))
        h = torch.stack(groups)
        for j in range(len(level["widths"])):
            h = self.layer(f"{name}.layers.{j}", h, style)
        return h.max(dim=1).values, centres

    def interpolate(self, at: torch.Tensor, centres: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rows = []
        for p in at:
            away = [max(float((p - c).square().sum()), 1e-10) for c in centres]
            near = np.argsort(away, kind="stable")[:3]
            shares = [1 / away[i] for i in near]
            rows.append(sum(s * x[i] for s, i in zip(shares, near, strict=True)) / sum(shares))
        return torch.stack(rows)

    def __call__(self, x: torch.Tensor, t: float, y: int) -> torch.Tensor:
        angle = t * torch.exp(-math.log(10000) / 3 * torch.arange(4, dtype=torch.float64))
        h = F.leaky_relu(self.linear("t_embedder.fc1", torch.cat([angle.sin(), angle.cos()])), 0.1)
        moment, style = self.linear("t_embedder.fc2", h), self.w["y_embedder.weight"][y]
        timed = lambda h: torch.cat([h, moment.expand(len(h), -1)], 1)  # noqa: E731
        places, skips, h = [x[:, :3]], [x[:, 3:]], x
        for i, level in enumerate(DOWN):
            if i:
                skips.append(h)
                h = timed(h)
            for j in range(level["voxels"].get("blocks", 1)):
                h = self.block(f"down.{i}.blocks.{j}", h, places[-1], style, level["voxels"]["side"])
            h, centres = self.gather(f"down.{i}.gather", h, places[-1], style, level)
            places.append(centres)
        h = self.attention("attention", h, 2)
        for i, level in enumerate(UP):
            centres = places.pop()
            h = torch.cat([self.interpolate(places[-1], centres, timed(h)), skips.pop()], 1)
            for j in range(len(level["widths"])):
                h = self.layer(f"up.{i}.points.{j}", h, style)
            if "voxels" in level:
                h = self.block(f"up.{i}.blocks.0", h, places[-1], style, level["voxels"]["side"])
        return self.linear("leave", self.layer("hidden", h, style))


def _weights() -> dict[str, np.ndarray]:
    rng, lowered = np.random.default_rng(0), lower(load_spec("dc3do_points", None, SIZES))
    params = network_params(lowered, lowered.networks["main"])
    shapes = {name: [int(d) for d in p.type.shape] for name, p in params.items()}
    return {n: (rng.standard_normal(s) * (1 if len(s) == 1 else 0.4)).astype(np.float32) for n, s in shapes.items()}


def test_the_network_is_its_layers_written_out() -> None:
    own, rng = _weights(), np.random.default_rng(1)
    x, t, y = rng.standard_normal((3, POINTS, 4)).astype(np.float32), np.float32([1, 400, 1000]), np.array([0, 1, 1])
    found = api.forward("dc3do_points", own, {"x": x, "t": t, "y": y}, overrides=SIZES)
    written = Written(own)
    wanted = np.stack(
        [written(torch.from_numpy(a).double(), float(b), int(c)).numpy() for a, b, c in zip(x, t, y, strict=True)]
    )
    assert np.abs(wanted).max() > 0.1
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    # Where every ball holds all points, their order, but for the first, does not matter.
    every = {"neighbours: 4": "neighbours: 12", "neighbours: 3": "neighbours: 6", "radius: 0.9": "radius: 99"}
    every["radius: 1.5"] = "radius: 99"
    roomy = list(SIZES)
    for old, new in every.items():
        roomy = [s.replace(old, new) for s in roomy]
    order = np.array([0, *(1 + rng.permutation(POINTS - 1))])
    given = ({"x": z, "t": t, "y": y} for z in (x, x[:, order]))
    first, other = (api.forward("dc3do_points", own, one, overrides=roomy) for one in given)
    assert np.abs(first[:, order] - other).max() < 1e-5 * np.abs(first).max()


@pytest.mark.parametrize(
    ("spec", "overrides", "said"),
    [
        ("dc3do_points", ["data.fields.x.shape=[2048, 2]"], "a point_voxel takes points"),
        ("dc3do_points", ["data.fields.x.shape=[512, 3]"], "level 0 keeps 1024 points of 512"),
        ("dc3do_points", ["backbone.hidden=12"], "12 channels do not divide into 8 groups"),
        ("dc3do_points", ["backbone.attention=[3]"], "no point-voxel block at level 3"),
        ("dc3do_points", ["backbone.conditions=[]", "programs=[]"], "needs a condition"),
        ("dc3do_points", ["backbone.up=[{widths: [8]}]"], "4 levels down, but 1 up"),
        ("dc3do", ["data.fields.x.shape=[16, 3]"], "a global_prior models vectors"),
        ("dc3do", ["backbone.dropout=0.1"], "blocks that take conditions have no dropout"),
    ],
)
def test_what_does_not_fit_is_said(spec: str, overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec(spec, None, overrides)
    assert said in str(error.value), error.value
