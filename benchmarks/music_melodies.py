"""Music by guidance gradients on melodies that a generator makes: does what is drawn fit what is kept?

    python benchmarks/music_melodies.py [--out out/music_melodies] [--seeds 0 1 2]

Trains examples/gallery/melodies.yaml on 4000 stereo melodies of two tones in turn (`small_data.melodies`), then edits
120 melodies that training has not seen, with guidance and, at scale 0, without. Of each task:

- error: root mean square of the difference from the clip where it is kept, over that of the clip.
- jump: mean difference of the log spectra (dB) of the 64 samples before and after each border, in the middle of a note;
  what is kept is taken from the clip. The same of the clips themselves is printed first.
- pitch: how often the loudest pitch between border and end of the note is the note's.

Goals, set before the first run: guided, an error below 0.1 and a third of the unguided jump beyond that of the clips.
Takes three minutes of training per seed on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import trained

import latentc_runtime
from latentc import api

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
sys.path.insert(0, str(GALLERY))
from small_data import NOTE, RATE, SCALE, melodies  # noqa: E402

COUNT, WINDOW = 120, NOTE // 2
# The region that each task draws, in samples: borders are in the middle of a note. A continuation ends with the clip.
REGIONS = {"continuation": (192, 512), "infill": (192, 320), "regeneration": (192, 320), "transition": (192, 320)}
Array = NDArray[np.floating]


def spectrum(x: Array) -> Array:
    """dB of windows [N, 2, W], those of both channels."""
    power = np.abs(np.fft.rfft(x * np.hanning(x.shape[-1]), axis=-1)) ** 2
    return 10 * np.log10(power + 1e-4 * WINDOW)


def jump(x: Array, borders: list[int]) -> float:
    """Mean difference in dB of the spectra before and after borders."""
    pairs = [(spectrum(x[..., b - WINDOW : b]), spectrum(x[..., b : b + WINDOW])) for b in borders]
    return float(np.mean([np.abs(before - after).mean() for before, after in pairs]))


def pitch(x: Array) -> NDArray[np.integer]:
    """The number in `SCALE` of the loudest pitch of windows [N, 2, W], by correlation with each."""
    seconds = np.arange(x.shape[-1]) / RATE
    waves = np.exp(2j * np.pi * SCALE[:, None] * seconds)
    return (np.abs(x @ waves.T) ** 2).sum(1).argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/music_melodies"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    data = (flags.out / "melodies.npz").resolve()
    np.savez(data, x=melodies(4000, seed=0)["x"])
    clips, others = melodies(COUNT, seed=1), melodies(COUNT, seed=2)
    audio, later = clips["x"], others["x"]
    of_clips = {task: jump(audio, borders_of(task)) for task in REGIONS}
    print(f"jump of the clips: {of_clips['infill']:.2f} dB; of clips of which another fills the gap: ", end="")
    mixed = np.concatenate([audio[..., :192], later[..., 192:320], audio[..., 320:]], axis=-1)
    print(f"{jump(mixed, [192, 320]):.2f} dB", flush=True)
    errors: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for seed in flags.seeds:
        options = [f"data.path={data}"]
        run = trained(str(GALLERY / "melodies.yaml"), flags.out / f"project-{seed}", overrides=options, seed=seed)
        bundle = flags.out / f"engine-{seed}"
        api.compile(str(GALLERY / "melodies.yaml"), str(run.weights), bundle, overrides=options, max_batch=60)
        pipe = latentc_runtime.load(bundle, "cpu")
        print(f"seed {seed}: {run.seconds:.0f} s of training", flush=True)
        for task, (start, stop) in REGIONS.items():
            given = {"audio": audio, **({"next": later} if task == "transition" else {})}
            times = {"start": start / RATE, **({} if task == "continuation" else {"stop": stop / RATE})}
            keep = (np.arange(512) < start) | (np.arange(512) >= stop)
            kept = audio if task != "transition" else np.where(np.arange(512) < start, audio, later)
            beyond = {}
            for scale in (0.0, 1.0):
                asked = {**times, "reconstruction": scale}
                seeds = np.arange(COUNT) + COUNT * seed
                drawn = pipe.sample(program=task, conditions=given, settings=asked, seeds=seeds)
                error = float(np.sqrt(((drawn - kept)[..., keep] ** 2).mean() / (kept[..., keep] ** 2).mean()))
                pasted = np.where(keep, kept, drawn)
                beyond[scale] = jump(pasted, borders_of(task)) - of_clips[task]
                first = np.searchsorted(SCALE, clips["pitches"][:, 1] - 1)
                hit = float((pitch(drawn[..., start : start + WINDOW]) == first).mean())
                print(
                    f"  {task} at scale {scale:g}: error {error:.3f}, jump {beyond[scale]:+.2f} dB, pitch {hit:.3f}",
                    flush=True,
                )
            errors.setdefault(task, []).append(error)
            shares.setdefault(task, []).append(beyond[1.0] / beyond[0.0])
    for task in REGIONS:
        print(verdict(f"{task}: error where the clip is kept", errors[task], 0.1, "of the clip", least=False))
        print(verdict(f"{task}: jump beyond the clips'", shares[task], 1 / 3, "of the unguided one", least=False))


def borders_of(task: str) -> list[int]:
    """The borders between what is kept and what is drawn, in samples."""
    start, stop = REGIONS[task]
    return [border for border in (start, stop) if border < 512]


if __name__ == "__main__":
    main()
