"""Reads config.yaml. Settings are also flags: `--steps 10`, `--optimizer.lr 2e-4`, `--data.path images`.

Paths in config.yaml are relative to its folder, wherever a script runs; paths in flags to the current folder.

`--help` lists them with their values and descriptions.
"""

import math
import os
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-4 as text

Rule = tuple[str, Callable[[Any], bool]]  # the allowed values of a setting: a description and a test


def one_of(*words: str) -> Rule:
    return f"one of {', '.join(words)}", lambda v: v in words


def whole(least: int) -> Rule:
    return f"an integer of at least {least}", lambda v: type(v) is int and v >= least


def number(least: float = -math.inf, most: float = math.inf) -> Rule:
    lower = "" if least == -math.inf else f" from {least:g}"
    upper = "" if most == math.inf else f" to {most:g}"
    return f"a number{lower}{upper}", lambda v: type(v) in (int, float) and least <= v <= most


def several(count: int, rule: Rule) -> Rule:
    fits = rule[1]
    return (
        f"a list of {count}, each {rule[0]}",
        lambda v: isinstance(v, list) and len(v) == count and all(map(fits, v)),
    )


def or_null(rule: Rule) -> Rule:
    return f"{rule[0]}, or null", lambda v: v is None or rule[1](v)


# region patterns
PATTERNS: Rule = (
    "a list of patterns of weight names",
    lambda v: isinstance(v, list) and all(isinstance(pattern, str) for pattern in v),
)
# endregion
FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
TRAIN: dict[str, Rule] = {
    "out": ("a folder", lambda v: isinstance(v, str)),
    "resume": FLAG,
    "deterministic": FLAG,
    "steps": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "schedule.kind": one_of("constant", "cosine", "linear", "exponential"),
    "schedule.warmup": whole(0),
    "schedule.hold": number(0, 1),
    "schedule.final": number(0, 1),
    # region fixed
    "ema": or_null(number(0, 1)),
    # endregion
    # region warm
    "ema.decay": number(0, 1),
    "ema.warmup": FLAG,
    # endregion
    # region power
    "ema.sigma_rel": (
        "a list of 1 to 8 different widths from 0.001 to 0.25",
        lambda v: (
            isinstance(v, list)
            and all(type(w) is float and 0.001 <= w <= 0.25 for w in v)
            and 1 <= len({f"{w:g}" for w in v}) == len(v) <= 8  # each names its stored averages
        ),
    ),
    "ema.snapshot_every": whole(1),
    "ema.target": or_null(number(0.001, 0.25)),
    "ema.half": FLAG,
    # endregion
    "clip": or_null(number(0)),
    "precision": one_of("fp32", "bf16"),
    # region fp16
    "loss_scaling": number(0),
    # endregion
    "compile": FLAG,
    "recompute": FLAG,
    "parallel": one_of("none", "ddp", "fsdp"),
    "seed": whole(0),
    "checkpoint_every": whole(1),
    "keep": whole(1),
    "log_every": whole(1),
    "sample_every": or_null(whole(1)),
    "evaluate_every": or_null(whole(1)),
    "evaluate_samples": whole(8),
    "evaluate_features": or_null(("a file", lambda v: isinstance(v, str))),
    "workers": whole(0),
}

# region decay
TRAIN["schedule.kind"] = one_of("constant", "cosine", "linear", "exponential", "inverse_sqrt")
TRAIN["schedule.decay_from"] = whole(1)

# endregion
# {kind: {setting: (rule, description)}} of the optimisers in this project
OPTIMIZERS: dict[str, dict[str, tuple[Rule, str]]] = {}

