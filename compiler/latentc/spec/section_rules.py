"""Rules of the sections `optimize` and `target`, and the result of a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from latentc.components.sampler import Sampler
from latentc.engines import ENGINES, Engine
from latentc.spec.schema import Spec
from latentc.spec.yaml import PathKey


@dataclass(frozen=True)
class Problem:
    """A mismatch between sections, shown at `path`; `labels` {further path: text}."""

    code: str
    path: PathKey
    message: str
    label: str = ""
    labels: tuple[tuple[PathKey, str], ...] = ()
    help: str | None = None


Rule = Callable[[Spec], Iterator[Problem]]


def _evaluates_steps(spec: Spec) -> bool:
    """True if the spec has no sampler, or one that goes from noise to data in steps."""
    sampler = spec.sampler
    return not isinstance(sampler, Sampler) or any(need.capability == "denoise" for need in sampler.needs(spec))


def stitched_network_is_another(spec: Spec) -> Iterator[Problem]:
    """The network of the first steps exists, and the sampler goes from noise to data in steps."""
    stitch = spec.optimize.stitch
    if stitch is None:
        return
    others = [name for name in spec.networks if name != "main"]
    if stitch.network not in others:
        what = "`main` runs the other steps" if stitch.network == "main" else f"no network `{stitch.network}`"
        mend = f"name one of {', '.join(others)}" if others else "add one to `networks`: `small: {kind: …}`"
        yield Problem("E0309", ("optimize", "stitch", "network"), what, help=mend)
    if "main" not in spec.networks:
        yield Problem("E0309", ("optimize", "stitch"), "there is no network `main` to take over from it")
    if isinstance(spec.sampler, Sampler) and not _evaluates_steps(spec):
        message = f"the sampler `{spec.sampler.kind}` does not step from noise to data"
        yield Problem("E0309", ("optimize", "stitch"), message, help="leave `stitch` out")


def cached_steps_are_there(spec: Spec) -> Iterator[Problem]:
    """The sampler goes from noise to data in steps and has the cached ones. Lowering checks the blocks."""
    cache = spec.optimize.cache
    if cache is None:
        return
    path: PathKey = ("optimize", "cache")
    sampler = spec.sampler
    if isinstance(sampler, Sampler) and not _evaluates_steps(spec):
        message = f"the sampler `{sampler.kind}` does not step from noise to data"
        yield Problem("E0311", path, message, help="leave `cache` out: token samplers already cache keys and values")
    for i, step in enumerate(cache.steps or ()):
        if not 0 <= step < (count := getattr(sampler, "steps", step + 1)):
            message = f"step {step} is out of range: the sampler has steps 0 to {count - 1}"
            yield Problem("E0311", (*path, "steps", i), message)


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
        least = _least_capability(scheme, engine)
        if int(capability.removeprefix("sm")) < least:
            message = f"{capability} does not support {scheme}"
            mend = (
                f"use `scheme: {'int4_weights' if scheme.endswith('_weights') else 'int8'}`, or GPUs from sm{least} on"
            )
            yield Problem("E0310", ("target", "capabilities", i), message, help=mend)
    what, first = _OPSETS.get(scheme, ("", 0))
    if scheme == "mxfp4_weights" and not engine.quantised.powers_as_scales:
        what, first = _OPSETS["nvfp4_weights"]
    if not engine.quantised.operators and target.opset < first:
        message = f"opset {target.opset} has no {what}"
        yield Problem("E0310", ("target", "opset"), message, help=f"use {first} or more")
    if spec.optimize.quantize.smooth is not None and scheme.endswith("_weights"):
        message = f"{scheme} does not quantise activations, so there is nothing to smooth"
        yield Problem("E0310", ("optimize", "quantize", "smooth"), message, help="leave `smooth` out")


# {scheme: what it stores, and the first opset that has it}
_OPSETS = {
    "int4_weights": ("4-bit integers", 21),
    "nvfp4": ("4-bit floats", 23),
    "nvfp4_weights": ("4-bit floats", 23),
    "mxfp4_weights": ("scales that are powers of two (float8 e8m0)", 24),
}


def _least_capability(scheme: str, engine: Engine) -> int:
    """The first compute capability that has the scheme's numbers; 0 if all do."""
    if engine.plans is None or "fp" not in scheme:
        return 0
    return engine.plans.least_fp8 if scheme == "fp8" else engine.plans.least_fp4


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


SECTION_RULES: tuple[Rule, ...] = (
    stitched_network_is_another,
    cached_steps_are_there,
    precision_of_the_engine,
    experts_of_the_engine,
    kv_tile_of_the_engine,
    scheme_of_the_engine,
    plans_of_the_engine,
)
