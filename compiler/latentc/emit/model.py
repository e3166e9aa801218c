"""`model.py` of the training project: the networks of a lowered spec as PyTorch classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from latentc.components.contract import Lowered
from latentc.emit.classes import Classes, builder_of
from latentc.emit.helpers import helper_source
from latentc.emit.text import commas, docstring, layout, literal
from latentc.ir.core import Module
from latentc_runtime import sources as sources_module

T = TypeVar("T")
SUPPORT = "latentc_support"
"""The package in a project that holds all modules but those to read and change."""
LABELS = {"B": "batch", "T": "tokens", "D": "width", "C": "channels", "H": "heads", "L": "length"}
"""Meaning of the letters in shape comments; if there is a W, H is a height."""


@dataclass(frozen=True)
class ModelFile:
    """model.py: its text, its large constants, and the constructor arguments of each network.

    `offered` are the arguments that can change by themselves, which config.yaml has. `classes` prints calls of methods.
    """

    text: str
    constants: dict[str, np.ndarray[Any, Any]]
    sizes: dict[str, dict[str, int]]
    offered: dict[str, dict[str, int]]
    classes: Classes


def model_source(lowered: Lowered, title: str = "") -> str:
    """Text of `model.py`: classes of the networks and their parts, and a `build()` per network."""
    return model_file(lowered, title).text


def model_file(lowered: Lowered, title: str = "") -> ModelFile:
    """As `model_source`, with its constants and sizes."""
    return networks_file(lowered.module, {name: list(net.functions) for name, net in lowered.networks.items()}, title)


def networks_file(module: Module, networks: Mapping[str, Iterable[str]], title: str = "") -> ModelFile:
    """As `model_file`, of any module: {network: names of the functions that are its methods}."""
    methods = {name: list(functions) for name, functions in networks.items()}
    classes = Classes(module, methods)
    sizes: dict[str, dict[str, int]] = {}
    offered: dict[str, dict[str, int]] = {}
    builders = []
    for network, names in methods.items():
        printed = classes.of(names[0])
        sizes[network] = {argument: printed.values[a] for a, argument in printed.arguments.items()}
        offered[network] = {name: printed.values[a] for a, name in printed.arguments.items() if a not in printed.fixed}
        builders += ["", "", f"def {builder_of(network)}(**sizes: int) -> {printed.name}:"]
        builders.append('    """The network, with the sizes of the spec unless overridden."""')
        builders += layout("    ", f"sizes = {literal(sizes[network]).code} | sizes")
        builders.append(f"    return {printed.name}(**sizes)")
    classes.check_used("\n".join(builders))
    rows = [f"{literal(n).code}: {builder_of(n)}" for n in networks]
    builders += ["", "", *layout("", f"NETWORKS = {{{', '.join(rows)}}}")]
    bodies = "\n\n".join([helper_source(list(classes.helpers)), *classes.texts] if classes.helpers else classes.texts)
    code = bodies + "\n".join(builders) + "\n"
    needed = [line for line in imports(code) if line != "import torch" or re.search(r"\btorch\.", code)]
    text = "\n".join([*docstring(_heading(title, code), ""), "", *needed, "", ""]) + "\n" + code.rstrip() + "\n"
    return ModelFile(text, classes.constants, sizes, offered, classes)


def in_support(files: Mapping[str, T]) -> dict[str, T]:
    """Files of the package of support code, by their paths in the project."""
    return {f"{SUPPORT}/{name}": content for name, content in files.items()}


def _heading(title: str, code: str) -> str:
    return "\n\n".join(part for part in (title, legend(code)) if part) or "Networks."


def legend(code: str) -> str:
    """The meaning of the letters in the shapes of `code`."""
    letters = {letter for shape in re.findall(r"\[[^\[\]\n]*\]", code) for letter in re.findall(r"\b[A-Z]\b", shape)}
    labels = LABELS | ({"H": "height", "W": "width", "D": "features"} if "W" in letters else {})
    used = ", ".join(f"{letter} {meaning}" for letter, meaning in labels.items() if letter in letters)
    return f"Shapes: {used}." if used else ""


def imports(code: str) -> list[str]:
    """The import lines that `code` needs."""
    abstract = [name for name in ("Callable", "Mapping") if re.search(rf"\b{name}\[", code)]
    lines = [f"from collections.abc import {', '.join(abstract)}"] if abstract else []
    lines += ["import math"] if re.search(r"\bmath\.", code) else []
    lines += [""] if lines else []
    lines.append("import torch")
    if re.search(r"\bF\.", code):
        lines.append("import torch.nn.functional as F")
    names = [n for n, mark in (("Tensor", r"\bTensor\b"), ("nn", r"\bnn\.")) if re.search(mark, code)]
    lines += [f"from torch import {', '.join(names)}"] if names else []
    if "sdpa_kernel" in code:
        lines.append("from torch.nn.attention import SDPBackend, sdpa_kernel")
    if re.search(r"\bCONSTANTS\[", code):
        lines += ["", f"from {SUPPORT}.constants import CONSTANTS"]
    return lines


def assembled(
    head: list[str], standard: list[str], body: str, drawing: Mapping[str, Collection[str]] | None = None
) -> str:
    """A file: its docstring, the imports that `body` needs and those of `standard`, and `body`.

    `drawing`: {support module: functions} that it calls to draw random numbers.
    """
    found = imports(body)
    at = found.index("import torch")
    plain = ["import math"] if "import math" in found else []
    standard = plain + sorted({line for line in (*found[:at], *standard) if line.startswith("from")})
    needed = found[at if re.search(r"\btorch\.", body) else at + 1 :]
    if re.search(r"\bnp\.", body):
        needed.insert(0, "import numpy as np")
    if "tqdm(" in body:
        needed.append("from tqdm import tqdm")
    classes = "|".join(name for name in sources_module.__all__ if name[0].isupper())
    sources = sorted(set(re.findall(rf"(?<![\"'])\b({classes})\b", body)))
    local = ["import schedule"] if re.search(r"\bschedule\.", body) else []
    local += [f"from {SUPPORT}.constants import table"] if "table(" in body else []
    local += [
        f"from {SUPPORT}.{module} import {commas(sorted(names))}" for module, names in sorted((drawing or {}).items())
    ]
    local += [f"from {SUPPORT}.sources import {commas(sources)}"] if sources else []
    blocks = [block for block in (standard, needed, local) if block]
    return "\n".join([*head, *(line for block in blocks for line in ("", *block)), "", "", body.rstrip()]) + "\n"
