"""Rules across sections: what each part allows by itself, but not together.

A rule takes the whole spec and yields problems. It may rely on what other rules check; `check_rules` runs them so that
a fault is still reported once and at its place. `RULES` at the end is the whole list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from latentc.components import Component, load
from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition, TimeEmbedding, prior_systems
from latentc.components.contract import Need
from latentc.components.contracts import check_need, words
from latentc.components.dataset import Data
from latentc.components.objective import Objective
from latentc.components.parts import Applies, Part
from latentc.components.read_fields import problems_of_encoded
from latentc.components.sampler import Sampler, Wrapper
from latentc.diagnostics import Diagnostic, DiagnosticError, Label, did_you_mean
from latentc.spec.named import ships
from latentc.spec.official import entry, shipped_entries
from latentc.spec.schema import Spec
from latentc.spec.section_rules import SECTION_RULES, Problem, Rule
from latentc.spec.yaml import Document, PathKey
from latentc.weights.hub import is_official
from latentc.weights.rules import fault_of


def check_rules(spec: Spec, document: Document) -> list[Diagnostic]:
    """Every rule's problems, as diagnostics at the places the spec was written.

    Parts compute sizes from data, conditions and networks that other rules check, so a fault that one rule reports can
    make another fail. Such a failure is dropped; it is raised only if no rule reports a problem.
    """
    found: dict[Diagnostic, None] = {}
    failures: list[Exception] = []
    of_parts: list[Rule] = [partial(part_fits, path=path, part=part) for path, part in _parts(spec, ())]
    for rule in (*RULES, *of_parts):
        try:
            for problem in rule(spec):
                found[_diagnostic(problem, document)] = None
        except DiagnosticError as error:
            found.update(dict.fromkeys(error.diagnostics))
        except Exception as failure:
            failures.append(failure)
    if failures and not found:
        raise failures[0]
    return list(found)


def _diagnostic(problem: Problem, document: Document) -> Diagnostic:
    span = document.span(problem.path)
    own = (Label(span, problem.label),) if problem.label else ()
    others = tuple(Label(document.span(path), text) for path, text in problem.labels)
    return Diagnostic(problem.code, problem.message, span, own + others, help=problem.help)


# ---- data


def shape_or_tokens(spec: Spec) -> Iterator[Problem]:
    """A network models either the field `x` or the field `tokens`."""
    data, fields = spec.data, spec.data.fields
    if "x" not in fields and "tokens" not in fields:
        message = "the data has neither `shape` nor `tokens`"
        yield Problem("E0301", ("data",), message, help="add `shape: [C, H, W]`, or `tokens:` for token data")
    if "x" in fields and "tokens" in fields:
        arrays, tokens = (_data_place(data, name) for name in ("x", "tokens"))
        message = "the data has both `shape` and `tokens`"
        help_text = "keep the one that the network sees"
        yield Problem("E0301", arrays, message, "arrays here", ((tokens, "tokens here"),), help_text)


def _data_place(data: Data, name: str) -> PathKey:
    """Where the field `x` or `tokens` is declared."""
    short = {"x": "shape", "tokens": "tokens"}[name]
    return ("data", "fields", name) if name in data.fields_ else ("data", short)


def first_stage_fits(spec: Spec) -> Iterator[Problem]:
    """The codes of the first stage are what the network models: latents `x`, or `tokens`.

    A spec without weights for the first stage may have other sizes; it then does not use the autoencoder.
    """
    stage, data = spec.first_stage, spec.data
    if stage is None or data.first_stage is None:
        return
    codes = stage.networks["main"].codes(stage)  # type: ignore[attr-defined]
    name, made, other = ("tokens", "tokens", "x") if codes.values else ("x", "latents", "tokens")
    place = ("data", "first_stage")
    if name not in data.fields:
        mends = {
            "x": "write `shape: [C, H, W]` of the latents instead of `tokens`",
            "tokens": "write `tokens: {vocabulary: …, grid: [h, w]}` instead of `shape`",
        }
        words, key = {"x": "arrays", "tokens": "tokens"}, {"x": "shape", "tokens": "tokens"}[other]
        labels = ((_data_place(data, other), f"{words[other]} here"),) if other in data.fields else ()
        message = f"`{data.first_stage.spec}` makes {made}, but the data has `{key}`"
        yield Problem("E0302", place, message, f"makes {made}", labels, mends[name])
        return
    shape = tuple(int(d) for d in codes.type.shape[1:])  # type: ignore[arg-type]
    field = data.fields[name]
    if data.first_stage.weights is not None and not spec.first_stage_fits:
        if name == "x":
            said = f"latents {list(shape)}, but the data has shape {list(field.shape)}"
            mend = f"write `shape: {list(shape)}`"
        else:
            said = f"tokens 0 to {(codes.values or 0) - 1}, but the data has a vocabulary of {field.classes}"
            mend = f"write `vocabulary: {codes.values}`"
        yield Problem("E0302", _data_place(data, name), f"`{data.first_stage.spec}` makes {said}", help=mend)


def computed_fields_fit(spec: Spec) -> Iterator[Problem]:
    """Networks can compute the data fields that name them."""
    for name, field in spec.data.fields.items():
        for found in problems_of_encoded(name, field, spec) if field.encoded_by is not None else ():
            yield Problem("E0305", ("data", *found.path), found.message, help=found.help)


# ---- train


def warmup_within_training(spec: Spec) -> Iterator[Problem]:
    """The warm-up ends before the training does."""
    warmup, steps = spec.train.schedule.warmup, spec.train.steps
    if warmup and warmup >= steps:
        yield Problem(
            "E0303",
            ("train", "schedule", "warmup"),
            f"the warm-up of {warmup} steps must be shorter than the training of {steps}",
            "otherwise the full learning rate is never reached",
            ((("train", "steps"), f"{steps} steps in all"),) if spec.span("train", "steps") else (),
        )


def accumulation_divides_batch(spec: Spec) -> Iterator[Problem]:
    """Every forward pass of an optimiser step has the same number of samples."""
    batch, accumulate = spec.train.batch_size, spec.train.accumulate
    if batch % accumulate:
        down = max(divisor for divisor in range(1, accumulate) if batch % divisor == 0)
        yield Problem(
            "E0304",
            ("train", "accumulate"),
            f"a batch of {batch} does not divide into {accumulate} equal parts",
            labels=((("train", "batch_size"), f"{batch} samples per step"),),
            help=f"the nearest number below that divides it is {down}",
        )


# ---- weights


def name_maps_are_sound(spec: Spec) -> Iterator[Problem]:
    """Every rule of a name map is well-formed and is for a network of the spec."""
    for flavour, networks in spec.weights.items():
        for network, rules in networks.items():
            path = ("weights", flavour, network)
            if network not in spec.networks:
                known = ", ".join(spec.networks)
                yield Problem("E0411", path, f"no network `{network}`", help=f"networks of this spec: {known}")
            for index, rule in enumerate(rules):
                if fault := fault_of(rule):
                    yield Problem("E0411", (*path, index), f"invalid rule in a name map: {fault}")


def checkpoints_are_known(spec: Spec) -> Iterator[Problem]:
    """Default weights are of networks of the spec, and follow name maps that it has."""
    for network, given in spec.checkpoints.items():
        if network not in spec.networks:
            known = ", ".join(spec.networks)
            yield Problem("E0415", ("checkpoints", network), f"no network `{network}`", help=f"networks: {known}")
        elif given.names is not None and network not in spec.weights.get(given.names, {}):
            message = f"the spec has no name map `{given.names}` for the network `{network}`"
            known = ", ".join(name for name, maps in spec.weights.items() if network in maps) or "none"
            place = ("checkpoints", network, "names")
            yield Problem("E0703", place, message, help=f"name maps of this network: {known}")


def official_checkpoints_are_known(spec: Spec) -> Iterator[Problem]:
    """Entries of `official` fit networks and name maps of the spec, and each `official:NAME` in it has an entry."""
    for name, given in spec.official_checkpoints.items():
        networks = [*spec.networks] if given.network is None else [given.network]
        if given.network is not None and given.network not in spec.networks:
            known = f"networks: {', '.join(spec.networks)}"
            yield Problem("E0415", ("official", name, "network"), f"no network `{given.network}`", help=known)
        elif given.names is not None and not {*networks} & {*spec.weights.get(given.names, {})}:
            message = f"the spec has no name map `{given.names}` for the network `{networks[0]}`"
            known = ", ".join(spec.weights) or "none"
            yield Problem("E0703", ("official", name, "names"), message, help=f"name maps of this spec: {known}")
        span = spec.span("official", name)
        own = span is None or not ships(Path(span.file))
        if own and (other := shipped_entries().get(name)) is not None and other.given != given:
            message = f"`{name}` is an official checkpoint of the shipped spec `{other.spec}`"
            yield Problem("E0427", ("official", name), message, help="choose another name")
    named: list[tuple[PathKey, str | None]] = [
        *((("checkpoints", network, "weights"), given.weights) for network, given in spec.checkpoints.items()),
        *((("networks", name, "pretrained"), getattr(own, "pretrained", None)) for name, own in spec.networks.items()),
    ]
    if spec.data.first_stage is not None:
        named.append((("data", "first_stage", "weights"), spec.data.first_stage.weights))
    for place, text in named:
        if text is not None and is_official(text):
            try:
                entry(text, spec)
            except DiagnosticError as error:
                (found,) = error.diagnostics
                yield Problem("E0427", place, found.message, help=found.help)


# ---- networks, conditioning, objective, sampler


def part_fits(spec: Spec, path: PathKey, part: Part) -> Iterator[Problem]:
    """The mismatches that the component at `path` reports itself."""
    priors = prior_systems(spec)
    of_conditions = dict(priors.values())
    seen = spec
    if path[:1] == ("networks",) and path[1] in priors:
        seen = priors[path[1]][1]
    elif path[:1] == ("conditioning",) and path[2:3] == ("prior",):
        seen = of_conditions[str(path[1])]
    for found in part.problems(seen):
        yield Problem("E0305", (*path, *found.path), found.message, help=found.help)
    yield from ignored_options(path, part)


def ignored_options(path: PathKey, part: Component) -> Iterator[Problem]:
    """Options of a component that differ from their defaults although they apply to nothing."""
    for name, (other, values) in _applies(type(part)).items():
        info, chosen = type(part).model_fields[name], getattr(part, other)
        if getattr(part, name) == info.get_default(call_default_factory=True):
            continue
        if bool(chosen) if values is None else chosen in values:
            continue
        key = info.alias or name
        needed = f"`{other}` is set" if values is None else f"`{other}` is {_words(values)}"
        shown = f", not {chosen}" if isinstance(chosen, str | int | float) else ""
        message = f"`{key}` applies only if {needed}{shown}"
        yield Problem("E0305", (*path, key), message, help=f"leave `{key}` out, or change `{other}`")


def _applies(cls: type) -> Applies:
    """Options of the class and its bases."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base).get("APPLIES", {})
    return found


