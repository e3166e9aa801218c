"""Small class-prefixed text models: whether what they write keeps its class.

    python benchmarks/class_prefix_texts.py [--out out/class_prefix] [--only gpt2,bert,bart,gedi]

Texts are first lines of the docstrings of NumPy's, PyTorch's and pandas' functions and classes; the library is their
class. One half trains class_prefix_gpt2, _bert and _bart at a small size from random weights, on bytes. The other half
trains a judge (a logistic regression on n-grams of characters), and a fifth of it tests the judge. Engines write 300
texts: GPT-2 from nothing, BERT and BART from texts of a library that is asked for as theirs. Goals, set before the
first run: the judge finds the class in at least 0.8 times as many of GPT-2's texts as of real ones, 0.9 times of BERT's
and of BART's.

GeDi leads a model that has learnt the same texts without their classes, by a discriminator that has learnt them with
these, from the first word of texts of any class. Goal, set before the first run: of the texts that are not of the class
asked for without it, the judge finds the class in half with it. Takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import trained

import latentc_runtime
from latentc import api

LIBRARIES = {
    "numpy": ("numpy", "numpy.linalg", "numpy.ma", "numpy.random", "numpy.fft", "numpy.polynomial.polynomial"),
    "pandas": ("pandas", "pandas.DataFrame", "pandas.Series", "pandas.Index", "pandas.api.types", "pandas.Timestamp"),
    "torch": ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions", "torch.Tensor"),
}
LENGTH, COUNT = 64, 100
FIELD = f"data.fields.tokens={{shape: [{LENGTH}], classes: 258, medium: text, end: 256}}"
BLOCK = ("networks.main.width=64", "networks.main.block.mixer.heads=4", "networks.main.block.feed_forward.ratio=2")
SIZES = {
    "gpt2": (*BLOCK, "networks.main.depth=3", "networks.main.context=80", "networks.main.class_tokens=null"),
    "bert": (
        *(*BLOCK, "networks.main.depth=3"),
        "networks.main.embedding={mask: 257, places: 80, segments: 2, labels: 3}",
    ),
    "bart": (
        *(*BLOCK, "networks.main.encoder_depth=2", "networks.main.decoder_depth=2", "networks.main.context=80"),
        *("networks.main.start=256", "networks.main.source_start=null"),
        "conditioning.source={kind: masked_text, mask: 257, end: 256, share: 0.4, shape: span}",
        f"data.fields.tokens_starts={{shape: [{LENGTH}]}}",
        "sampler={kind: beam_search, beams: 4}",
    ),
}
PROMPT = 16  # tokens, with the one that starts it
# Twice GPT-2's: without dropout, both networks of GeDi memorise the 1292 texts.
DROPOUT = tuple(f"block.{part}.dropout=0.2" for part in ("mixer", "feed_forward"))
GEDI = (
    *(*BLOCK, "networks.main.depth=3", "networks.main.context=100", "sampler.temperature=1"),
    *(size.replace("main", "discriminator") for size in BLOCK),
    *("networks.discriminator.depth=3", "networks.discriminator.context=100"),
    *("networks.discriminator.class_tokens=[1, 2, 3]", "sampler.repetition_penalty=1"),
    *(f"networks.discriminator.{one}" for one in DROPOUT),
    f"data.fields.prompt={{shape: [{PROMPT}], classes: 258, medium: text, start: 256}}",
    f"data.fields.prompt_mask={{shape: [{PROMPT}], dtype: bool}}",
)
UNLED = (*BLOCK, "networks.main.depth=3", "networks.main.context=100", "networks.main.class_tokens=[256]")
UNLED += tuple(f"networks.main.{one}" for one in DROPOUT)
TRAINING = ("train.batch_size=32", "train.precision=fp32", "train.optimizer.lr=2e-3")
TRAINING += ("train.schedule={kind: cosine, warmup: 50}",)
STEPS = {"gpt2": 2000, "bert": 800, "bart": 6000, "gedi": 1200}  # copying what it is given takes BART longest to learn
GOALS = {"gpt2": 0.8, "bert": 0.9, "bart": 0.9}


def texts() -> list[tuple[str, str]]:
    """(library, first line) of every documented function and class, each line once."""
    found: dict[str, str] = {}
    for library, places in LIBRARIES.items():
        for place in places:
            owner, _, name = place.rpartition(".")
            try:
                holder = importlib.import_module(place)
            except ImportError:
                holder = getattr(importlib.import_module(owner), name)
            for key in dir(holder):
                text = inspect.getdoc(getattr(holder, key, None)) if not key.startswith("_") else None
                lines = [line.strip() for line in (text or "").splitlines() if " " in line.strip()]
                line = next((one for one in lines if "(" not in one and one.isascii()), "")[: LENGTH - 1]
                if len(line) > 15:
                    found.setdefault(line, library)
    return sorted((library, line) for line, library in found.items())


Judge = Callable[[list[str]], NDArray[Any]]
"""The libraries of texts."""


def main() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/class_prefix"))
    parser.add_argument("--only", default=",".join(STEPS))
    flags = parser.parse_args()
    rows = texts()
    order = np.random.default_rng(0).permutation(len(rows))
    known, judged = ([rows[i] for i in part] for part in np.split(order, [len(rows) // 2]))
    flags.out.mkdir(parents=True, exist_ok=True)
    tested = len(judged) // 5
    judge = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)), LogisticRegression(C=30))
    judge.fit([x for _, x in judged[tested:]], [y for y, _ in judged[tested:]])
    names = sorted(LIBRARIES)
    real = float(np.mean([judge.predict([x])[0] == y for y, x in judged[:tested]]))
    counts = {name: sum(y == name for y, _ in known) for name in names}
    print(f"{len(known)} texts to train on ({counts}); the judge is right about {real:.3f} of {tested} others")
    for model in flags.only.split(","):
        if model == "gedi":
            led(flags.out, known, judged, judge.predict)
        else:
            prefixed(model, flags.out, known, judged, judge.predict, real)


def options_of(out: Path, rows: list[tuple[str, str]], name: str, steps: int, classes: list[str]) -> list[str]:
    """The data and training of rows, which are written to a table; an empty prompt precedes each."""
    table = (out / f"{name}.jsonl").resolve()
    lines = (json.dumps({"label": y, "text": x, "prompt": ""}) + "\n" for y, x in rows)
    table.write_text("".join(lines), encoding="utf-8")
    data = f"data={{kind: table, path: {table}, classes: {len(classes)}, class_names: [{', '.join(classes)}]}}"
    return [data, FIELD, *TRAINING, f"train.steps={steps}"]


def prefixed(
    model: str, out: Path, known: list[tuple[str, str]], judged: list[tuple[str, str]], judge: Judge, real: float
) -> None:
    """Trains one of the class-prefixed models, and judges what it writes."""
    names = sorted(LIBRARIES)
    labels = np.repeat(np.arange(3), COUNT)
    own = [[x for y, x in judged if y == name] for name in names]
    given = [own[label][i % len(own[label])] for label, i in zip(labels, np.tile(np.arange(COUNT), 3), strict=True)]
    spec = f"class_prefix_{model}"
    options = [*options_of(out, known, model, STEPS[model], names), *SIZES[model]]
    run = trained(spec, out / model, overrides=options)
    api.compile(spec, str(run.weights), out / f"{model}.latentc", overrides=options, max_batch=100)
    asked = {"gpt2": {}, "bert": {"text": given}, "bart": {"source": given}}[model]
    written = written_by(out / f"{model}.latentc", labels, asked)
    kept = float(np.mean(judge(written) == np.array(names)[labels]))
    changed = float(np.mean([x != y for x, y in zip(written, given, strict=True)]))
    seen = float(np.mean([any(x == line for _, line in known) for x in written]))
    print(f"{model}: {run.seconds:.0f} s of training, loss falls {run.fall():.2f} ×; {seen:.2f} are training texts")
    print(f"  {written[0]!r}, {written[COUNT]!r}, {written[2 * COUNT]!r}; {changed:.2f} differ from the given text")
    print("  " + verdict("texts whose class the judge finds", kept / real, GOALS[model], "of real ones"))


def led(out: Path, known: list[tuple[str, str]], judged: list[tuple[str, str]], judge: Judge) -> None:
    """Trains a model without classes and a discriminator, and judges what they write together."""
    names, steps = sorted(LIBRARIES), STEPS["gedi"]
    plain = [*options_of(out, [("text", x) for _, x in known], "unled", steps, ["text"]), *UNLED]
    unled = trained("class_prefix_gpt2", out / "unled", overrides=plain)
    options = [*options_of(out, known, "gedi", steps, names), *GEDI]
    run = trained("gedi", out / "gedi", overrides=options)
    weights = [f"main={unled.weights}", f"discriminator={run.weights}"]
    labels = np.repeat(np.arange(3), COUNT)
    words = [f"{x.split()[0]} "[: PROMPT - 1] for _, x in judged]
    prompts = [words[i] for i in np.random.default_rng(1).permutation(len(words))[: len(labels)]]
    shares = []
    for name, more in {"without GeDi": ["sampler.weight=0", "sampler.filter=0"], "with it": []}.items():
        bundle = out / f"{'' if not more else 'un'}led.latentc"
        api.compile("gedi", weights, bundle, overrides=[*options, *more], max_batch=100)
        behind = written_by(bundle, labels, {"prompt": prompts})
        whole = [prompt + text for prompt, text in zip(prompts, behind, strict=True)]
        shares.append(float(np.mean(judge(whole) == np.array(names)[labels])))
        print(f"{name}: {whole[0]!r}, {whole[COUNT]!r}, {whole[2 * COUNT]!r}: {shares[-1]:.3f}")
    goal = (shares[1] - shares[0]) / (1 - shares[0])
    print("  " + verdict("of the other texts, those whose class the judge finds when led", goal, 0.5, ""))


def written_by(bundle: Path, labels: NDArray[Any], asked: dict[str, Any]) -> list[str]:
    """What an engine writes of these classes."""
    pipe = latentc_runtime.load(bundle, device="cpu")
    samples = pipe.sample(labels, conditions=asked, seeds=0)
    (lines,) = pipe.files(samples, "texts.jsonl").values()
    return [json.loads(line)["text"] for line in lines.decode().splitlines()]


if __name__ == "__main__":
    main()
