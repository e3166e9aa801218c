"""Clips of digits that speak, listen or are idle (LLIA): states that change, few steps, short clips, int8.

    python benchmarks/avatar_digits.py [--out out/avatar_digits] [--seeds 0 1 2] [--steps 120] [--data FILE]

A digit of 4 by 4 pixels on 8 by 8. Speaking, its row follows the audio; listening, it goes to and fro by a pixel per
frame; idle, it stays. A clip of 4 frames goes on from the 2 frames before, whose state was another in two of three
clips, and hears audio in every state. Trains the diffusion model of clips of 2 to 4 frames and, per seed, its
consistency distillation, if their weights are not in the folder. 256 clips of digits that no network saw are judged:
whether the clip is nearest to that of the state asked for, where the state changes and where not, its squared error,
and how long an engine takes for one clip: in 20 steps of DDIM, in 2, and in 2 evaluations of the consistency model;
its clips of 2 frames; and its engine in int8. With --data only the data is written. The goals were chosen before
anything was judged.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import images, trained

import latentc_runtime
from latentc import api

Array = NDArray[Any]
STATES = ("speaking", "listening", "idle")
FRAMES, BEFORE, SIDE, DIGIT, LOUDEST, JUDGED, FIRST = 4, 2, 8, 4, 2, 256, 9_000_000
MIDDLE, RUNS = (SIDE - DIGIT) // 2, 20
INT8 = ("optimize.quantize={scheme: int8, min_speedup: 0}",)


def places(state: int, column: int, way: int, sounds: Array) -> list[tuple[int, int, int]]:
    """Row, column and way of the digit in each frame after one at this column, in which it went this way."""
    found = []
    for sound in sounds:
        if state == 1:
            way = -way if not 0 <= column + way <= SIDE - DIGIT else way
            column += way
        found.append((MIDDLE + int(sound) if state == 0 else MIDDLE, column, way))
    return found


def drawn(digit: Array, at: list[tuple[int, int, int]]) -> Array:
    """f32[1, F, 8, 8] of a digit f32[1, 4, 4] at these places."""
    video = np.full((1, len(at), SIDE, SIDE), -1, np.float32)
    for k, (row, column, _) in enumerate(at):
        video[:, k, row : row + DIGIT, column : column + DIGIT] = digit
    return video


def clips(digits: Array, rng: np.random.Generator) -> dict[str, Array]:
    """A clip of each digit f32[N, 1, 4, 4]; `every` f32[3, N, 1, 4, 8, 8] has it in all states."""
    count = len(digits)
    sounds = rng.integers(-LOUDEST, LOUDEST + 1, (count, BEFORE + FRAMES))
    states, earlier = rng.integers(0, 3, (2, count))
    columns, ways = rng.integers(0, SIDE - DIGIT + 1, count), rng.choice([-1, 1], count)
    before, every = [], []
    for i, digit in enumerate(digits):
        column, way = int(columns[i]), int(ways[i])
        seen = places(int(earlier[i]), column, way, sounds[i, :BEFORE])
        _, now, way = seen[-1]
        if earlier[i] != 1:  # nothing says where it went, so it goes to the middle
            way = 1 if now < MIDDLE else -1
        before.append(drawn(digit, seen))
        every.append([drawn(digit, places(state, now, way, sounds[i, BEFORE:])) for state in range(3)])
    made = np.stack(every, axis=1)
    still = np.stack([drawn(digit, [(MIDDLE, MIDDLE, 0)])[:, 0] for digit in digits])
    loud = sounds[..., None, None] / LOUDEST
    audio = np.concatenate([loud, loud**2, loud**3], axis=3).astype(np.float32)
    found = {"x": made[states, np.arange(count)], "y": states, "image": still, "before": np.stack(before)}
    found["earlier"] = earlier
    return found | {"audio": audio, "every": made}


def small(half: int) -> Array:
    """Digits f32[N, 1, 4, 4] of the training half (0) or the held-out half (1): means of 2 by 2 pixels."""
    digits = images(half)[0]
    return digits.reshape(len(digits), 1, DIGIT, 2, DIGIT, 2).mean(axis=(3, 5))


def written(path: Path) -> Path:
    """A file of the first half of the digits, each in eight clips."""
    found = clips(np.tile(small(0), (8, 1, 1, 1)), np.random.default_rng(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: a for name, a in found.items() if name not in ("every", "earlier")})
    return path


class Judged(NamedTuple):
    """Share of clips in the state asked for, also where it changes; squared error over the variance; seconds."""

    states: float
    changes: float
    error: float
    seconds: float

    def __str__(self) -> str:
        said = f"state {self.states:.3f}, where it changes {self.changes:.3f}, squared error {self.error:.4f}"
        return f"{said} of the variance, {1000 * self.seconds:.1f} ms a clip"


def judged(
    name: str, spec: str, weights: Path, out: Path, overrides: tuple[str, ...] = (), clip: int = FRAMES
) -> Judged:
    """Judges an engine's clips of so many frames of digits that no network saw."""
    sizes = (f"data.fields.x.shape=[1, {clip}, {SIDE}, {SIDE}]", f"data.fields.audio.shape=[{BEFORE + clip}, 1, 3]")
    api.compile(spec, weights, out, overrides=[*sizes, *overrides], force=True)
    asked = clips(small(1)[:JUDGED], np.random.default_rng(1))
    given = {"image": asked["image"], "before": asked["before"], "audio": asked["audio"][:, : BEFORE + clip]}
    pipe = latentc_runtime.load(out, "cpu", threads=1)
    states, every = asked["y"], asked["every"][:, :, :, :clip]
    made = pipe.sample(classes=states.tolist(), conditions=given, seeds=np.arange(FIRST, FIRST + JUDGED))
    wanted = every[states, np.arange(JUDGED)]
    right = np.square(every - made).mean(axis=(2, 3, 4, 5)).argmin(axis=0) == states
    one, taken = {key: value[:1] for key, value in given.items()}, []
    for seed in range(RUNS):
        start = time.perf_counter()
        pipe.sample(classes=states[:1].tolist(), conditions=one, seeds=[seed])
        taken.append(time.perf_counter() - start)
    changes = right[asked["earlier"] != states].mean()
    error = float(np.square(made - wanted).mean() / wanted.var())
    found = Judged(float(right.mean()), float(changes), error, float(np.median(taken)))
    print(f"{name}: {found}", flush=True)
    return found


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/avatar_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the distillations")
    parser.add_argument("--steps", type=int, default=120, help="steps of each distillation")
    parser.add_argument("--data", type=Path, help="only write the data to this file")
    given = parser.parse_args()
    if given.data is not None:
        print(written(given.data))
        return 0
    out = given.out.resolve()
    data = (f"data.path={written(out / 'avatar_digits.npz')}",)
    slow = trained("digits_llia", out / "clips", overrides=data, seed=0)
    print(f"diffusion: {slow.seconds:.0f} s of a processor, loss falls {slow.fall():.1f} ×", flush=True)
    diffusion = judged("diffusion, 20 steps", "digits_llia", slow.weights, out / "clips-20")
    few = judged("diffusion, 2 steps", "digits_llia", slow.weights, out / "clips-2", ("sampler.steps=2",))
    own: list[Judged] = []
    short: list[Judged] = []
    small_engine: list[Judged] = []
    of = "digits_llia_consistency"
    for seed in given.seeds:
        overrides = (*data, f"networks.teacher.pretrained={slow.weights}")
        run = trained(of, out / f"steps{seed}", overrides=overrides, seed=seed, steps=given.steps)
        print(f"consistency, seed {seed}: {run.seconds:.0f} s of a processor", flush=True)
        for name, found, more, clip in (
            ("2 evaluations", own, (), FRAMES),
            ("clips of 2 frames", short, (), 2),
            ("int8", small_engine, INT8, FRAMES),
        ):
            bundle = out / f"steps{seed}-{name.replace(' ', '-')}"
            found.append(judged(f"consistency, seed {seed}, {name}", of, run.weights, bundle, more, clip))
    lines = [
        verdict("state asked for where it changes", [one.changes for one in own], 0.95, ""),
        verdict("squared error, of that of 20 steps", [one.error / diffusion.error for one in own], 1.5, "×", False),
        verdict("squared error, of that of 2 steps of DDIM", [one.error / few.error for one in own], 0.67, "×", False),
        verdict("clips per second, of those in 20 steps", [diffusion.seconds / one.seconds for one in own], 5),
        verdict("state asked for in clips of 2 frames", [one.states for one in short], 0.95, ""),
        verdict(
            "squared error in int8, of that in fp32",
            [a.error / b.error for a, b in zip(small_engine, own, strict=True)],
            1.1,
            "×",
            False,
        ),
    ]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