def _words(values: tuple[Any, ...]) -> str:
    return " or ".join(f"{value}" for value in values)


def needs_are_met(spec: Spec) -> Iterator[Problem]:
    """The networks that the objective and the sampler need exist and provide the needed capabilities."""
    parts: list[tuple[PathKey, object]] = [(("objective",), spec.objective), (("sampler",), spec.sampler)]
    parts += [(("programs", i), program) for i, program in enumerate(spec.programs)]
    for place, part in parts:
        needs = part.needs(spec) if isinstance(part, Objective | Sampler | Wrapper) else ()
        whole = {(need.network, need.capability) for need in needs if not need.place}
        for need in needs:
            known = need.place and (need.network, need.capability) in whole  # reported as the component's own need
            yield from _unmet(spec, place, part, need, bool(known))


def _unmet(spec: Spec, place: PathKey, part: object, need: Need, known: bool) -> Iterator[Problem]:
    assert isinstance(part, Objective | Sampler | Wrapper)
    section, path = str(place[0]).removesuffix("s"), (*place, *need.place)
    check_need(part, need.capability)
    what = words(need.capability)
    wanted = f"{need.who or f'the {section} `{part.kind}`'} needs a network `{need.network}` that {what}"
    network = spec.networks.get(need.network)
    provided = network.provides(spec) if isinstance(network, Backbone) else frozenset()
    if need.capability in provided:
        assert isinstance(network, Backbone)
        yield from _missing_outputs(spec, section, path, need, network)
        return
    if known:
        return
    others = {n: other for n, other in spec.networks.items() if isinstance(other, Backbone)}
    able = [n for n, other in others.items() if need.capability in other.provides(spec)]
    kinds = [kind for kind, cls in load("networks").items() if need.capability in getattr(cls, "PROVIDES", ())]
    if network is None:
        near = f"call `{able[0]}` `{need.network}`" if able else f"add one to `networks`, of kind {' or '.join(kinds)}"
        if need.place:  # the need comes from a key, which names it
            near = f"name one of the networks, or add one, of kind {' or '.join(kinds)}"
        yield Problem("E0306", path, wanted, labels=((("networks",), "the networks"),), help=near)
        return
    does = " and ".join(words(c) for c in sorted(provided)) or "cannot do any of what objectives and samplers need"
    labels: tuple[tuple[PathKey, str], ...] = ((("networks", need.network), does),)
    fitting = _kinds_for(spec, section, need.network, provided)
    mend = f"{section}s for this network: {', '.join(fitting)}" if fitting else f"use a network {' or '.join(kinds)}"
    yield Problem("E0306", path, wanted, labels=labels, help=mend)


