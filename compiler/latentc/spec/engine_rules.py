"""Rules of the section `target`: the engine must support what is asked of it (`latentc.engines`)."""

from __future__ import annotations

from collections.abc import Iterator

from latentc.engines import ENGINES
from latentc.spec.problem import Problem, Rule
from latentc.spec.schema import Spec
from latentc.spec.yaml import PathKey


def precision_of_the_engine(spec: Spec) -> Iterator[Problem]:
    """The engine supports the precision."""
    engine, precision = spec.target.engine, spec.target.precision
    known = ENGINES[engine].precisions
    if precision not in known:
        others = [name for name, row in ENGINES.items() if precision in row.precisions]
        mend = f"use {' or '.join(known)}, or the engine {' or '.join(others)}"
        message = f"engine `{engine}` does not support precision {precision}"
        yield Problem("E0307", ("target", "precision"), message, help=mend)


def experts_of_the_engine(spec: Spec) -> Iterator[Problem]:
    """Sparse experts have data-dependent shapes, which few engines take."""
    target = spec.target
    if spec.optimize.experts == "sparse" and target.precision not in ENGINES[target.engine].sparse_experts:
        message = f"`{target.engine}` in {target.precision} does not support sparse experts"
        yield Problem(
            "E0305", ("optimize", "experts"), message, help="use `auto`, or `dense`, which gives the same results"
        )


def kv_tile_of_the_engine(spec: Spec) -> Iterator[Problem]:
    """Only token samplers have caches, and only some engines gain from growing them in blocks."""
    block, target = spec.optimize.kv_tile, spec.target
    if block is None or block == 1:
        return
    if spec.data.tokens is None:
        message = "only samplers of tokens have key-value caches"
    elif not ENGINES[target.engine].kv_tiling:
        message = f"`{target.engine}` is not faster with caches in blocks"
    elif target.form not in ("auto", "loop"):
        message = f"in form `{target.form}` no loop of the engine copies its caches, so blocks gain nothing"
    else:
        return
    yield Problem("E0305", ("optimize", "kv_tile"), message, help="leave `kv_tile` out")


def scheme_of_the_engine(spec: Spec) -> Iterator[Problem]:
    """The engine can run layers quantised by this scheme."""
    if spec.optimize.quantize is None:
        return
    scheme, target, path = spec.optimize.quantize.scheme, spec.target, ("optimize", "quantize", "scheme")
    engine = ENGINES[target.engine]
    fitting = engine.quantised.schemes
    if scheme not in fitting:
        others = [name for name, row in ENGINES.items() if scheme in row.quantised.schemes]
        mend = f"use {' or '.join(fitting)}, or the engine {' or '.join(others)}"
        yield Problem("E0310", path, f"engine `{target.engine}` does not support {scheme}", help=mend)
        return
    if target.precision not in fitting[scheme]:
        message = f"{scheme} on `{target.engine}` does not support precision {target.precision}"
        mend = f"set `target.precision` to {' or '.join(fitting[scheme])}"
        where: tuple[tuple[PathKey, str], ...] = ((("target",), f"{target.precision} here"),)
        yield Problem("E0310", path, message, labels=where if spec.span("target") else (), help=mend)
    for i, capability in enumerate(target.capabilities):
        if scheme == "fp8" and engine.plans and int(capability.removeprefix("sm")) < engine.plans.least_fp8:
            message = f"{capability} does not support fp8"
            mend = f"use `scheme: int8`, or GPUs from sm{engine.plans.least_fp8} on"
            yield Problem("E0310", ("target", "capabilities", i), message, help=mend)
    if scheme == "int4_weights" and not engine.quantised.operators and target.opset < 21:
        yield Problem(
            "E0310", ("target", "opset"), f"opset {target.opset} has no 4-bit integers", help="use 21 or more"
        )
    if spec.optimize.quantize.smooth is not None and scheme.endswith("_weights"):
        message = f"{scheme} does not quantise activations, so there is nothing to smooth"
        yield Problem("E0310", ("optimize", "quantize", "smooth"), message, help="leave `smooth` out")


def plans_of_the_engine(spec: Spec) -> Iterator[Problem]:
    """Plan options are given only for engines that take them, and are consistent."""
    target = spec.target
    given = {name: getattr(target, name) for name in ("capabilities", "profiles")}
    given |= {name: getattr(target, name) for name in ("version_compatible", "hardware_compatible", "strip_weights")}
    plans = ENGINES[target.engine].plans
    for name in (name for name, value in given.items() if value):
        fitting = [n for n, row in ENGINES.items() if row.plans is not None and name not in row.plans.refused]
        mend = f"leave it out, or set `engine: {'` or `'.join(fitting)}`"
        if plans is None:
            yield Problem("E0308", ("target", name), f"engine `{target.engine}` builds no plans", help=mend)
        elif name in plans.refused:
            message = f"`{target.engine}` does not take `{name}`: {plans.refused[name]}"
            yield Problem("E0308", ("target", name), message, help=mend)
    for i, profile in enumerate(target.profiles):
        if not profile.min <= profile.opt <= profile.max:
            message = f"the batch sizes of the profile ({profile.min}, {profile.opt}, {profile.max}) are not in order"
            yield Problem("E0308", ("target", "profiles", i), message, help="give them such that min ≤ opt ≤ max")


ENGINE_RULES: tuple[Rule, ...] = (
    precision_of_the_engine,
    experts_of_the_engine,
    kv_tile_of_the_engine,
    scheme_of_the_engine,
    plans_of_the_engine,
)
