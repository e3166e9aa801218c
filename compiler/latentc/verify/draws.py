"""Weights, data and operands drawn at random, to compare what no bundle holds: losses, and methods of any network.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from latentc.checkpoint import buffer, computed, network_params
from latentc.components.contract import Lowered, Network, Port, Update
from latentc.components.fields import Field
from latentc.ir.inits import INITS
from latentc.ir.types import NUMPY, Sym, TensorType
from latentc.spec import Spec
from latentc.weights import materialise
from latentc_runtime.distributions import DISTRIBUTIONS, draw

Array = np.ndarray

LEVELS = 255
"""Steps between the ends of a field's range: data are whole levels, so that no rounding moves one to the next."""

STEP = 1000
"""The training step that losses are given: after every warm-up that is shorter."""


def drawn_weights(lowered: Lowered, network: Network, rng: np.random.Generator) -> dict[str, Array]:
    """Initial weights with noise, f32 by path, so that gates which begin at zero hide nothing; buffers are computed."""
    found = {}
    for path, param in network_params(lowered, network).items():
        if computed(param):
            found[path] = np.asarray(materialise(buffer(param)))
            continue
        shape = tuple(int(d) for d in param.type.shape)  # type: ignore[arg-type]
        value = INITS[param.init.kind](rng, shape, **param.init.args)
        if param.type.is_float and param.kind != "buffer":
            # Small beside one, and small enough that a layer of any width keeps the size of its input.
            value = value + min(0.05, 0.5 / math.sqrt(max(math.prod(shape[1:]), 1))) * rng.standard_normal(shape)
        found[path] = np.asarray(value).astype(NUMPY[param.type.dtype])
    return found


def drawn_loss_inputs(spec: Spec, lowered: Lowered, update: Update, batch: int, seed: int) -> dict[str, Array]:
    """The inputs of a loss by name: fields of `batch` samples, and its own draws as training makes them."""
    inputs = lowered.module.entry(update.loss).inputs
    seeds, rng = np.arange(seed, seed + batch, dtype=np.uint64), np.random.default_rng(seed)
    draws = {d.name: d for d in update.draws}
    found: dict[str, Array] = {}
    for value in inputs:
        if value.name in draws:
            how = draws[value.name]
            shape = [int(d) for d in value.type.shape[1:]]  # type: ignore[arg-type]
            made = draw(how.distribution, seeds, f"loss {value.name}", shape, **how.parameters)
            found[value.name] = made.astype(NUMPY[value.type.dtype])
        elif value.name in ("round", "training_step"):
            found[value.name] = np.asarray(0 if value.name == "round" else STEP)
        else:
            field = spec.data.fields.get(value.name)
            values = None if field is not None else _modelled_values(spec)
            found[value.name] = _drawn_field(value.type, field, values, batch, rng)
    return found


def _modelled_values(spec: Spec) -> int | None:
    """Number of values of what the networks model, for samples that they drew; None for numbers."""
    return spec.data.tokens.vocabulary if spec.data.tokens is not None else None


def _drawn_field(
    type: TensorType, field: Field | None, values: int | None, batch: int, rng: np.random.Generator
) -> Array:
    shape = _shape(type, batch)
    if type.dtype == "bool":
        return _mask(shape, rng)
    if not type.is_float:
        many = (field.classes if field is not None else values) or 2
        return rng.integers(0, many, shape)
    if field is not None and field.range is not None:
        low, high = field.range
        return (low + (high - low) * rng.integers(0, LEVELS + 1, shape) / LEVELS).astype(np.float32)
    if len(shape) == 1:
        return rng.uniform(0.05, 0.95, shape).astype(np.float32)  # a score
    return rng.standard_normal(shape).astype(np.float32)


def drawn_operands(ports: tuple[Port, ...], batch: int, rng: np.random.Generator) -> list[Array]:
    """Operands of a method that nothing calls, by the roles and values of its ports."""
    return [_drawn_operand(port, batch, rng) for port in ports]


def _drawn_operand(port: Port, batch: int, rng: np.random.Generator) -> Array:
    shape = _shape(port.type, batch)
    if port.type.dtype == "bool":
        return _mask(shape, rng)
    if not port.type.is_float:
        if port.role == "position" and len(shape) == 2:
            return np.stack([rng.permutation(shape[1]) for _ in range(shape[0])])
        return rng.integers(0, (port.values or 2) - (port.null is not None), shape)
    if port.role == "time":
        return rng.uniform(0.1, 0.9, shape).astype(np.float32)
    if port.role == "mask":
        return _mask(shape, rng).astype(np.float32)
    if port.distribution is not None:
        low, high = DISTRIBUTIONS[port.distribution].bounds({})
        if (low, high) == (0.0, 1.0):
            return rng.uniform(0.01, 0.99, shape).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Random bits; the first of each sample is true, so that none is empty."""
    mask = rng.random(shape) < 0.6
    mask[..., :1] = True
    return mask


def _shape(type: TensorType, batch: int) -> tuple[int, ...]:
    return tuple(batch * d.factor if isinstance(d, Sym) else int(d) for d in type.shape)


def as_paths(weights: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """{`network.path`: array} of {network: {path: array}}."""
    return {f"{name}.{path}": array for name, own in weights.items() for path, array in own.items()}
