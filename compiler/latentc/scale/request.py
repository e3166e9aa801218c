"""The request of `latentc show --plan`: `gpus=256,h100,utilisation=0.4`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.scale.accelerators import ACCELERATORS, Accelerator

UTILISATION = 0.4  # fraction of the peak FLOP/s that well-tuned transformers reach


@dataclass(frozen=True)
class Request:
    """A number of accelerators of one kind and the fraction of their peak FLOP/s that training reaches."""

    gpus: int
    accelerator: Accelerator
    utilisation: float = UTILISATION

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.accelerator.per_node)


_KEYS = {
    "gpus": "number of accelerators",
    "utilisation": "fraction of the peak FLOP/s, over 0 and at most 1",
    "per_node": "accelerators per node",
    "network": "GB/s per accelerator between nodes",
    "memory": "GB of memory per accelerator",
}


def parse_request(text: str) -> Request:
    """The request that a list such as `gpus=256,h100` describes. DiagnosticError E0740."""
    values: dict[str, float] = {"gpus": 8, "utilisation": UTILISATION}
    named: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        key, equals, value = word.partition("=")
        if not equals:
            named.append(_known(word.lower(), "accelerator", ACCELERATORS))
        else:
            values[_known(key, "setting", _KEYS)] = _number(key, value)
    if len(named) != 1:
        raise _wrong(f"the plan must name one accelerator, not {len(named)}: {text!r}")
    device = ACCELERATORS[named[0]]
    scales: dict[str, Callable[[float], float]] = {
        "per_node": int,
        "network": lambda gigabytes: gigabytes * 1e9,
        "memory": lambda gigabytes: gigabytes * 1e9,
    }
    changed = {key: scale(values[key]) for key, scale in scales.items() if key in values}
    return Request(int(values["gpus"]), replace(device, **changed), values["utilisation"])  # type: ignore[arg-type]


def _known(word: str, what: str, known: dict[str, Accelerator] | dict[str, str]) -> str:
    if word in known:
        return word
    mend = did_you_mean(word, known, f"known: {', '.join(known)}")
    raise _wrong(f"no such {what}: {word!r}", mend)


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = key in ("gpus", "per_node")
    most = 1.0 if key == "utilisation" else 1e6
    if not 0 < value <= most or (whole and value != int(value)):
        raise _wrong(f"{key}={text}: expected the {_KEYS[key]}")
    return value


def _wrong(message: str, mend: str | None = None) -> DiagnosticError:
    return DiagnosticError.of("E0740", message, help=mend or "write, for example, --plan gpus=256,h100")
