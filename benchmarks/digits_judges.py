"""How `training_digits.py` judges samples: by the classifier of examples/digits, or against what was given.

A judge takes a bundle and the folder of the benchmark, draws samples, and returns figures by name. Symbols: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from on_digits import halves, images, judged
from training_parts import FILES, LETTERS

from latentc import api
from latentc.datasets.digits import components
from latentc.measure.metrics import frechet_distance
from latentc_runtime import Pipeline, load
from latentc_runtime.request import check_request
from latentc_runtime.retrieval import with_labels, write_index
from latentc_runtime.texts import tokens_from_text

Array = NDArray[Any]
COUNT, FRESH = 1000, 9_000_000
LABELS = np.arange(COUNT) % 10
SEEDS = np.arange(FRESH, FRESH + COUNT)
LEVELS = 17


def opened(bundle: Path, index: Path | None = None) -> Pipeline:
    """The bundle's engine on one thread."""
    return load(bundle, "cpu", threads=1, index=index)


def scores(samples: Array, labels: Array | None) -> dict[str, float]:
    """Class accuracy, unless there are no labels, and Fréchet distance from the held-out half."""
    found = judged(samples, LABELS if labels is None else labels)
    return {"frechet": found.frechet} if labels is None else found._asdict()


def classes(bundle: Path, out: Path, later: int = 0, **settings: float) -> dict[str, float]:
    """Samples of each class in turn, of seeds that are `later` ones; of a sampler that chooses its steps also the mean
    of its evaluations.
    """
    pipe = opened(bundle)
    made = pipe.run(check_request(pipe.manifest, pipe.program(), LABELS, SEEDS + later, None, settings))
    samples, *_ = made.values()
    effort = {name: float(made[name].mean()) for name in ("evaluations",) if name in made}
    return {**scores(samples, LABELS), **effort}


def alone(bundle: Path, out: Path, dequantised: bool = False) -> dict[str, float]:
    """Samples without a class. `dequantised`: of a model of grey levels with uniform noise."""
    samples = opened(bundle).sample(count=COUNT, seeds=SEEDS)
    if dequantised:
        samples = np.clip(np.floor((samples + 1) / 2 * LEVELS), 0, LEVELS - 1) / 8.0 - 1.0
    return scores(samples, None)


def captioned(bundle: Path, out: Path, condition: str = "text", **given: float) -> dict[str, float]:
    """Samples of captions of one word."""
    told: dict[str, Any] = {condition: np.eye(10, dtype=np.float32)[LABELS][:, None], **given}
    return scores(opened(bundle).sample(conditions=told, seeds=SEEDS), LABELS)


def levels_of_digits() -> Array:
    """i64[N, 64]: tokens 0 to 15 of the digits to learn, of which 15 also stands for 16."""
    return np.minimum(halves()[0].images.reshape(-1, 64), 15).astype(np.int64)


def scored(bundle: Path, out: Path) -> dict[str, float]:
    """Samples of captions of one word, and the mean level of those that were asked for a low and a high one."""
    words = np.eye(10, dtype=np.float32)[LABELS]
    given = {"caption": words[:, None], "caption_pooled": words}
    given |= {f"{name}_null": np.zeros_like(value) for name, value in given.items()}
    levels = levels_of_digits().mean(axis=1)
    found: dict[str, float] = {}
    for name, score in zip(("", "low", "high"), np.quantile(levels, (0.5, 0.1, 0.9)), strict=True):
        asked = {**given, "aesthetic": np.full((COUNT, 1), score, np.float32)}
        samples = opened(bundle).sample(conditions=asked, seeds=SEEDS)
        if name:
            found |= {f"{name} asked": float(score), name: float(samples.mean())}
        else:
            found |= scores(samples, LABELS)
    return found


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def written(bundle: Path, out: Path) -> dict[str, float]:
    """Samples of texts, such as "a seven"."""
    texts = [f"a {WORDS[label]}" for label in LABELS]
    return scores(opened(bundle).sample(conditions={"caption": texts}, seeds=SEEDS), LABELS)


def psnr(found: Array, wanted: Array) -> float:
    """In dB, of values from -1 to 1."""
    return float(10 * np.log10(4 / np.mean((found - wanted) ** 2)))