MEANINGS = {
    "config": "settings file to use instead of config.yaml",
    "train.out": "folder for checkpoints, samples, logs and weights",
    "train.resume": "continue from the newest intact checkpoint in `out`",
    "train.deterministic": "use only deterministic PyTorch algorithms, which are slower on a GPU",
    "train.steps": "optimiser steps",
    "train.batch_size": "samples per optimiser step, over all processes",
    "train.accumulate": "forward passes per optimiser step",
    "train.schedule.kind": "learning rate schedule after warm-up",
    "train.schedule.warmup": "steps over which the learning rate rises from 0",
    "train.schedule.hold": "fraction of all steps at the full learning rate after warm-up",
    "train.schedule.final": "final fraction of the learning rate",
    # region decay
    "train.schedule.decay_from": "step from which the rate falls as 1 / sqrt(step)",
    # endregion
    # region fixed
    "train.ema": "decay per step of the averaged weights; null: none",
    # endregion
    # region warm
    "train.ema.decay": "decay per step of the averaged weights",
    "train.ema.warmup": "limit the decay of step n to (1 + n) / (10 + n)",
    # endregion
    # region power
    "train.ema.sigma_rel": "widths of the averages, relative to the number of steps",
    "train.ema.snapshot_every": "steps between stored averages",
    "train.ema.target": "width of the average reconstructed at the end; null: the first one",
    "train.ema.half": "store averages in float16",
    # endregion
    "train.clip": "maximum gradient norm; null: no limit",
    "train.precision": "precision of the forward pass",
    # region fp16
    "train.loss_scaling": "loss scale in fp16; gradients are divided by it",
    # endregion
    "train.compile": "compile networks with torch.compile",
    "train.recompute": "recompute blocks in the backward pass: uses less memory but more computation",
    "train.parallel": "strategy for several processes",
    "train.seed": "seed of the initial weights, the noise and the data order",
    "train.checkpoint_every": "steps between checkpoints",
    "train.keep": "number of newest checkpoints to keep",
    "train.log_every": "steps between log lines",
    "train.sample_every": "steps between sample grids, the last one at the end; null: none",
    "train.evaluate_every": "steps between sample metrics (Fréchet distance, precision, recall); null: none",
    "train.evaluate_samples": "number of samples for these metrics",
    "train.evaluate_features": "TorchScript feature extractor; null: principal components",
    "train.workers": "data loader processes; 0 loads in the training process",
    "data.path": "the file or folder of the data",
    "data.keys": "{field: name of its array in the file}, if they differ",
    "data.part": "which part of the data",
    "data.horizontal_flip": "mirror images at random with probability 1/2",
    "data.augment": "probability of each geometric augmentation; 0: none",
    "data.augmentations": "which of them",
    "data.crops": "cached views of each image: the centre, or ten crops",
    "data.views": "random crops, operations and mixtures of images; null: none",
    "data.views.crop": "share of an image's area in a random crop; null: the centre square",
    "data.views.fit": "crops larger than the image are redrawn or clamped",
    "data.views.rand_augment": "random operations; null: none",
    "data.views.rand_augment.operations": "random operations per image",
    "data.views.rand_augment.magnitude": "their mean magnitude, of 10",
    "data.views.rand_augment.deviation": "its standard deviation",
    "data.views.rand_augment.probability": "probability that an operation is applied",
    "data.views.mixup": "parameter of the shares in sums of two images; 0: none",
    "data.views.cutmix": "parameter of the shares of rectangles of another image; 0: none",
    "data.rate": "sample rate of all files, in Hz",
    "data.split": "which split of the data",
    "data.label": "suffix of the label file, or key in the .json",
    "data.moments": "contents of the second half of the cached channels",
    "data.scale": "factor of the cached latents",
    "data.latent_mean": "mean of the cached latents per channel",
    "data.latent_std": "standard deviation of the cached latents per channel",
    "data.deviation": "standard deviation of the normalised latents",
    "data.first_stage.weights": "weights of the first stage",
    "data.first_stage.shift": "subtracted from its latents",
    "data.first_stage.scale": "factor of its latents after that",
    "roles.pretrained": "weights that the network starts from",
    "roles.decay": "decay per step of the average",
}


