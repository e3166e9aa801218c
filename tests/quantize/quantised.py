"""Small networks of random weights to quantise: every shipped spec shrunk, lowered, with weights by whole path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from latentc.checkpoint import buffer, computed, network_params
from latentc.components.contract import Lowered
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.quantize.model import Model
from latentc.spec import Spec, load_spec
from latentc.weights import Array, Expr, write_safetensors

_SMALL = ("backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2")
_IMAGES = ("data.shape=[4, 8, 8]", "data.classes=5", "sampler.steps=5")
_TOKENS = "data={kind: npz, classes: 5, tokens: {vocabulary: 11, grid: [4, 4]}}"

SHRUNK: dict[str, tuple[str, ...]] = {
    "digits_dit": (*_SMALL, "sampler.steps=5"),
    "dit": (*_SMALL, *_IMAGES),
    "sit": (*_SMALL, *_IMAGES),
    "digits_llamagen": _SMALL,
    "llamagen": (*_SMALL, _TOKENS),
    "dit_moe": (*_SMALL, *_IMAGES, "backbone.block.feed_forward.experts=4"),
    "t_stitch": (
        *_IMAGES,
        *(f"networks.main.{text.removeprefix('backbone.')}" for text in _SMALL),
        *("networks.small.width=16", "networks.small.depth=1", "networks.small.block.mixer.heads=2"),
    ),
    "digits_givt": (
        *("backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2"),
        *("backbone.mixture.components=2", "sampler.proposals=4"),
    ),
}
QUICK = "calibration: {samples: 3, steps: 3, classes: 2}"


@dataclass(frozen=True)
class Small:
    """A shrunk spec: its name, `--set` texts, and its weights by whole path, buffers aside."""

    name: str
    overrides: tuple[str, ...]
    spec: Spec
    lowered: Lowered
    arrays: dict[str, np.ndarray]

    @property
    def weights(self) -> dict[str, Expr]:
        made: dict[str, Expr] = {path: Array(array) for path, array in self.arrays.items()}
        for name, network in self.lowered.networks.items():
            params = network_params(self.lowered, network)
            made |= {f"{name}.{path}": buffer(param) for path, param in params.items() if computed(param)}
        return made

    @property
    def model(self) -> Model:
        return Model(self.lowered, self.spec, self.weights)

    def file(self, folder: Path) -> Path:
        """The weights of its one network as a file that commands take."""
        path = folder / f"{self.name}.safetensors"
        write_safetensors(path, {name.removeprefix("main."): Array(array) for name, array in self.arrays.items()})
        return path


@cache
def small(name: str, quantize: str = "{scheme: int8}", more: Sequence[str] = ()) -> Small:
    """A shipped spec shrunk, with `optimize.quantize`; weights are their initial values with noise on top."""
    asked = quantize if "calibration" in quantize else f"{quantize[:-1]}, {QUICK}}}"
    overrides = (*SHRUNK[name], f"optimize.quantize={asked}", *more)
    spec = load_spec(name, None, overrides)
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    arrays = {}
    for network in lowered.networks.values():
        for path, param in parameters(lowered.module, network.methods["forward"].function).items():
            shape = tuple(int(d) for d in param.type.shape)
            if param.kind == "weight":
                value = INITS[param.init.kind](rng, shape, **param.init.args) + 0.05 * rng.standard_normal(shape)
                arrays[f"{network.name}.{path}"] = value.astype(np.float32)
    return Small(name, overrides, spec, lowered, arrays)