def enlarged(bundle: Path, out: Path) -> dict[str, float]:
    """Held-out digits from 2 × 2 pixels and their class."""
    wanted, labels = images(1)
    low = wanted.reshape(-1, 1, 2, 4, 2, 4).mean(axis=(3, 5))
    found = opened(bundle).sample(labels, SEEDS[: len(labels)], conditions={"low": low})
    return {
        **scores(found, labels),
        "psnr": psnr(found, wanted),
        "nearest": psnr(low.repeat(4, 2).repeat(4, 3), wanted),
    }


def filled(bundle: Path, out: Path) -> dict[str, float]:
    """Held-out digits of which three tenths of the 2 × 2 tiles are hidden, and their class."""
    wanted, labels = images(1)
    tiles = np.random.default_rng(0).uniform(size=(len(labels), 1, 4, 4)) >= 0.3
    known = tiles.repeat(2, 2).repeat(2, 3).astype(np.float32)
    given = {"known": wanted * known, "known_mask": known}
    found = opened(bundle).sample(labels, SEEDS[: len(labels)], conditions=given)
    hole, mean = known == 0, images(0)[0].mean(axis=0)
    kept = float(np.abs(found - wanted)[~hole].max())
    guess = np.broadcast_to(mean, wanted.shape)[hole]
    return {
        **scores(found, labels),
        **{"psnr": psnr(found[hole], wanted[hole]), "mean image": psnr(guess, wanted[hole]), "known off by": kept},
    }


def dequantised(which: int, copies: int) -> Array:
    """Copies of the digits with uniform noise of one grey level, in -1…1."""
    levels = halves()[which].images[:, None].repeat(copies, 0)
    noise = np.random.default_rng(which).uniform(size=levels.shape)
    return ((levels + noise) / LEVELS * 2 - 1).astype(np.float32)


def likelihood(bundle: Path, out: Path) -> dict[str, float]:
    """Bits per dimension of digits of 17 grey levels: held-out ones, training ones, and by a histogram per pixel."""
    pipe = opened(bundle)

    def bits(which: int) -> float:
        x = dequantised(which, 1)[:300]
        log_p = pipe.sample(conditions={"x": x}, seeds=SEEDS[:300], program="log_likelihood")
        return float(np.mean(-log_p / (64 * np.log(2)) + np.log2(LEVELS / 2)))

    known, heldout = (half.images.reshape(-1, 64) for half in halves())
    counts = np.stack([(known == level).sum(axis=0) for level in range(LEVELS)]) + 1.0
    shares = counts / counts.sum(axis=0)
    each = shares[heldout[:300], np.arange(64)]
    return {"bits": bits(1), "bits in training": bits(0), "bits of histograms": float(np.mean(-np.log2(each)))}


def retrieved(bundle: Path, out: Path, queries: bool = True, kept: int = 10, noise: bool = False) -> dict[str, float]:
    """Samples told neighbours from an index of digits below `kept`: of a class's query, or of an entry by the seed.

    `noise`: neighbours are normal numbers in place of digits.
    """
    known, labels = images(0)
    rows = labels < kept
    vectors = known[rows].reshape(-1, 64)
    if noise:
        vectors = np.random.default_rng(0).standard_normal(vectors.shape).astype(np.float32)
    folder = out / f"index-{kept}-{noise}"
    write_index(with_labels(vectors, labels[rows], 10, "cosine"), folder)
    pipe = opened(bundle, folder)
    if queries:
        return scores(pipe.sample(conditions={"neighbours": {"class": LABELS}}, seeds=SEEDS), LABELS)
    samples = pipe.sample(count=COUNT, seeds=SEEDS)
    below = np.mean([scores(samples, np.full(COUNT, label))["accuracy"] for label in range(5)]) * 5
    return {**scores(samples, None), "below 5": float(below)}


def referred(bundle: Path, out: Path, spec: str) -> dict[str, float]:
    """Samples of each class in turn, told neighbours of its query among the data that the spec is trained on."""
    folder = out / f"index-{spec}"
    if not folder.exists():
        api.index(spec, folder)
    pipe = opened(bundle, folder)
    return scores(pipe.sample(conditions={"neighbours": {"class": LABELS}}, seeds=SEEDS), LABELS)


