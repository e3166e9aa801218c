"""Reads config.yaml. Settings are also flags: `--steps 10`, `--optimizer.lr=2e-4`; `--help` lists them.

Paths in config.yaml are relative to its folder, wherever a script runs; paths in flags to the current folder.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in YAML 1.2."""


FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))

Rule = tuple[str, Callable[[Any], bool]]  # the allowed values of a setting: a description and a test


def one_of(*words: str) -> Rule:
    return f"one of {', '.join(words)}", lambda v: v in words


def whole(least: int) -> Rule:
    return f"an integer of at least {least}", lambda v: type(v) is int and v >= least


def number(least: float = -math.inf, most: float = math.inf) -> Rule:
    lower = "" if least == -math.inf else f" from {least:g}"
    upper = "" if most == math.inf else f" to {most:g}"
    return f"a number{lower}{upper}", lambda v: type(v) in (int, float) and least <= v <= most


# region logged
def some_of(*words: str) -> Rule:
    return (
        f"a list of some of {', '.join(words)}; emit the project again for others",
        lambda v: isinstance(v, list) and all(w in words for w in v) and len({*v}) == len(v),
    )


# endregion
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
ANY: Rule = ("", lambda v: True)
# region power
WIDTHS: Rule = (
    "a list of 1 to 8 different widths from 0.001 to 0.25",
    lambda v: (
        isinstance(v, list)
        and all(type(w) is float and 0.001 <= w <= 0.25 for w in v)
        and 1 <= len({f"{w:g}" for w in v}) == len(v) <= 8  # each names its stored averages
    ),
)
# endregion
PATH: Rule = ("a path", lambda v: isinstance(v, str))
COURSES = ("constant", "cosine", "linear", "exponential")
# region decay
COURSES += ("inverse_sqrt",)
# endregion

# {kind: {setting: (rule, description)}} of the optimisers in this project
OPTIMIZERS: dict[str, dict[str, tuple[Rule, str]]] = {}

