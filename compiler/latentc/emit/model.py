"""`model.py` of the training project: the networks of a lowered spec as PyTorch classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from latentc.components.contract import Lowered
from latentc.emit.classes import Classes
from latentc.emit.helpers import helper_source
from latentc.emit.text import call, docstring, identifier, layout, literal
from latentc.ir.core import Module

LEGEND = "Shapes: B batch, T tokens, D width, H heads."


Constants = dict[str, np.ndarray[Any, Any]]


def model_source(lowered: Lowered, title: str = "", constants: Constants | None = None) -> str:
    """Text of `model.py`: a class per network and its parts, and `build()` that makes each as specified.

    `constants` is given the large ones, which model.py reads from constants.safetensors.
    """
    networks = {name: list(net.functions) for name, net in lowered.networks.items()}
    return networks_source(lowered.module, networks, title, constants)


def networks_source(
    module: Module, networks: Mapping[str, Iterable[str]], title: str = "", constants: Constants | None = None
) -> str:
    """As `model_source`, of any module: {network: names of the functions that are its methods}."""
    methods = {name: list(functions) for name, functions in networks.items()}
    classes = Classes(module, methods)
    builders = []
    for network, names in methods.items():
        printed = classes.of(names[0])
        args = [f"{identifier(a)}={literal(printed.values[a]).code}" for a in printed.arguments]
        name = "build" if network == "main" else f"build_{identifier(network)}"
        builders += ["", "", f"def {name}() -> {printed.name}:"]
        builders.append('    """The network as the spec has it."""')
        builders += layout("    ", f"return {call(printed.name, args).code}")
    rows = [f"{literal(n).code}: {'build' if n == 'main' else f'build_{identifier(n)}'}" for n in networks]
    builders += ["", "", f"NETWORKS = {{{', '.join(rows)}}}"]
    bodies = "\n\n".join([helper_source(list(classes.helpers)), *classes.texts] if classes.helpers else classes.texts)
    if constants is not None:
        constants |= classes.constants
    code = bodies + "\n".join(builders) + "\n"
    return "\n".join([*docstring(_heading(title), ""), "", *imports(code), "", ""]) + "\n" + code.rstrip() + "\n"


def _heading(title: str) -> str:
    return f"{title}\n\n{LEGEND}" if title else LEGEND


def imports(code: str) -> list[str]:
    """The import lines that a text needs."""
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
    return lines