def _missing_outputs(spec: Spec, section: str, path: PathKey, need: Need, network: Backbone) -> Iterator[Problem]:
    """Outputs that are read but that the network does not have."""
    given = network.outputs(spec)
    for name in need.outputs:
        if name not in given:
            message = f"{need.who or f'the {section}'} reads the output `{name}` of network `{need.network}`"
            has = f"has the outputs {', '.join(given)}" if given else "has no named outputs"
            labels: tuple[tuple[PathKey, str], ...] = ((("networks", need.network), has),)
            mend = _key_that_offers(network, name, need.network)
            yield Problem("E0306", path, message, labels=labels, help=mend)


def _key_that_offers(network: Backbone, choice: str, name: str) -> str | None:
    """The remedy: the list in a network's section to which `choice` can be added, or the switch of that name."""
    for key, info in type(network).model_fields.items():
        if key == choice and info.annotation is bool:
            return f"set `networks.{name}.{key}: true`"
        if choice in get_args(next(iter(get_args(info.annotation)), None)):
            return f"add `{choice}` to `networks.{name}.{key}`"
    return None


def _kinds_for(spec: Spec, section: str, network: str, provided: frozenset[Capability]) -> list[str]:
    """The kinds of objectives or samplers whose needs of `network` it provides."""
    return [
        kind
        for kind, cls in load(f"{section}s").items()
        if any(need.network == network and need.capability in provided for need in _needs_of(cls, spec))
    ]