def help_text(config: dict[str, Any]) -> str:
    """One line per setting that has a description; the others describe the model and its data."""
    rules, meanings = train_rules(config["train"])
    meanings |= MEANINGS
    lines = []
    for path, value in {"config": "config.yaml", **flat(config)}.items():
        section, _, rest = path.partition(".")
        short = re.sub(r"^\w+\.", "", rest) if section == "roles" else rest
        place = f"{section}.{short}" if rest else section
        if place in meanings:
            taken = f" ({rules[rest][0]})" if section == "train" else ""
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            flag = path.removeprefix("train.")
            lines.append(f"  --{flag:26} {shown!s:14} {meanings[place]}{taken}")
    return "\n".join(lines)


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{path: value} of nested settings."""
    found = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{path}" if path else key: v for path, v in inner.items()}
    return found


def train_rules(train: dict[str, Any]) -> tuple[dict[str, Rule], dict[str, str]]:
    """The rules of the settings in `train`, and the descriptions of those of optimisers, by path."""
    rules, meanings = dict(TRAIN), {}
    places = {f"optimizers.{name}": own for name, own in train.get("optimizers", {}).items()}
    for place, own in {"optimizer": train.get("optimizer"), **places}.items():
        kind = own.get("kind") if isinstance(own, dict) else None
        words, fits = one_of(*OPTIMIZERS)
        rules[f"{place}.kind"] = f"{words}; emit the project again for another kind", fits
        meanings[f"train.{place}.kind"] = "the optimiser"
        for name, (rule, meaning) in OPTIMIZERS.get(kind, {}).items():
            rules[f"{place}.{name}"], meanings[f"train.{place}.{name}"] = rule, meaning
    return rules, meanings


def check(train: dict[str, Any]) -> None:
    """SystemExit if a setting of `train` is unknown, missing or invalid."""
    found, (rules, _) = flat(train), train_rules(train)
    for path in [*found, *rules]:
        if path not in rules:
            raise SystemExit(f"train.{path}: there is no such setting")
        if path not in found:
            raise SystemExit(f"train.{path} is missing")
        words, fits = rules[path]
        if not fits(found[path]):
            raise SystemExit(f"train.{path}: {found[path]!r} is not {words}")


def parsed(value: Any) -> Any:
    """The value with texts such as 1e-4 converted to numbers."""
    if isinstance(value, dict):
        return {k: parsed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [parsed(v) for v in value]
    return float(value) if isinstance(value, str) and FLOAT.fullmatch(value) else value


# Settings that are paths: in a file relative to its folder, in a flag to the current folder.
PATHS = (
    *("data.path", "data.captions", "data.fields.*.tokenizer", "roles.*.pretrained"),
    *("held_out.path", "held_out.captions", "held_out.fields.*.tokenizer"),
    *("neighbours.*.database", "train.evaluate_features"),
)


def locate(config: dict[str, Any], folder: Path, patterns: tuple[str, ...] = PATHS) -> None:
    """Makes relative paths in the settings absolute, from a folder."""
    for path, value in flat(config).items():
        if value and isinstance(value, str) and any(fnmatchcase(path, pattern) for pattern in patterns):
            *keys, last = path.split(".")
            reduce(getitem, keys, config)[last] = os.path.abspath(folder / value)


def shortened(path: str) -> str:
    """An absolute path, relative to the current folder if it is in it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def override(config: dict[str, Any], flag: str, text: str) -> None:
    """Sets one setting by its path, in which `train` may be omitted. SystemExit if it does not exist."""
    path = flag.replace("-", "_").split(".")
    if path[0] not in config:
        path.insert(0, "train")
    node = config
    for key in path[:-1]:
        node = node.get(key)
        if not isinstance(node, dict):
            raise SystemExit(f"--{flag}: config.yaml has no such setting")
    if path[-1] not in node:
        near = ", ".join(sorted(node))
        raise SystemExit(f"--{flag}: config.yaml has no such setting; {'.'.join(path[:-1])} has {near}")
    try:
        node[path[-1]] = parsed(yaml.safe_load(text))
    except yaml.YAMLError:
        raise SystemExit(f"--{flag}: {text!r} is not a YAML value") from None


def load_config(arguments: list[str] | None = None) -> dict[str, Any]:
    """The settings, with flags `--name value` applied. `--config FILE` reads another file.

    SystemExit if one is invalid.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    file, flags, wants_help = Path(__file__).parents[1] / "config.yaml", [], False
    while arguments:
        flag, _, text = arguments.pop(0).partition("=")
        if flag in ("-h", "--help"):
            wants_help = True
            continue
        if not flag.startswith("--"):
            raise SystemExit(f"{flag}: settings are given as --name value")
        if not text:
            if not arguments:
                raise SystemExit(f"{flag} wants a value")
            text = arguments.pop(0)
        if not text.strip():
            raise SystemExit(f"{flag} is empty: give a value, or null")
        if flag == "--config":
            file = Path(text)
        else:
            flags.append((flag[2:], text))
    if not file.is_file():
        raise SystemExit(f"--config: there is no file {file}")
    try:
        config = parsed(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SystemExit(f"--config: {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not isinstance(config.get("train"), dict):
        raise SystemExit(f"--config: {file} has no settings under `train`")
    locate(config, file.parent, (*PATHS, "train.out"))
    if isinstance(out := config["train"].get("out"), str):
        config["train"]["out"] = shortened(out)
    for flag, text in flags:
        override(config, flag, text)
    locate(config, Path())
    check(config["train"])
    path = (config.get("data") or {}).get("path", "a path")  # some data has none
    if not path or not isinstance(path, str):
        raise SystemExit(f"data.path: {path!r} is not a file or folder")
    if wants_help:
        print(f"{sys.modules['__main__'].__doc__}\nSettings and their values:\n\n{help_text(config)}")
        raise SystemExit(0)
    return config
