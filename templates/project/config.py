"""Reads config.yaml. Settings are flags too: `--steps 10`, `--optimizer.lr 2e-4`, `--data.path images`."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-4 as text

Rule = tuple[str, Callable[[Any], bool]]  # what a setting takes, in words and as a test


def one_of(*words: str) -> Rule:
    return f"one of {', '.join(words)}", lambda v: v in words


def whole(least: int) -> Rule:
    return f"a whole number from {least} up", lambda v: type(v) is int and v >= least


def number(least: float, most: float = math.inf) -> Rule:
    upper = "" if most == math.inf else f" to {most:g}"
    return f"a number from {least:g}{upper}", lambda v: type(v) in (int, float) and least <= v <= most


def or_null(rule: Rule) -> Rule:
    return f"{rule[0]}, or null", lambda v: v is None or rule[1](v)


FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
TRAIN: dict[str, Rule] = {
    "out": ("a folder", lambda v: isinstance(v, str)),
    "resume": FLAG,
    "deterministic": FLAG,
    "steps": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "schedule.kind": one_of("constant", "cosine", "linear"),
    "schedule.warmup": whole(0),
    "schedule.final": number(0, 1),
    "ema": or_null(number(0, 1)),
    "clip": or_null(number(0)),
    "precision": one_of("fp32", "bf16"),
    "compile": FLAG,
    "parallel": one_of("none", "ddp", "fsdp"),
    "seed": whole(0),
    "checkpoint_every": whole(1),
    "keep": whole(1),
    "log_every": whole(1),
    "sample_every": or_null(whole(1)),
    "workers": whole(0),
}

EVERY_OPTIMIZER: dict[str, Rule] = {
    "kind": one_of("adam", "adamw", "muon", "sgd"),
    "lr": number(0),
    "weight_decay": number(0),
    "decay_embeddings": FLAG,
    "sam": or_null(number(0)),
}
PAIR: Rule = ("two numbers", lambda v: isinstance(v, list) and len(v) == 2)
OPTIMIZERS: dict[str, dict[str, Rule]] = {
    "adam": {"betas": PAIR, "eps": number(0)},
    "adamw": {"betas": PAIR, "eps": number(0)},
    "muon": {"betas": PAIR, "eps": number(0), "momentum": number(0, 1), "adam_lr": number(0)},
    "sgd": {"momentum": number(0, 1), "nesterov": FLAG},
}


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """{path: value} of nested settings."""
    found = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{path}" if path else key: v for path, v in inner.items()}
    return found


def check(train: dict[str, Any]) -> None:
    """SystemExit where a setting of `train` is unknown, missing, or not what it should be."""
    found = flat(train)
    rules = dict(TRAIN)
    named = {f"optimizers.{name}": settings for name, settings in train.get("optimizers", {}).items()}
    for place, settings in {"optimizer": train.get("optimizer", {}), **named}.items():
        own = OPTIMIZERS.get(settings.get("kind"), {})
        rules |= {f"{place}.{name}": rule for name, rule in (EVERY_OPTIMIZER | own).items()}
    for path in [*found, *rules]:
        if path not in rules:
            raise SystemExit(f"train.{path}: there is no such setting")
        if path not in found:
            raise SystemExit(f"train.{path} is missing")
        words, fits = rules[path]
        if not fits(found[path]):
            raise SystemExit(f"train.{path}: expected {words}, not {found[path]!r}")


def parsed(value: Any) -> Any:
    """A value with its numbers as numbers."""
    if isinstance(value, dict):
        return {k: parsed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [parsed(v) for v in value]
    return float(value) if isinstance(value, str) and FLOAT.fullmatch(value) else value


def override(config: dict[str, Any], flag: str, text: str) -> None:
    """Sets one setting by its path, which may leave out `train`. SystemExit if there is none of that name."""
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
        raise SystemExit(f"--{flag}: {text!r} is no YAML value") from None


def load_config(arguments: list[str] | None = None) -> dict[str, Any]:
    """The settings, with flags `--name value` applied. `--config FILE` reads another file.

    SystemExit where one is wrong.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    file, flags = Path(__file__).with_name("config.yaml"), []
    while arguments:
        flag, _, text = arguments.pop(0).partition("=")
        if not flag.startswith("--"):
            raise SystemExit(f"{flag}: settings are given as --name value")
        if not text:
            if not arguments:
                raise SystemExit(f"{flag} wants a value")
            text = arguments.pop(0)
        if flag == "--config":
            file = Path(text)
        else:
            flags.append((flag[2:], text))
    if not file.is_file():
        raise SystemExit(f"--config: there is no file {file}")
    config = parsed(yaml.safe_load(file.read_text()))
    for flag, text in flags:
        override(config, flag, text)
    check(config["train"])
    return config