def _needs_of(cls: type[Component], spec: Spec) -> tuple[Need, ...]:
    """Needs of the example of an objective or sampler in this spec."""
    part = cls.example()
    return part.needs(spec) if isinstance(part, Objective | Sampler | Wrapper) else ()


def conditions_are_in_place(spec: Spec) -> Iterator[Problem]:
    """The time embedding is under `time`, and nothing else is."""
    for name, part in spec.conditioning.items():
        if isinstance(part, Condition | TimeEmbedding) and not _fits(type(part), name):
            fitting = ", ".join(kind for kind, cls in load("conditions").items() if _fits(cls, name))
            message = f"`{part.kind}` cannot be used under `conditioning.{name}`"
            yield Problem("E0306", ("conditioning", name), message, help=f"use one of {fitting}")
    for name, condition in spec.conditions.items():
        if isinstance(condition, Condition):
            for found in condition.problems_as(name, spec):
                yield Problem("E0305", ("conditioning", name, *found.path), found.message, help=found.help)


def _fits(cls: type, name: str) -> bool:
    return issubclass(cls, TimeEmbedding) == (name == "time")


def networks_are_used(spec: Spec) -> Iterator[Problem]:
    """The objective uses every network that is only for training."""
    if not isinstance(spec.objective, Objective):
        return
    needed = {need.network for need in spec.objective.needs(spec)}
    for name, network in spec.networks.items():
        if isinstance(network, Backbone) and network.TRAINING_ONLY and name not in needed:
            message = f"the objective `{spec.objective.kind}` does not use network `{name}`"
            labels: tuple[tuple[PathKey, str], ...] = ((("networks", name), f"a {network.kind} here"),)
            fitting = [
                kind
                for kind, cls in load("objectives").items()
                if any(n.capability in network.provides(spec) for n in _needs_of(cls, spec))
            ]
            mend = f"use the objective {' or '.join(fitting)}" if fitting else "leave the network out"
            yield Problem("E0306", ("objective",), message, labels=labels, help=mend)


