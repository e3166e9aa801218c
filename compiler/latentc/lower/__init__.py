"""Spec → IR: the components build their functions in one module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from latentc.components.backbone import Backbone
from latentc.components.condition import Condition, DrawnInput, prior_systems
from latentc.components.conditions._retrieved import query_programs
from latentc.components.contract import Lowered, Method, Network, Port, Program, Update
from latentc.components.contracts import check_built, check_network, check_programs, check_updates
from latentc.components.fields import FIRST_STAGE
from latentc.components.mistakes import blamed, of_code
from latentc.components.objective import Objective
from latentc.components.sampler import Sampler
from latentc.diagnostics import Diagnostic, DiagnosticError, Span, nearest
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Module, Node, Value, parameters, reachable, walk
from latentc.ir.ops import OPS
from latentc.ir.ops.experts import EXPERTS
from latentc.ir.verify import verify
from latentc.lower.first_stage import add_first_stage, with_decoder, with_encoder
from latentc.lower.priors import add_prior_losses, add_prior_programs, own_networks
from latentc.lower.refusals import refusals
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.feature_cache import cache
from latentc.passes.feature_cache_methods import CACHED, CACHING
from latentc.passes.quantize.plan import LayerQuant, quantizable
from latentc.passes.quantize.rewrite import fake_quantized
from latentc.spec.schema import Spec
from latentc_runtime.sources import Setting, SettingSource

LARGEST = 1 << 40
"""Largest allowed element count of one weight (4 TiB in float32, far more than in any published model)."""


def lower(spec: Spec, steps: Sequence[int] = (), to_emit: bool = False) -> Lowered:
    """Lowers a checked spec: its networks, its loss, and the sampler's programs for each number of `steps`.

    The default is the sampler's own number of steps. Programs end with the decoder of the data's first stage if the
    spec names its weights; with `to_emit`, for a training project, they always do, and the encoder is included.
    """
    with blamed(spec):
        return _lowered(spec, steps, to_emit)


def _lowered(spec: Spec, steps: Sequence[int], to_emit: bool) -> Lowered:
    mb = ModuleBuilder()
    networks = build_networks(mb, spec)
    own = own_networks(networks, spec)
    updates: tuple[Update, ...] = ()
    if isinstance(spec.objective, Objective):
        with refusals(spec, "objective"):
            updates = spec.objective.build(mb, own, spec)
        check_updates(updates, spec.objective, own, mb)
    updates = add_prior_losses(mb, networks, spec, updates)
    networks = add_prior_programs(mb, networks, spec)
    programs: list[Program] = []
    if isinstance(spec.sampler, Sampler):
        networks = _prepared(mb, networks, spec.sampler, spec)
        samplers = [spec.sampler.with_steps(n) for n in dict.fromkeys(steps)] or [spec.sampler]
        with refusals(spec, "sampler"):
            offered = [sampler.programs(mb, networks, spec) for sampler in samplers]
        for sampler, programs_of in zip(samplers, offered, strict=True):
            check_programs(programs_of, sampler, mb)
        built = [program for programs_of in offered for program in programs_of]
        drawn = [prior for network in networks.values() for prior in network.drawn.values()]
        more, of_priors = sum(prior.evaluations for prior in drawn), [s for prior in drawn for s in prior.settings]
        built = [replace(program, evaluations=program.evaluations + more) for program in built] if more else built
        programs = [_with_settings(program, spec, of_priors) for program in built]
        if not to_emit:  # training projects search by features
            programs += query_programs(mb, spec, networks)
    if to_emit and programs and isinstance(spec.objective, Objective):
        with refusals(spec, "objective"):
            rollout = spec.objective.rollout(mb, own_networks(networks, spec), spec, programs[0])
        programs += [rollout] if rollout is not None else []
    given = spec.data.first_stage
    if given is not None and (given.weights is not None or (to_emit and spec.first_stage_fits)):
        stage = add_first_stage(mb, spec, to_emit or any(program.encoded for program in programs), programs)
        assert stage is not None
        programs = [with_decoder(mb, with_encoder(mb, program, stage, spec), stage, spec) for program in programs]
        networks[FIRST_STAGE] = stage.network
    module, networks = _cached(verify(mb.finish(), "train"), networks, spec)
    _check_options(module, spec)
    if spec.optimize.guidance == "sequential":
        # Here rather than only for engines, because it changes the result if the samples of a batch interact.
        module = expand_guidance(module, "sequential")
    if to_emit:
        module, networks = _rounded(module, networks, spec)
    _check_patterns(module, networks, spec)
    _check_training(module, networks, updates, spec)
    _check_evaluation(programs, spec)
    conditions = {r.name: r for name, part in _asked(spec).items() for r in part.requests(name, spec)}
    conditions |= {c.name: c for program in programs for c in program.conditions}
    return Lowered(module, networks, updates, tuple(programs), tuple(conditions.values()))


def lower_networks(spec: Spec, verified: bool = True) -> Lowered:
    """Lowers only the networks of a checked spec, without losses and programs; weights depend on nothing else."""
    mb = ModuleBuilder()
    networks = build_networks(mb, spec)
    module = mb.finish()
    return Lowered(verify(module, "train") if verified else module, networks, (), ())


def _prepared(mb: ModuleBuilder, networks: dict[str, Network], sampler: Sampler, spec: Spec) -> dict[str, Network]:
    """The networks with the methods that the sampler asks for. DiagnosticError E0305."""
    try:
        return dict(sampler.prepare(mb, networks, spec))
    except ValueError as error:
        raise of_code(error) or DiagnosticError.of("E0305", str(error), spec.span("sampler")) from None


def _asked(spec: Spec) -> dict[str, Condition]:
    """Conditions passed by requests: not those drawn from a prior, computed by the sampler or used only in training."""
    made = spec.sampler.makes() if isinstance(spec.sampler, Sampler) else ()
    given = {name: part for name, part in spec.conditions.items() if part.prior is None and name not in made}
    networks = [network for network in spec.networks.values() if isinstance(network, Backbone)]
    trained = {name for network in networks if network.TRAINING_ONLY for name in network.takes(spec)}
    served = {name for network in networks if not network.TRAINING_ONLY for name in network.takes(spec)}
    return {name: part for name, part in given.items() if name in served or name not in trained}


def _with_settings(program: Program, spec: Spec, others: Sequence[Setting]) -> Program:
    """The program with the settings from which its conditions are drawn, and with those of `others` that it takes."""
    inputs = (given for name, condition in spec.conditions.items() for given in condition.inputs(name, spec))
    of_conditions = {given.setting.name: given.setting for given in inputs if isinstance(given, DrawnInput)}
    of_conditions |= {setting.name: setting for setting in others}
    named = {source.setting for source in program.sources.values() if isinstance(source, SettingSource)}
    found = {setting.name: setting for setting in program.settings}
    found |= {name: setting for name, setting in of_conditions.items() if name in named and name not in found}
    return replace(program, settings=tuple(found.values()))


def _cached(module: Module, networks: dict[str, Network], spec: Spec) -> tuple[Module, dict[str, Network]]:
    """Applies `optimize.cache`; returns the module, and the networks with the added methods. DiagnosticError E0311."""
    settings = spec.optimize.cache
    if settings is None:
        return module, networks
    every, steps = settings.every, settings.steps

    def computes(step: int, k: int) -> bool:
        return k % every == 0 if steps is None else step in steps

    try:
        changed = cache(module, "main", settings.blocks, computes, settings.parts, settings.among)
    except ValueError as error:
        span = spec.span("optimize", "cache", "blocks") or spec.span("optimize", "cache")
        raise DiagnosticError.of("E0311", str(error), span) from None
    if changed is module:
        return module, networks
    methods, forward = dict(networks["main"].methods), networks["main"].methods["forward"]
    for method in (CACHING, CACHED):
        fn = changed.functions[changed.entries[f"main.{method}"]]
        inputs, outputs = _with_cache(forward.inputs, fn.inputs), _with_cache(forward.outputs, fn.outputs)
        methods[method] = Method(fn.name, inputs, outputs)
    main = replace(networks["main"], methods=methods)
    return verify(changed, "train"), {**networks, "main": main}


def _rounded(module: Module, networks: dict[str, Network], spec: Spec) -> tuple[Module, dict[str, Network]]:
    """Rounds the layers that the objective trains for a quantised engine, in `main`. DiagnosticError E0305."""
    how, objective = spec.optimize.quantize, spec.objective
    if objective is None or how is None or not objective.rounded:
        return module, networks
    narrow = objective.rounds_narrowly
    plan = {f"main.{name}": LayerQuant(how.scheme, narrow=narrow) for name in objective.rounded}
    known = quantizable(module, [entry for entry in module.entries if entry.startswith("main.")], normed=True)
    if missing := [path for path in plan if path not in known]:
        message = f"`main` has no linear or convolution layer with the weight `{missing[0].removeprefix('main.')}`"
        near = nearest(missing[0], known) or next(iter(known), "main.")
        mend = f"weights are named like `{near.removeprefix('main.')}`; `latentc train --quantize` lists those that fit"
        raise DiagnosticError.of("E0305", message, spec.span("objective", "layers"), help=mend)
    module = verify(fake_quantized(module, plan, spec.target.engine), "train")
    methods = {
        name: replace(method, function=module.entries[f"main.{name}"])
        for name, method in networks["main"].methods.items()
        if f"main.{name}" in module.entries
    }
    return module, {**networks, "main": replace(networks["main"], methods=methods)}


def _with_cache(ports: tuple[Port, ...], values: tuple[Value, ...]) -> tuple[Port, ...]:
    """The ports of a caching or cached method: those of `forward`, then the cached tensors."""
    return *ports, *(Port(v.name, v.type, "cache") for v in values[len(ports) :])


def build_networks(mb: ModuleBuilder, spec: Spec) -> dict[str, Network]:
    """Adds every network of the spec to the module."""
    networks: dict[str, Network] = {}
    priors = prior_systems(spec)
    for name, backbone in spec.networks.items():
        assert isinstance(backbone, Backbone)
        system = priors[name][1] if name in priors else spec
        channels = system.data.shape[0] if system.data.shape else 0
        objective = system.objective
        out_channels = objective.out_channels(channels) if isinstance(objective, Objective) else channels
        with refusals(spec, "networks", name):
            network = backbone.build(mb, name, system, out_channels)
        check_built(network, backbone, name)
        networks[name] = replace(network, sizes={"data_classes": system.data.classes or 0, **network.sizes})
        _check_sizes(mb, name, spec)
    for name, backbone in spec.networks.items():
        assert isinstance(backbone, Backbone)
        networks = dict(backbone.attached(mb, name, networks, spec))
    for name, network in networks.items():
        if name in spec.networks:
            check_network(network, spec.networks[name], mb)
    return networks


def _check_options(module: Module, spec: Spec) -> None:
    """DiagnosticError E0305 if an option of `optimize` applies to nothing in the module."""
    ops = {node.op for _, node in walk(module)}
    faults = {}
    if spec.optimize.experts != "auto" and not ops & {*EXPERTS}:
        faults["experts"] = "no network has routed experts that could run in either form"
    if isinstance(spec.sampler, Sampler) and spec.optimize.guidance != "batched" and "guided" not in ops:
        faults["guidance"] = "no sampler evaluates a network with and without a condition in one call"
    if faults:
        raise DiagnosticError(
            *(
                Diagnostic("E0305", why, spec.span("optimize", key), help=f"leave `optimize.{key}` out")
                for key, why in faults.items()
            )
        )


def _check_patterns(module: Module, networks: dict[str, Network], spec: Spec) -> None:
    """DiagnosticError E0305 if a pattern matches no weight of its network."""
    for name, backbone in spec.networks.items():
        assert isinstance(backbone, Backbone)
        for key in ("fresh_weights", "frozen_weights"):
            patterns: tuple[str, ...] = getattr(backbone, key)
            of = networks[name].functions if patterns else ()
            paths = {path for fn in of for path in parameters(module, fn)}
            _check_names(patterns, paths, f"network `{name}`", spec.span("networks", name, key))
    for own, optimizer in ((None, spec.train.optimizer), *spec.train.optimizers.items()):
        moved = [own] if own else [name for name in spec.networks if name not in spec.train.optimizers]
        if not moved:  # every network has its own optimiser
            continue
        where = ("train", "optimizers", own) if own else ("train", "optimizer")
        who = f"network `{own}`" if own else "the networks of this optimiser"
        named = {key: getattr(optimizer, key, ()) for key in ("undecayed", "first_layer")}
        layered = getattr(optimizer, "layer_decay", None) is not None
        of = tuple(fn for name in moved for fn in networks[name].functions) if layered or any(named.values()) else ()
        paths = {path for fn in of for path in parameters(module, fn)}
        for key, patterns in named.items():
            _check_names(patterns, paths, who, spec.span(*where, key))
        if layered and not any(re.search(r"\bblocks\.\d+\.", path) for path in paths):
            message = f"`layer_decay` counts the weights `blocks.I.…` of {who}, which has none"
            mend = "leave it out, or use a transformer"
            raise DiagnosticError.of("E0305", message, spec.span(*where, "layer_decay"), help=mend)


def _check_evaluation(programs: Sequence[Program], spec: Spec) -> None:
    """DiagnosticError E0305 if training is to compare samples with the data, but no sampler draws any."""
    asked = [name for name in ("evaluate_every", "evaluate_features") if getattr(spec.train, name) is not None]
    if asked and not (programs and programs[0].draws_data):
        who = f"`{programs[0].solver}`" if programs else "a spec without a sampler"
        message = f"{who} draws no samples of the data, so there is nothing to compare with them"
        raise DiagnosticError.of("E0305", message, spec.span("train", asked[0]), help=f"leave `{asked[0]}` out")


def _check_training(module: Module, networks: dict[str, Network], updates: Sequence[Update], spec: Spec) -> None:
    """DiagnosticError E0305 if an update has no weights to train, or if blocks cannot be recomputed."""
    for update in updates:
        for name in update.networks or ("main",):
            backbone = spec.networks.get(name)
            if not isinstance(backbone, Backbone):  # a prior's, which is a spec of its own
                continue
            weights = [
                path
                for fn in networks[name].functions
                for path, param in parameters(module, fn).items()
                if param.kind == "weight" and not any(fnmatchcase(path, p) for p in backbone.frozen_weights)
            ]
            if not backbone.trainable or not weights:
                key = "frozen" if backbone.frozen else "frozen_weights" if backbone.frozen_weights else "pretrained"
                message = f"the objective trains network `{name}`, but none of its weights is left to train"
                mend = f"set `networks.{name}.frozen: false`" if not backbone.trainable else "freeze fewer weights"
                raise DiagnosticError.of("E0305", message, spec.span("networks", name, key), help=mend)
    losses = tuple(module.entries[update.loss] for update in updates)
    derived = [n for fn in reachable(module, losses) for n in module.functions[fn].nodes if n.op == "jvp"]
    _check_forward_mode(spec, module, derived)
    if spec.train.recompute and derived:
        message = "the loss is differentiated forwards (jvp), and blocks of that pass cannot be recomputed"
        mend = "leave it out; `train.accumulate` reduces memory, too"
        raise DiagnosticError.of("E0305", message, spec.span("train", "recompute"), help=mend)


def _check_forward_mode(spec: Spec, module: Module, derived: Sequence[Node]) -> None:
    """DiagnosticError E0305 if a network that a `jvp` node differentiates changes its own tensors in training.

    PyTorch's transform of functions refuses in-place operations on tensors that they do not take as arguments.
    """
    for node in derived:
        inside = reachable(module, (node.attrs["fn"],))
        ops = {n.op for fn in inside for n in module.functions[fn].nodes}
        if changing := sorted(op for op in ops & OPS.keys() if OPS[op].train is not None):
            name = node.attrs["name"]
            message = f"the loss differentiates `{name}` forwards (jvp), but its `{changing[0]}` changes it in training"
            mend = "use another objective, or a network without this operation"
            raise DiagnosticError.of("E0305", message, spec.span("networks", name), help=mend)


def _check_names(patterns: tuple[str, ...], paths: set[str], whose: str, span: Span | None) -> None:
    """DiagnosticError E0305 if a pattern matches none of the paths of weights."""
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            mend = f"weights have names such as `{nearest(pattern, paths) or min(paths)}`"
            message = f"no weight of {whose} is named `{pattern}`"
            raise DiagnosticError.of("E0305", message, span, help=mend)


def _check_sizes(mb: ModuleBuilder, network: str, spec: Spec) -> None:
    """DiagnosticError E0204 if a weight of the network has more than LARGEST elements."""
    for fn in mb.functions.values():
        for param in fn.params:
            if param.type.count() > LARGEST:
                shape = [int(d) for d in param.type.shape]  # type: ignore[arg-type]
                where = f"`{param.name}` of {fn.origin.cls if fn.origin else fn.name}"
                message = f"network `{network}` has a weight of shape {shape}: {where}"
                mend = f"reduce its sizes: a weight may have at most 2^{LARGEST.bit_length() - 1} elements"
                raise DiagnosticError.of("E0204", message, spec.span("networks", network), help=mend)
