"""Small data that is made in a moment: sounds of three pitches, melodies of two tones, an arm that reaches for a cloud
of points, signals of electrodes after a stimulus, and points on furniture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
RATE = 4000  # samples per second
PITCHES = (150.0, 300.0, 600.0)  # Hz, the mean pitch of each class
NOTE = 128  # samples of a note of a melody
SCALE = 160.0 * 2.0 ** (np.arange(0, 30, 3) / 12)  # Hz, the pitches of melodies: minor thirds
STEPS = 8  # of a movement
ALPHA = (8.0, 10.0, 12.0)  # Hz, the rhythm of each subject
LATENCY = (0.32, 0.40, 0.48)  # seconds after the stimulus, when each subject's P300 peaks
ELECTRODES = 4


def tones(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Sounds x f32[count, 1, 512] at 4 kHz whose class y says about which pitch they have (within a tenth)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(PITCHES), count)
    pitch = np.take(PITCHES, y) * rng.uniform(0.9, 1.1, count)
    seconds = np.arange(512) / RATE
    phase = rng.uniform(0, 2 * np.pi, count)
    swell = 0.5 + 0.4 * np.sin(2 * np.pi * seconds / seconds[-1] * 1.5 + rng.uniform(0, 6, (count, 1)))
    x = swell * np.sin(2 * np.pi * pitch[:, None] * seconds + phase[:, None])
    return {"x": x[:, None].astype(np.float32), "y": y}


def pitch_classes(sounds: Array) -> NDArray[np.int64]:
    """The class whose pitch is nearest to the loudest frequency of sounds [N, 1, 512]."""
    spectrum = np.abs(np.fft.rfft(sounds[:, 0] * np.hanning(512), axis=-1))
    loudest = np.fft.rfftfreq(512, 1 / RATE)[spectrum.argmax(-1)]
    return np.abs(np.log(loudest[:, None] + 1) - np.log(PITCHES)).argmin(-1)


def melodies(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Stereo melodies x f32[count, 2, 512] at 4 kHz: two pitches in turn, four notes, one left and one right.

    The phase goes on from note to note, and `pitches` f64[count, 2] are those of the first and the second note.
    """
    rng = np.random.default_rng(seed)
    pitches = np.stack([rng.choice(SCALE, 2, replace=False) for _ in range(count)])
    second = np.arange(4 * NOTE) // NOTE % 2 == 1
    phase = rng.uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi / RATE * np.cumsum(pitches[:, second.astype(int)], axis=1)
    sides = np.stack([np.where(second, 0.2, 0.6), np.where(second, 0.6, 0.2)])
    return {"x": (sides * np.sin(phase)[:, None]).astype(np.float32), "pitches": pitches}


def reaches(count: int, seed: int) -> dict[str, Array]:
    """Movements x f32[count, 8, 2] of a hand from where it is to the middle of a cloud of 32 points, in [-1, 1].

    `point_cloud` f32[count, 2, 32, 3] and `agent_pos` f32[count, 2, 2] are the two last observations.
    """
    rng = np.random.default_rng(seed)
    target, hand = rng.uniform(-0.8, 0.8, (2, count, 2))
    cloud = np.concatenate([target, np.zeros((count, 1))], 1)[:, None, None] + 0.1 * rng.standard_normal(
        (count, 2, 32, 3)
    )
    way = np.linspace(0, 1, STEPS)[:, None]
    ease = way * way * (3 - 2 * way)
    x = hand[:, None] + ease * (target - hand)[:, None]
    seen = {"x": x, "point_cloud": cloud, "agent_pos": np.repeat(hand[:, None], 2, 1)}
    return {name: np.clip(array, -1, 1).astype(np.float32) for name, array in seen.items()}


def erps(count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Signals x f32[count, 4, 64], a second at 64 Hz, after stimuli that are targets (y = 1) or not.

    A target evokes a bump like the P300, largest at the last electrode. Each `subject` (3) has a rhythm and a latency,
    each `session` (2) a cap that sits differently: it is noisier at the first or at the second electrode.
    """
    rng = np.random.default_rng(seed)
    y, subject, session = rng.integers(0, 2, count), rng.integers(0, 3, count), rng.integers(0, 2, count)
    seconds, place = np.arange(64) / 64, np.linspace(0.25, 1, ELECTRODES)
    peak = np.take(LATENCY, subject) + 0.02 * rng.standard_normal(count)
    bump = 1.5 * y[:, None] * np.exp(-0.5 * ((seconds - peak[:, None]) / 0.06) ** 2)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    rhythm = 0.6 * np.sin(2 * np.pi * np.take(ALPHA, subject)[:, None] * seconds + phase)
    noise = np.full((count, ELECTRODES), 0.2)
    noise[np.arange(count), session] = 0.6
    x = place[:, None] * bump[:, None] + place[::-1, None] * rhythm[:, None]
    x += noise[..., None] * rng.standard_normal((count, ELECTRODES, 64))
    return {"x": (2 * x).astype(np.float32), "y": y, "subject": subject, "session": session}


def solids(count: int, seed: int, points: int = 128) -> dict[str, NDArray[np.generic]]:
    """Sets of points x f32[count, N, 3] on furniture, whose class y is a table (0), a chair, a shelf or a lamp.

    Sizes vary, each piece is turned about the vertical axis, and points have noise; sets are centred, of deviation 1.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    x = np.stack([_piece(rng, int(kind), points) for kind in y])
    return {"x": x.astype(np.float32), "y": y}


def _piece(rng: np.random.Generator, kind: int, points: int) -> NDArray[np.float64]:
    width, depth, height = rng.uniform(0.6, 1.4, 3)
    thin = 0.06
    boards = []  # (corner, size) of boxes
    legs = [(i * (width - thin), j * (depth - thin)) for i in (0, 1) for j in (0, 1)]
    if kind < 2:  # a table, or a chair with its back
        boards += [((*at, 0.0), (thin, thin, height)) for at in legs]
        boards += [((0.0, 0.0, height), (width, depth, thin))]
    if kind == 1:
        boards += [((0.0, 0.0, height), (width, thin, rng.uniform(0.5, 1.0)))]
    if kind == 2:
        boards += [((side, 0.0, 0.0), (thin, depth, 2 * height)) for side in (0.0, width - thin)]
        boards += [((0.0, 0.0, level * height), (width, depth, thin)) for level in (0.0, 1.0, 2.0)]
    if kind == 3:
        boards += [((width / 2, depth / 2, 0.0), (thin, thin, 2 * height)), ((0.0, 0.0, 0.0), (width, depth, thin))]
        boards += [((0.0, 0.0, 1.6 * height), (width, depth, 0.4 * height))]
    corners, sizes = (np.array([board[k] for board in boards]) for k in (0, 1))
    area = np.stack([sizes[:, 1] * sizes[:, 2], sizes[:, 0] * sizes[:, 2], sizes[:, 0] * sizes[:, 1]], 1)
    face = rng.choice(area.size, points, p=area.ravel() / area.sum())
    board, axis = np.divmod(face, 3)
    at = rng.uniform(0, 1, (points, 3))
    at[np.arange(points), axis] = rng.integers(0, 2, points)
    at = corners[board] + at * sizes[board] + 0.03 * rng.standard_normal((points, 3))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    at = (at - at.mean(0)) @ rotation.T
    return at / at.std()