# {setting: (rule, description)}; the other settings describe the model and its data
SETTINGS: dict[str, tuple[Rule, str]] = {
    "train.out": (PATH, "folder for checkpoints, samples, logs and weights"),
    "train.resume": (FLAG, "continue from the newest intact checkpoint in `out`"),
    "train.deterministic": (FLAG, "use only deterministic PyTorch algorithms, which are slower on a GPU"),
    "train.steps": (whole(1), "optimiser steps"),
    "train.batch_size": (whole(1), "samples per optimiser step, over all processes"),
    "train.accumulate": (whole(1), "forward passes per optimiser step"),
    "train.schedule.kind": (one_of(*COURSES), "learning rate schedule after warm-up"),
    "train.schedule.warmup": (whole(0), "steps over which the learning rate rises from 0"),
    "train.schedule.hold": (number(0, 1), "fraction of all steps at the full learning rate after warm-up"),
    "train.schedule.final": (number(0, 1), "final fraction of the learning rate"),
    # region decay
    "train.schedule.decay_from": (whole(1), "step from which the rate falls as 1 / sqrt(step)"),
    # endregion
    # region fixed
    "train.ema": (or_null(number(0, 1)), "decay per step of the averaged weights; null: none"),
    # endregion
    # region warm
    "train.ema.decay": (number(0, 1), "decay per step of the averaged weights"),
    "train.ema.warmup": (FLAG, "limit the decay of step n to (1 + n) / (10 + n)"),
    # endregion
    # region power
    "train.ema.sigma_rel": (WIDTHS, "widths of the averages, relative to the number of steps"),
    "train.ema.snapshot_every": (whole(1), "steps between stored averages"),
    "train.ema.target": (
        or_null(number(0.001, 0.25)),
        "width of the average reconstructed at the end; null: the first one",
    ),
    "train.ema.half": (FLAG, "store averages in float16"),
    # endregion
    "train.clip": (or_null(number(0)), "maximum gradient norm; null: no limit"),
    "train.precision": (one_of("fp32", "bf16"), "precision of the forward pass"),
    # region fp16
    "train.loss_scaling": (number(0), "loss scale in fp16; gradients are divided by it"),
    # endregion
    "train.compile": (FLAG, "compile networks with torch.compile"),
    "train.recompute": (FLAG, "recompute blocks in the backward pass: uses less memory but more computation"),
    "train.parallel": (one_of("none", "ddp", "fsdp"), "strategy for several processes"),
    "train.seed": (whole(0), "seed of the initial weights, the noise and the data order"),
    "train.checkpoint_every": (whole(1), "steps between checkpoints"),
    "train.keep": (whole(1), "number of newest checkpoints to keep"),
    "train.log_every": (whole(1), "steps between log lines"),
    # region logged
    "train.log": (some_of("tensorboard", "csv"), "where curves and sample grids are logged"),
    # endregion
    "train.sample_every": (or_null(whole(1)), "steps between sample grids, the last one at the end; null: none"),
    # region evaluated
    "train.evaluate_every": (
        or_null(whole(1)),
        "steps between sample metrics (Fréchet distance, precision, recall); null: none",
    ),
    "train.evaluate_samples": (whole(8), "number of samples for these metrics"),
    "train.evaluate_features": (or_null(PATH), "TorchScript feature extractor; null: principal components"),
    # endregion
    "train.workers": (whole(0), "data loader processes; 0 loads in the training process"),
    "data.path": (ANY, "the file or folder of the data"),
    "data.keys": (ANY, "{field: name of its array in the file}, if they differ"),
    "data.part": (ANY, "which part of the data"),
    "data.horizontal_flip": (ANY, "mirror images at random with probability 1/2"),
    "data.augment": (ANY, "probability of each geometric augmentation; 0: none"),
    "data.augmentations": (ANY, "which of them"),
    "data.crops": (ANY, "cached views of each image: the centre, or ten crops"),
    "data.damaged": (one_of("refuse", "skip"), "whether images that cannot be read end training or are left out"),
    "data.views": (ANY, "random crops, operations and mixtures of images; null: none"),
    "data.views.crop": (ANY, "share of an image's area in a random crop; null: the centre square"),
    "data.views.fit": (ANY, "crops larger than the image are redrawn or clamped"),
    "data.views.rand_augment": (ANY, "random operations; null: none"),
    "data.views.rand_augment.operations": (ANY, "random operations per image"),
    "data.views.rand_augment.magnitude": (ANY, "their mean magnitude, of 10"),
    "data.views.rand_augment.deviation": (ANY, "its standard deviation"),
    "data.views.rand_augment.probability": (ANY, "probability that an operation is applied"),
    "data.views.mixup": (ANY, "parameter of the shares in sums of two images; 0: none"),
    "data.views.cutmix": (ANY, "parameter of the shares of rectangles of another image; 0: none"),
    "data.rate": (ANY, "sample rate of all files, in Hz"),
    "data.split": (ANY, "which split of the data"),
    "data.label": (ANY, "suffix of the label file, or key in the .json"),
    "data.moments": (ANY, "contents of the second half of the cached channels"),
    "data.scale": (ANY, "factor of the cached latents"),
    "data.latent_mean": (ANY, "mean of the cached latents per channel"),
    "data.latent_std": (ANY, "standard deviation of the cached latents per channel"),
    "data.deviation": (ANY, "standard deviation of the normalised latents"),
    "data.first_stage.weights": (ANY, "weights of the first stage"),
    "data.first_stage.shift": (ANY, "subtracted from its latents"),
    "data.first_stage.scale": (ANY, "factor of its latents after that"),
    "clusters.every": (ANY, "steps between clusterings of the data"),
    "clusters.start": (ANY, "step up to which the first clustering stays"),
    "roles.*.pretrained": (ANY, "weights that the network starts from"),
    "roles.*.decay": (ANY, "decay per step of the average"),
}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{path: value} of nested settings."""
    found = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{path}" if path else key: v for path, v in inner.items()}
    return found


def rules_of(train: dict[str, Any]) -> dict[str, tuple[Rule, str]]:
    """SETTINGS with those of the optimisers that `train` names."""
    found = dict(SETTINGS)
    places = {f"optimizers.{name}": own for name, own in train.get("optimizers", {}).items()}
    for place, own in {"optimizer": train.get("optimizer"), **places}.items():
        kind = own.get("kind") if isinstance(own, dict) else None
        words, fits = one_of(*OPTIMIZERS)
        found[f"train.{place}.kind"] = (f"{words}; emit the project again for another", fits), "the optimiser"
        found |= {f"train.{place}.{name}": row for name, row in OPTIMIZERS.get(kind, {}).items()}
    return found


def check(train: dict[str, Any]) -> None:
    """SystemExit if a setting of `train` is unknown, missing or invalid."""
    found = flat({"train": train})
    rules = {path: rule for path, (rule, _) in rules_of(train).items() if path.startswith("train.")}
    for path in [*found, *rules]:
        if path not in rules:
            raise SystemExit(f"{path}: there is no such setting")
        if path not in found:
            raise SystemExit(f"{path} is missing")
        words, fits = rules[path]
        if not fits(found[path]):
            raise SystemExit(f"{path}: {found[path]!r} is not {words}")


# Settings that are paths: in a file relative to its folder, in a flag to the current folder.
PATHS = (
    *("data.path", "data.captions", "data.fields.*.tokenizer", "roles.*.pretrained"),
    *("held_out.path", "held_out.captions", "held_out.fields.*.tokenizer"),
    *("neighbours.*.database", "train.evaluate_features"),
)


def found_in(config: dict[str, Any], path: str) -> Any:
    """A nested setting."""
    return reduce(getitem, path.split("."), config)


def set_in(config: dict[str, Any], path: str, value: Any) -> None:
    """Changes a nested setting."""
    section, _, last = path.rpartition(".")
    (found_in(config, section) if section else config)[last] = value


def locate(config: dict[str, Any], folder: Path, patterns: tuple[str, ...] = PATHS) -> None:
    """Makes relative paths in the settings absolute, from a folder."""
    for path, value in flat(config).items():
        if value and isinstance(value, str) and any(fnmatchcase(path, pattern) for pattern in patterns):
            set_in(config, path, os.path.abspath(folder / value))


def shortened(path: str) -> str:
    """An absolute path, relative to the current folder if it is in it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def value_of(text: str) -> Any:
    """The value of a flag, as YAML."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a value, or null")
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a YAML value") from None


def read(file: Path) -> dict[str, Any]:
    """The settings in a file. SystemExit if it holds none."""
    if not file.is_file():
        raise SystemExit(f"--config: there is no file {file}")
    try:
        config = yaml.load(file.read_text(), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SystemExit(f"--config: {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not isinstance(config.get("train"), dict):
        raise SystemExit(f"--config: {file} has no settings under `train`")
    locate(config, file.parent, (*PATHS, "train.out"))
    if isinstance(out := config["train"].get("out"), str):
        config["train"]["out"] = shortened(out)
    return config


def paths(config: dict[str, Any]) -> list[str]:
    """The settings by their paths, and the sections that hold them."""
    parts = [path.split(".") for path in flat(config)]
    return list(dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)))


def load_config(arguments: list[str] | None = None) -> dict[str, Any]:
    """The settings, with flags `--name value` applied. `--config FILE` reads another file.

    SystemExit if one is invalid.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    named = [re.sub(r"^--(train\.)?([^=]+)", lambda f: f"--{f[2].replace('-', '_')}", a) for a in arguments]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    usual = Path(__file__).parents[1] / "config.yaml"
    first.add_argument("--config", type=Path, default=usual, metavar="FILE", help="instead of config.yaml")
    first.error = sys.exit
    chosen, flags = first.parse_known_args(named)
    config = read(chosen.config)
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--SETTING VALUE ...]",
        description=sys.modules["__main__"].__doc__,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=45, width=150),
        parents=[first],
        allow_abbrev=False,
    )
    parser.error = sys.exit  # with one line, as for all other refusals
    rules, helps = rules_of(config["train"]), {"-h", "--help"} & {*flags}
    for path in paths(config):
        rows = [row for pattern, row in rules.items() if fnmatchcase(path, pattern)]
        value = found_in(config, path)
        value = yaml.safe_dump(value, default_flow_style=True).splitlines()[0] if helps else "VALUE"
        says = [f"{meaning} ({words})" if words else meaning for (words, _), meaning in rows]
        parser.add_argument(
            f"--{path.removeprefix('train.')}",
            dest=path,
            type=value_of,
            default=argparse.SUPPRESS,
            metavar=value,
            help=says[0].replace("%", "%%") if says else argparse.SUPPRESS,
        )
    given, unknown = parser.parse_known_args(flags)
    if unknown:
        raise SystemExit(f"{unknown[0]}: config.yaml has no such setting; --help lists those that it has")
    for path, value in vars(given).items():
        if path != "config":
            set_in(config, path, value)
    locate(config, Path())
    check(config["train"])
    path = (config.get("data") or {}).get("path", "a path")  # some data has none
    if not path or not isinstance(path, str):
        raise SystemExit(f"data.path: {path!r} is not a file or folder")
    return config
