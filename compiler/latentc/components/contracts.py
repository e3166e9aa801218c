"""Checks of what components are and build, by what capabilities promise and base classes ask for."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from latentc.components import mistakes, packages
from latentc.components.capabilities import CAPABILITIES, Capability, Role
from latentc.components.contract import Method, Network, Port, Program, Update
from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.ir.builder import ModuleBuilder
from latentc_runtime.distributions import DISTRIBUTIONS

if TYPE_CHECKING:
    from latentc.components import Component


def known() -> Mapping[Capability, Mapping[str, Any]]:
    """Every capability, of the core and of packages: its words and its methods."""
    return {**CAPABILITIES, **packages.capabilities()}


def words(capability: Capability) -> str:
    """Verb phrase for a network of this capability, as diagnostics print it."""
    return _found(capability)["words"]


def promised(capability: Capability) -> Mapping[str, str]:
    """The methods of a capability, with their ports. KeyError if there is no such capability."""
    return _found(capability)["methods"]


def _found(capability: Capability) -> Mapping[str, Any]:
    return CAPABILITIES[capability] if _is_core(capability) else packages.capabilities()[capability]


def _is_core(capability: Capability) -> bool:
    return capability in CAPABILITIES  # asked first: naming a package's imports every package


def _exists(capability: Capability) -> bool:
    return _is_core(capability) or capability in packages.capabilities()


def check_built(made: Any, part: Component, name: str) -> None:
    """DiagnosticError E0904 if what a component built is no network called `name`."""
    cls = type(part)
    if not isinstance(made, Network):
        raise _broken(cls, f"its `build` returned {_a(made)}", "a `latentc.components.contract.Network`", "build")
    if made.name != name:
        raise _broken(cls, f"its network is called `{made.name}`", f"the name that `build` is given, `{name}`", "build")


def check_network(made: Network, part: Component, mb: ModuleBuilder) -> None:
    """DiagnosticError E0904 if a network, once it is whole, lacks what its capabilities promise."""
    cls = type(part)
    if not made.methods:
        raise _broken(cls, "its network has no methods", "one at least", "build")
    for key, method in made.methods.items():
        _check_method(cls, key, method, mb)
    for capability in sorted(made.provides):
        if not _exists(capability):
            raise _unknown(cls, capability)
        for wanted, ports in promised(capability).items():
            _check_promise(cls, made, capability, wanted, ports)


def _check_method(cls: type, key: str, method: Any, mb: ModuleBuilder) -> None:
    if not isinstance(method, Method):
        raise _broken(cls, f"its method `{key}` is {_a(method)}", "a `Method`, as `add_method` returns it", "build")
    if method.function not in mb.functions:
        raise _broken(cls, f"its method `{key}` names no function of the module", "one that `add_method` adds", "build")
    for port in (*method.inputs, *method.outputs):
        if not isinstance(port, Port):
            raise _broken(cls, f"a port of its method `{key}` is {_a(port)}", "a `Port`", "build")
        if port.role not in get_args(Role):
            mend = did_you_mean(str(port.role), get_args(Role), f"roles: {', '.join(get_args(Role))}")
            text = f"port `{port.name}` of its method `{key}` has the role `{port.role}`"
            raise _broken(cls, text, "a role of `latentc.components.capabilities.Role`", "build", mend)


def _check_promise(cls: type, network: Network, capability: str, wanted: str, ports: str) -> None:
    """One promised method."""
    pattern = wanted.removesuffix("?")
    names = [m for m in network.methods if re.fullmatch(re.escape(pattern).replace(r"\#", r"\d+"), m)]
    asked = f"`{capability}` promises `{pattern.replace('#', '0')}`: {ports}"
    if not names and not wanted.endswith("?"):
        has = ", ".join(f"`{name}`" for name in network.methods)
        raise _broken(cls, f"it provides `{capability}`, but its network has the methods {has}", asked, "build")
    inputs, _, outputs = ports.partition("->")
    for name in names:
        method = network.methods[name]
        for given, rule, side in ((method.inputs, inputs, "inputs"), (method.outputs, outputs, "outputs")):
            if not _fits([port.role for port in given], rule):
                roles = ", ".join(f"`{port.name}` ({port.role})" for port in given) or "none"
                raise _broken(cls, f"its method `{name}` has the {side} {roles}", asked, "build")


def _fits(roles: list[Role], rule: str) -> bool:
    """Whether ports have the roles that a rule asks for, in any order."""
    least, most = _bounds(rule)
    counts = Counter[str](roles)
    return all(least[r] <= counts[r] <= most.get(r, 0) for r in {*counts, *least, *most})


@cache
def _bounds(rule: str) -> tuple[Counter[str], dict[str, float]]:
    least, most = Counter[str](), dict[str, float]()
    for word in rule.split():
        role = word.rstrip("?*+")
        least[role] += not word.endswith(("?", "*"))
        most[role] = most.get(role, 0) + (float("inf") if word.endswith(("*", "+")) else 1)
    return least, most


def check_need(part: Component, capability: str) -> None:
    """DiagnosticError E0904 if an objective or sampler needs a capability that does not exist."""
    if not _exists(capability):
        mend = did_you_mean(capability, known(), "`latentc.components.capabilities` lists them")
        asked = "a capability of latentc, or one that a package defines"
        raise _broken(type(part), f"it needs `{capability}`, which is no capability", asked, "needs", mend)


def check_updates(made: Any, part: Component, networks: Mapping[str, Network], mb: ModuleBuilder) -> None:
    """DiagnosticError E0904 if what an objective built are not updates of a loss that the module has."""
    cls = type(part)
    if not isinstance(made, tuple) or not made or not all(isinstance(update, Update) for update in made):
        raise _broken(cls, f"its `build` returned {_a(made)}", "a tuple of `Update`s, one at least", "build")
    for update in made:
        if update.loss not in mb.entries:
            text = f"its loss `{update.loss}` is no entry of the module"
            raise _broken(cls, text, f"mb.entries[{update.loss!r}]", "build")
        if missing := [name for name in update.networks if name not in networks]:
            known_ones = ", ".join(networks)
            raise _broken(cls, f"it trains network `{missing[0]}`", f"one of the spec's: {known_ones}", "build")
        for draw in update.draws:
            if draw.distribution not in DISTRIBUTIONS:
                mend = did_you_mean(draw.distribution, DISTRIBUTIONS, f"distributions: {', '.join(DISTRIBUTIONS)}")
                text = f"its draw `{draw.name}` has the distribution `{draw.distribution}`"
                raise _broken(cls, text, "one of `latentc_runtime.distributions`", "build", mend)
        fn = mb.functions[mb.entries[update.loss]]
        named = {*update.batch, *(draw.name for draw in update.draws)}
        inputs = [value.name for value in fn.inputs if value.name not in ("training_step", "round")]
        if update.rollout is None and (lacking := [name for name in inputs if name not in named]):
            text = f"its loss has the input `{lacking[0]}`"
            raise _broken(cls, text, "each input in `batch`, the fields of the data, or in `draws`", "build")
        if update.metrics and len(update.metrics) != len(fn.outputs):
            text = f"its loss has {len(fn.outputs)} outputs and {len(update.metrics)} names of metrics"
            raise _broken(cls, text, "a name for each output", "build")


def check_programs(made: Any, part: Component, mb: ModuleBuilder) -> None:
    """DiagnosticError E0904 if what a sampler built are not programs of the module, with a source for each input."""
    cls = type(part)
    if not isinstance(made, tuple) or not made or not all(isinstance(program, Program) for program in made):
        raise _broken(cls, f"it built {_a(made)}", "a `Program`, or a tuple of them from `programs`", "build")
    for program in made:
        if program.entry not in mb.entries:
            text = f"its program `{program.entry}` is no entry of the module"
            raise _broken(cls, text, f"mb.entries[{program.entry!r}]", "build")
        inputs = [value.name for value in mb.functions[mb.entries[program.entry]].inputs]
        if lacking := [name for name in inputs if name not in program.sources]:
            text = f"its program has the input `{lacking[0]}` without a source"
            raise _broken(cls, text, "an entry of `sources` for each input", "build")


def check_class(cls: type[Component]) -> None:
    """DiagnosticError E0904 if a component's class of a user's package is not what its base asks for."""
    for name in sorted(getattr(cls, "__class_vars__", ())):
        if not hasattr(cls, name):
            base = next(b for b in cls.__mro__ if name in getattr(b, "__annotations__", {}))
            raise _broken(cls, f"it does not set `{name}`", f"`{base.__name__}` needs it", None)
    provides: Any = next((vars(b)["PROVIDES"] for b in cls.__mro__ if "PROVIDES" in vars(b)), frozenset())
    if not isinstance(provides, frozenset | set):
        raise _broken(cls, f"PROVIDES is {_a(provides)}", 'a set of capabilities: frozenset({"denoise"})', None)
    for capability in sorted(map(str, provides)):
        if capability not in known():
            raise _unknown(cls, capability)
    for name, own, base in _overridden(cls):
        if (fault := _unlike(own, vars(base)[name])) is not None:
            raise _broken(cls, f"its `{name}` {fault}", f"{mistakes.described(base, name)} ({base.__name__})", name)
    if getattr(cls, "__abstractmethods__", None):
        return  # reported where a spec names it
    try:
        cls.example()
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        text = f"its EXAMPLE {cls.EXAMPLE} is not valid: {place}: {error.errors()[0]['msg']}"
        raise _broken(cls, text, 'a small spec of the component: {"kind": …}', None) from None


def _overridden(cls: type) -> Iterator[tuple[str, Any, type]]:
    """The methods and properties of a class that one of latentc's classes has too, with that class."""
    for name, own in vars(cls).items():
        base = next((b for b in cls.__mro__[1:] if name in vars(b) and b.__module__.startswith("latentc.")), None)
        if base is not None and base is not BaseModel and not name.startswith("__"):
            yield name, own, base


