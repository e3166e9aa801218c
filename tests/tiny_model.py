"""A transformer of one block for digits, small enough to compile in a test, and weights for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentc.checkpoint import computed, network_params
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

# A spec but for its objective and its sampler.
HEAD = """\
latentc: 1
name: tiny
data: {kind: digits}
backbone:
  kind: patch_transformer
  width: 16
  depth: 1
  patch: 4
  positions: {kind: sincos_2d}
  block:
    mixer: {kind: attention, heads: 2}
    feed_forward: {kind: gelu_mlp, ratio: 2}
    norm: {kind: layer_norm}
    condition: {kind: adaln_zero}
conditioning: {class: {kind: label}, time: {kind: timestep, frequencies: 16}}
"""


def write_random_weights(spec: Path, file: Path, std: float) -> None:
    """Normal numbers for every weight of the spec's networks; of several, their names come first."""
    lowered = lower(load_spec(spec))
    rng = np.random.default_rng(0)
    tensors = {}
    for network in lowered.networks.values():
        prefix = f"{network.name}." if len(lowered.networks) > 1 else ""
        for name, param in network_params(lowered, network).items():
            if not computed(param):
                shape = [int(d) for d in param.type.shape]  # type: ignore[arg-type]
                values = std * rng.standard_normal(shape)
                if name.endswith("running_var"):
                    values = np.abs(values) + 0.5
                tensors[prefix + name] = Array(values.astype(np.float32))
    write_safetensors(file, tensors)
