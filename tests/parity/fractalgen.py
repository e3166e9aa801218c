"""FractalGen (Li et al. 2025): losses and samplers of autoregressive and of masked levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cases import Array, Loss, Sampler
from parity_data import Numbers

from latentc.ir.interpret import Interpreter
from latentc.lower import lower

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
COLOURS = "backbone.colours={width: 16, depth: 1, heads: 2}"


def sizes(side: int, sampler: str) -> tuple[str, ...]:
    levels = "[{side: 4, width: 48, depth: 2, heads: 4}, {side: 1, width: 32, depth: 1, heads: 2}]"
    data = (f"data.shape=[3, {side}, {side}]", "data.classes=6", f"backbone.levels={levels}", COLOURS)
    return (*data, "objective.first=1", f"sampler={{kind: fractal, {sampler}}}")


def shares(numbers: Array) -> Array:
    """From 0 to 1, of images f32[B, 3, H, H] as the levels read them."""
    return numbers * STD[:, None, None] + MEAN[:, None, None]


def loss(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    x = (shares(numbers.inputs["imgs"].astype(np.float64)) * 2 - 1).astype(np.float32)
    given = {"x": x, "y": numbers.inputs["labels"], "drop": np.ones(2, np.float32)}
    if not numbers.noise:
        return given
    # The same share at all patches of a level; the authors draw orders of hidden patches alone.
    first, second = numbers.noise
    rates = (1 - numbers.inputs["mask_rate"]) / 0.25
    hidden = first.argsort(-1) < np.ceil(16 * numbers.inputs["mask_rate"][0])
    orders = np.tile(np.arange(16, dtype=np.float32) / 16, (2, 16, 1))
    orders[hidden] = second
    given |= {"fraction_0": np.full((2, 1), rates[0], np.float32), "order_0": first[:, None]}
    return given | {"fraction_1": np.full((2, 16), rates[1], np.float32), "order_1": orders}


class Known:
    """The authors' sampler, told the image that it drew: numbers in the middle of the shares of its colours."""

    def __init__(self, numbers: Numbers, spec: Any, guidance: float, least: float) -> None:
        lowered = lower(spec)
        self.run = Interpreter(lowered.module, _own(lowered, numbers, spec)).run
        self.numbers, self.guidance, self.least, self.probs = numbers, guidance, least, []
        image = numbers.outputs["out.patches"]
        self.patches = image.reshape(1, 3, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3, 5).reshape(4, 48).astype(np.float64)
        self.pixels = self.patches.reshape(4, 3, 16).transpose(0, 2, 1)
        self.ids = np.rint((self.pixels * STD + MEAN) * 255).astype(np.int64)
        y = numbers.inputs["labels"]
        self.z = np.concatenate([self.run("main.embed", label)[0] for label in (y, np.full_like(y, 6))])

    def colours(self, z: Array, ids: Array, scale: float) -> Array:
        """f32[M, 3]: of pixels with vectors z [2 M, n, D]."""
        (logits,) = self.run("main.pixels", np.concatenate([ids, ids]), z[:, 0])
        cond, null = np.split(np.asarray(logits, np.float64), 2)
        p = np.exp(cond - cond.max(-1, keepdims=True))
        unlikely = p / p.sum(-1, keepdims=True) < self.least
        likely = np.maximum(null, cond - cond.max(-1, keepdims=True) + null.max(-1, keepdims=True))
        null = np.where(unlikely, likely, null)
        guided = null + scale * (cond - null)
        p = np.exp(guided - guided.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        self.probs += list(p.transpose(1, 0, 2).reshape(-1, 256))  # as the authors draw them: channel by channel
        upper = np.take_along_axis(np.cumsum(p, -1), ids[..., None], -1)
        return (upper - np.take_along_axis(p, ids[..., None], -1) / 2)[..., 0]

    def checked(self, u: Array) -> Mapping[str, Array]:
        probs = np.stack(self.probs)
        probs = probs[:: max(1, len(probs) // 24)][:24]
        assert np.abs(probs - self.numbers.outputs["out.probs"]).max() < 1e-5
        scale = np.full(1, self.guidance, np.float32)
        return {"y": self.numbers.inputs["labels"], "scale": scale, "u": u.reshape(1, -1).astype(np.float32)}


def _own(lowered: Any, numbers: Numbers, spec: Any) -> dict[str, Array]:
    """The weights by our names."""
    import test_official

    one = next(case for case in CASES if case.numbers == numbers.name)
    return dict(test_official.arrays(test_official.official(one).weights["main"]))


def in_order(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    known, found = Known(numbers, spec, 1.5, 0.0), []
    (z,) = known.run("main.level_0", np.stack([known.patches] * 2), known.z)
    for patch in range(4):
        (own,) = known.run("main.level_1", np.stack([known.pixels[patch]] * 2), z[:, patch])
        found += [known.colours(own[:, pixel], known.ids[patch, pixel][None], 1.5) for pixel in range(16)]
    return known.checked(np.stack(found))


def masked(numbers: Numbers, spec: Any) -> Mapping[str, Array]:
    """Two steps in both levels: of 4 patches 2 and 2, of 16 pixels 5 and 11."""
    known, draws = Known(numbers, spec, 2.0, 1e-4), iter(numbers.noise)
    first = next(draws)
    order, u = first[0].argsort(), np.zeros((2, 2, 16 + 2 * 11 * 3))
    done = np.zeros((4, 48))
    for step, (before, after, scale) in enumerate(((4, 2, 1.5), (2, 0, 1.75))):
        rank = order.argsort()
        hidden = (rank < before).astype(np.float32)
        (z,) = known.run("main.level_0", np.stack([done] * 2), np.stack([hidden] * 2), known.z)
        mine = np.flatnonzero((rank < before) & (rank >= after))  # the authors take patches by place
        orders = next(draws)
        finished = np.zeros((2, 16, 3))
        for inner, (least, most) in enumerate(((11, 16), (0, 11))):
            ranks = orders.argsort(-1).argsort(-1)
            mask = (ranks < most).astype(np.float32)
            x, masks = np.concatenate([finished] * 2), np.concatenate([mask] * 2)
            (own,) = known.run("main.level_1", x, masks, z[:, mine].reshape(4, 5, 48))
            now = (ranks < most) & (ranks >= least)
            rows = np.concatenate([own[:2][now], own[2:][now]])
            drawn = known.colours(rows, known.ids[mine][now], scale)
            for k, (patch, pixel) in enumerate(np.argwhere(now)):
                slot = rank[mine[patch]] - after  # our slots are in the order of the ranks
                place = 16 + (inner * 11 + ranks[patch, pixel] - least) * 3
                u[step, slot, place : place + 3] = drawn[k]
            finished[now] = known.pixels[mine][now]
        for patch, one in enumerate(mine):
            u[step, rank[one] - after, :16] = orders[patch]
        done[mine] = known.patches[mine]
    return known.checked(np.concatenate([first.ravel(), u.ravel()]))


def drawn(numbers: Numbers) -> Array:
    return shares(numbers.outputs["out.patches"].astype(np.float64)) * 2 - 1


AR: dict[str, Any] = {"spec": "fractalgen", "variant": "AR-64"}
GUIDED = "guidance: {scale: 1.5}"
CASES = [
    Loss("fractalgen.ar_loss", **AR, sizes=sizes(16, GUIDED), inputs=loss),
    Loss("fractalgen.mar_loss", "fractalgen", sizes(16, f"steps: 2, inner_steps: [2], {GUIDED}"), loss),
    Sampler("fractalgen.ar_sampler", **AR, sizes=sizes(8, f"least: 0, {GUIDED}"), inputs=in_order, wanted=drawn),
    Sampler(
        "fractalgen.mar_sampler",
        "fractalgen",
        sizes(8, "steps: 2, inner_steps: [2], guidance: {scale: 2, schedule: linear}"),
        masked,
        wanted=drawn,
    ),
]
