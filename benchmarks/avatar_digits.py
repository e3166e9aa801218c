"""Clips of digits that speak, listen or are idle (LLIA): states that change, few steps, short clips, int8.

    python benchmarks/avatar_digits.py [--out out/avatar_digits] [--seeds 0 1 2] [--data FILE]

A digit of 4 by 4 pixels on 8 by 8. Speaking, its row follows the audio; listening, it goes to and fro by a pixel per
frame; idle, it stays. A clip of 4 frames goes on from the 2 frames before, whose state was another in two of three
clips, and hears audio in every state. Trains, per seed, the diffusion model of clips of 2 to 4 frames and its
consistency distillation, and, if their weights are not in the folder, a diffusion model of 4 frames only. 256 clips of
digits that no network saw are judged: whether the clip is nearest to that of the state asked for, and its squared error.
With --data only the data is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from on_digits import images

Array = NDArray[Any]
STATES = ("speaking", "listening", "idle")
FRAMES, BEFORE, SIDE, DIGIT, LOUDEST, JUDGED, FIRST = 4, 2, 8, 4, 2, 256, 9_000_000
MIDDLE = (SIDE - DIGIT) // 2


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
    return found | {"audio": audio, "every": made}


def small(half: int) -> Array:
    """Digits f32[N, 1, 4, 4] of the training half (0) or the held-out half (1): means of 2 by 2 pixels."""
    digits = images(half)[0]
    return digits.reshape(len(digits), 1, DIGIT, 2, DIGIT, 2).mean(axis=(3, 5))


def written(path: Path) -> Path:
    """A file of the first half of the digits, each in eight clips."""
    found = clips(np.tile(small(0), (8, 1, 1, 1)), np.random.default_rng(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: a for name, a in found.items() if name != "every"})
    return path


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/avatar_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--data", type=Path, help="only write the data to this file")
    given = parser.parse_args()
    if given.data is not None:
        print(written(given.data))
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
