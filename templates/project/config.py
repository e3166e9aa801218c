"""Reads config.yaml. Settings are flags too: `--steps 10`, `--optimizer.lr 2e-4`, `--data.path images`."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-4 as text


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
    node[path[-1]] = parsed(yaml.safe_load(text))


def load_config(arguments: list[str] | None = None) -> dict[str, Any]:
    """The settings, with flags `--name value` applied. `--config FILE` reads another file."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    file = Path(__file__).with_name("config.yaml")
    if "--config" in arguments:
        at = arguments.index("--config")
        file = Path(arguments[at + 1])
        del arguments[at : at + 2]
    config = parsed(yaml.safe_load(file.read_text()))
    while arguments:
        flag, _, text = arguments.pop(0).partition("=")
        if not flag.startswith("--"):
            raise SystemExit(f"{flag}: settings are given as --name value")
        if not text:
            if not arguments:
                raise SystemExit(f"{flag} wants a value")
            text = arguments.pop(0)
        override(config, flag[2:], text)
    return config