def likened(bundle: Path, out: Path, **settings: float) -> dict[str, float]:
    """Samples guided by held-out digits: how many are of the reference's class, and the PSNR to it.

    Classes, which guidance at a scale of 0 leaves out, are asked for in turn.
    """
    wanted, labels = (part[:500] for part in images(1))
    given: dict[str, Any] = {"conditions": {"sketch": wanted}, "settings": settings or None}
    found = opened(bundle).sample(LABELS[:500], SEEDS[:500], **given)
    return {**scores(found, labels), "psnr": psnr(found, wanted)}


def representations(half: int, width: int) -> Array:
    """The first principal components of the training half (0) or the held-out half (1) of the digits."""
    every = np.concatenate([digits.images for digits in halves()]) / 8.0 - 1.0
    return np.split(components(every, [width]), [len(halves()[0].images)])[half]


def represented(bundle: Path, out: Path, width: int = 16, half: int = 1, count: int = 500) -> dict[str, float]:
    """Samples told principal components of held-out digits (or those of half 0): how many are of the digit's class."""
    told, labels = representations(half, width)[:count], images(half)[1][:count]
    samples = opened(bundle).sample(conditions={"representation": told}, seeds=SEEDS[: len(told)])
    return scores(samples, labels)


def vectors(bundle: Path, out: Path, width: int) -> dict[str, float]:
    """Drawn representations: Fréchet distance from those of held-out digits, and that of training digits."""
    heldout, samples = representations(1, width), opened(bundle).sample(count=COUNT, seeds=SEEDS)
    known = representations(0, width)
    return {"frechet": frechet_distance(samples, heldout), "of training": frechet_distance(known, heldout)}


def compressed(bundle: Path, out: Path) -> dict[str, float]:
    """Samples by an auto-encoder given held-out digits: how many are of the digit's class, and the PSNR to it."""
    wanted, labels = (part[:500] for part in images(1))
    found = opened(bundle).sample(conditions={"x": wanted}, seeds=SEEDS[:500])
    return {**scores(found, labels), "psnr": psnr(found, wanted)}


JUDGES: Mapping[str, Callable[..., dict[str, float]]] = {
    judge.__name__: judge
    for judge in (
        classes,
        alone,
        captioned,
        scored,
        written,
        enlarged,
        filled,
        likelihood,
        retrieved,
        referred,
        likened,
        represented,
        vectors,
        compressed,
    )
}


def write_data(folder: Path) -> None:
    """Files that some systems learn: digits with captions of which half are wrong, with noise, as levels; levels and
    digits with captions that are right.

    The coherence of a right caption is between 0.5 and 1, of a wrong one between 0 and 0.5. The score of
    `scored.npz` is the mean level.
    """
    if all((folder / name).exists() for name in FILES):
        return
    x, labels = images(0)
    rng = np.random.default_rng(0)
    wrong = rng.uniform(size=len(labels)) < 0.5
    told = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    coherence = (rng.uniform(0, 0.5, len(labels)) + 0.5 * ~wrong).astype(np.float32)
    text, mask = np.eye(10, dtype=np.float32)[told][:, None], np.ones((len(x), 1), bool)
    np.savez(folder / "captions.npz", x=x, text=text, text_mask=mask, coherence=coherence)
    np.savez(folder / "dequantised.npz", x=dequantised(0, 10))
    tokens = levels_of_digits()
    np.savez(folder / "levels.npz", tokens=tokens, y=labels)
    np.savez(folder / "vectors.npz", x=representations(0, 8))
    right = np.eye(10, dtype=np.float32)[labels][:, None]
    np.savez(folder / "spoken.npz", tokens=tokens, caption=right, caption_mask=mask)
    np.savez(folder / "worded.npz", x=x, text=right, text_mask=mask)
    empty = {"caption_null": np.zeros_like(right), "caption_pooled_null": np.zeros_like(right[:, 0])}
    level = tokens.mean(axis=1, keepdims=True, dtype=np.float32)
    np.savez(folder / "scored.npz", tokens=tokens, caption=right, caption_pooled=right[:, 0], aesthetic=level, **empty)
    field = {"classes": len(LETTERS), "alphabet": LETTERS, "end": 1}
    texts = [tokens_from_text(f"a {WORDS[label]}", field, 10) for label in labels]
    caption = np.array([text + [0] * (10 - len(text)) for text in texts], np.int64)
    np.savez(folder / "written.npz", x=x, caption=caption, caption_mask=caption > 0)
