"""Every size that config.yaml offers can be changed by itself: the emitted networks are built and called at others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import loaded, side_file

from latentc.emit.model import model_file
from latentc.emit.numbered import method_of
from latentc.emit.project import offered_sizes
from latentc.ir.core import Function
from latentc.ir.sizes import evaluate
from latentc.ir.types import Named, Sym
from latentc.lower import lower
from latentc.spec import load_spec

DTYPES = {"f32": torch.float32, "i64": torch.int64, "bool": torch.bool}
MOST = 300  # shapes of inputs that are tried; a port's sizes have no names

Sizes = Mapping[str, int]


def others(size: int) -> Iterator[int]:
    """Values to try in place of a size; some sizes must be even, or divide others."""
    return (n for n in (2 * size, 3 * size, size // 2, 4 * size) if n != size and n > 0)


def shapes(fn: Function, sizes: Sizes, changed: Sizes) -> Iterator[list[list[int]]]:
    """Shapes of a method's inputs after a size has changed: those whose dimensions are named, then likely others."""
    ((old, new),) = [(sizes[n], changed[n]) for n in sizes if sizes[n] != changed[n]]
    dims = [dim for value in fn.inputs for dim in value.type.shape]
    known = [2 * dim.factor if isinstance(dim, Sym) else _evaluated(dim, sizes, changed) for dim in dims]
    unknown = [int(dim) for dim, now in zip(dims, known, strict=True) if now is None]
    equal = sorted(set(unknown))
    for group in (equal, unknown):  # equal dimensions change together, or each by itself
        choices = [_likely(dim, old, new) for dim in group]
        for values in itertools.islice(_changes(group, choices), MOST):
            rest = iter([dict(zip(equal, values, strict=True))[dim] for dim in unknown] if group is equal else values)
            now = iter([next(rest) if dim is None else dim for dim in known])
            yield [[next(now) for _ in value.type.shape] for value in fn.inputs]


def _changes(group: list[int], choices: list[list[int]]) -> Iterator[list[int]]:
    """Values of some dimensions: none changed, then one, two and three of them."""
    for count in range(4):
        for places in itertools.combinations(range(len(group)), count):
            for values in itertools.product(*(choices[at] for at in places)):
                changed = dict(zip(places, values, strict=True))
                yield [changed.get(at, dim) for at, dim in enumerate(group)]


def _likely(dim: int, old: int, new: int) -> list[int]:
    scales = ((new, old), (new**2, old**2), (old, new), (old**2, new**2), (2 * new, 2 * old))
    found = [dim * a // b for a, b in scales if dim * a % b == 0]
    return list(dict.fromkeys(n for n in (*found, dim + new - old) if n > 0 and n != dim))


def _evaluated(dim: Any, sizes: Sizes, changed: Sizes) -> int | None:
    """A named dimension after the change; None for others."""
    for expr in (dim.expr, dim.meaning) if isinstance(dim, Named) else ():
        try:
            if evaluate(expr, sizes) == dim:
                return int(evaluate(expr, changed))
        except KeyError:
            continue
    return None


def call(network: torch.nn.Module, fn: Function, sizes: Sizes, changed: Sizes) -> None:
    """Calls a method at some shape of its inputs. Raises the error of the first shape if it fails at all."""
    first: Exception | None = None
    for found in shapes(fn, sizes, changed):
        for fill in (0, 1):
            inputs = [torch.full(s, fill, dtype=DTYPES[v.type.dtype]) for s, v in zip(found, fn.inputs, strict=True)]
            try:
                method_of(network, fn.origin.method)(*inputs)  # type: ignore[union-attr]
                return
            except (RuntimeError, IndexError, ValueError) as error:
                first = first or error
    assert first is not None
    raise first


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_size_of_the_config_can_change(system: str) -> None:
    tiny = SYSTEMS[system]
    spec = load_spec(tiny.spec, tiny.variant, [*tiny.sizes])
    lowered = lower(spec)
    file = model_file(lowered)
    scope = loaded(file.text, **side_file(file.constants))
    offered, faults = offered_sizes(file, spec), list[str]()
    with torch.no_grad():
        for name, sizes in file.sizes.items():
            methods = [lowered.module.functions[f] for f in lowered.networks[name].functions]
            for size in offered[name]:
                found = dict[int, str]()
                for value in others(sizes[size]):
                    changed = {**sizes, size: value}
                    try:
                        network = scope["NETWORKS"][name](**changed).eval()
                        for fn in methods:
                            call(network, fn, sizes, changed)
                    except Exception as error:
                        found[value] = f"{type(error).__name__}: {error}"
                    else:
                        break
                else:
                    faults.append(f"{name}.{size} is {sizes[size]}: {found}")
    assert not faults, "\n".join(faults)