def _unlike(own: Any, asked: Any) -> str | None:
    """How an override cannot be used as what it overrides."""
    kinds = [isinstance(value, property) for value in (own, asked)]
    if kinds == [False, True] and inspect.isfunction(own):
        return "is a method, not a property"
    if kinds == [True, False] and inspect.isfunction(asked):
        return "is a property, not a method"
    functions = [getattr(value, "__func__", value) for value in (own, asked)]
    if not all(inspect.isfunction(function) for function in functions):
        return None
    mine, theirs = (inspect.signature(function) for function in functions)
    positional = [p for p in theirs.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = [p for p in positional if p.default is p.empty]
    needed = {p.name: None for p in theirs.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    try:
        mine.bind(*[None] * len(least), **needed)
    except TypeError as error:
        return f"takes `{mine}`: {error}".replace("'", "`")
    return None


def _unknown(cls: type, capability: str) -> DiagnosticError:
    mend = did_you_mean(capability, known(), "`latentc.components.capabilities` lists them")
    asked = "a capability of latentc, or one that a package defines"
    return _broken(cls, f"it provides `{capability}`, which is no capability", asked, None, mend)


def _a(value: Any) -> str:
    """A value, in words."""
    short = value is None or (isinstance(value, str | int | float | tuple) and len(repr(value)) < 60)
    return repr(value) if short else f"a {type(value).__name__}"


def _broken(cls: type, got: str, asked: str, place: str | None, mend: str | None = None) -> DiagnosticError:
    """The diagnostic of a contract that a class does not keep, at a method of it or at its first line."""
    found: Callable[..., Any] | type = vars(cls).get(place, cls) if place else cls
    own = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    notes = (f"asked for: {asked}",)
    return DiagnosticError.of("E0904", f"{mistakes.named(cls)}: {got}", mistakes.span_of(own), notes=notes, help=mend)