def copies_are_of_networks(spec: Spec) -> Iterator[Problem]:
    """A network that is initialised as a copy names another network, and no file."""
    for name, network in spec.networks.items():
        source = network.copy_of if isinstance(network, Backbone) else None
        if source is None:
            continue
        path: PathKey = ("networks", name, "copy_of")
        others = [other for other in spec.networks if other != name]
        if source not in others:
            what = "is this network itself" if source == name else "does not exist"
            yield Problem(
                "E0305", path, f"network `{source}` {what}", help=f"name one of {', '.join(others) or 'none'}"
            )
        elif getattr(network, "pretrained", None) is not None:
            yield Problem("E0305", path, "`pretrained` already says what it starts from", help="keep one of the two")


def fresh_weights_are_of_copies(spec: Spec) -> Iterator[Problem]:
    """Only a network that starts from other weights can leave some of them out."""
    for name, network in spec.networks.items():
        if isinstance(network, Backbone) and network.fresh_weights and not (network.copy_of or network.pretrained):
            message = "it has neither `copy_of` nor `pretrained`, so all its weights are initialised as usual"
            help = "set `copy_of` or `pretrained`, or leave it out"
            yield Problem("E0305", ("networks", name, "fresh_weights"), message, help=help)


def optimizers_of_networks(spec: Spec) -> Iterator[Problem]:
    """Only networks that are trained have optimisers."""
    named = spec.objective.trained(spec) if isinstance(spec.objective, Objective) else ("main",)
    trained = [name for name in (*named, *prior_systems(spec)) if name in spec.networks]
    for name in spec.train.optimizers:
        if name not in trained:
            mend = did_you_mean(name, trained, f"trained networks: {', '.join(trained) or 'none'}")
            message = f"network `{name}` is not trained"
            yield Problem("E0306", ("train", "optimizers", name), message, help=mend)


def _parts(value: object, path: PathKey) -> Iterator[tuple[PathKey, Part]]:
    """Every component of a spec, with its path."""
    if isinstance(value, Part):
        yield path, value
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, BaseModel):
        items = ((info.alias or name, getattr(value, name)) for name, info in type(value).model_fields.items())
    elif isinstance(value, tuple):
        items = enumerate(value)
    elif isinstance(value, Mapping):
        items = value.items()
    for key, item in items:
        if not isinstance(item, _PLAIN):  # usually the names of a thousand classes
            yield from _parts(item, (*path, key))


_PLAIN = (str, int, float, type(None))

RULES: tuple[Rule, ...] = (
    shape_or_tokens,
    first_stage_fits,
    computed_fields_fit,
    warmup_within_training,
    accumulation_divides_batch,
    name_maps_are_sound,
    checkpoints_are_known,
    official_checkpoints_are_known,
    conditions_are_in_place,
    needs_are_met,
    networks_are_used,
    copies_are_of_networks,
    fresh_weights_are_of_copies,
    optimizers_of_networks,
    *SECTION_RULES,
)
