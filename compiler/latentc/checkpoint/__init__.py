"""Reads and writes the weights of a spec's networks, under the names of a name map."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc import __version__
from latentc.checkpoint.fitting import with_suggestion
from latentc.checkpoint.former import renamed
from latentc.checkpoint.official import check_fits
from latentc.checkpoint.parameters import buffer, computed, network_params, network_types
from latentc.components.contract import Lowered, Network
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError, did_you_mean
from latentc.ir.core import own_parameters
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.named import checkpoint_files, first_stage_file
from latentc.spec.official import entry, file_of, network_of
from latentc.spec.schema import Spec
from latentc.weights import (
    Expr,
    check_inverse,
    export_weights,
    ignored_names,
    import_weights,
    materialise,
    write_safetensors,
)
from latentc.weights.download import place_of
from latentc.weights.files import Files, group_readings, named_files, open_state_dicts
from latentc.weights.hub import is_official
from latentc.weights.in_memory import NAME as IN_MEMORY
from latentc.weights.in_memory import Weights, by_network, tree_from_arrays
from latentc.weights.state_dicts import Reading, chosen, several_fit, state_dicts
from latentc.weights.templates import Sizes

OWN_NAMES: tuple[Mapping[str, Any], ...] = ({"from": "*", "to": "*"},)


def network_weights(
    spec: Spec,
    lowered: Lowered,
    files: Weights | None,
    names: str | None = None,
    key: str | None = None,
    networks: Sequence[str] | None = None,
    taken: list[str] | None = None,
    unused: list[str] | None = None,
) -> dict[str, dict[str, Expr]]:
    """{network: {state-dict path: tensor}} from weights files, including computed buffers; nothing is read yet.

    Instead of files, `files` may be a mapping of arrays by name; every network then has its weights from there.

    `official:NAME` is read by the name map and key that its entry in the section `official` names.

    `names` is a name map of the spec (`official`), or None for the names of the emitted project. If several networks
    share a file, their names begin with the network's (`refiner.blocks.0…`), or the name map tells them apart. `key`
    selects a state dict of the checkpoint (`ema`); the default is the one that fits the network, and if that is not the
    whole file, a line about it is added to `taken`. `unused` collects lines about tensors that nothing reads and whose
    values would not be written again, and about names of an earlier version. `networks` are all by default. A network
    without a file has the spec's default weights (`checkpoints`), under their own name map and key; without any file,
    `names` and `key` replace these. The weights of the first stage come from the file that the spec names. Raises
    DiagnosticError: E0401 to E0411, E0415, E0420, E0421, E0425, E0427, E0428, E0703.
    """
    wanted = list(lowered.networks if networks is None else networks)
    found = {}
    if FIRST_STAGE in wanted:
        found[FIRST_STAGE] = first_stage_weights(spec)
        wanted.remove(FIRST_STAGE)
    files = () if files is None else files
    defaults = checkpoint_files(spec)
    named = [name for name in lowered.networks if name != FIRST_STAGE]
    groups: dict[str, dict[str, Expr]] | None = None
    if isinstance(files, Mapping):
        groups, files = state_dicts(tree_from_arrays(by_network(files, tuple(named)))), IN_MEMORY
    paths = named_files(files, named, [name for name in wanted if name not in defaults])
    for name in wanted:
        path, flavour, part = paths.get(name, paths.get("")), names, key
        if path is None:
            path, default = defaults[name], spec.checkpoints[name]
            flavour = names if names is not None and not paths else default.names
            part = key if key is not None and not paths else default.key
        if is_official(path):
            found[name] = _official_weights(spec, lowered, name, path, part, taken, unused)
            continue
        check_inverse(
            name_map(spec, name, flavour), network_types(lowered, name), symbols(lowered, lowered.networks[name])
        )
        found[name], reading, notes = _read(
            spec, lowered, name, path, groups, flavour, part, len(wanted) if "" in paths else 0
        )
        if taken is not None and reading.describe():
            taken.append(f"{name}: {reading.describe()} of {path}")
        if unused is not None:
            unused += [f"{name}: {note}" for note in notes]
    return found


def first_stage_weights(spec: Spec) -> dict[str, Expr]:
    """{state-dict path: tensor} of the data's first stage, from the file that the spec names. Same errors."""
    stage, given = spec.first_stage, spec.data.first_stage
    assert stage is not None and given is not None and given.weights is not None
    return network_weights(stage, lower(stage), first_stage_file(spec), given.names, given.key, ["main"])["main"]


def _official_weights(
    spec: Spec,
    lowered: Lowered,
    network: str,
    path: Path,
    key: str | None,
    taken: list[str] | None,
    unused: list[str] | None,
) -> dict[str, Expr]:
    """A network's tensors from an official checkpoint, which the spec that names it reads, and its computed buffers.

    `key` counts if the entry of the checkpoint has none.
    """
    found = entry(path, spec)
    given, source = found.given, load_spec(found.spec, found.given.variant)
    theirs, name = lower(source), network_of(found, source, network)
    check_fits(found, network, network_types(lowered, network), network_types(theirs, name))
    file, part = file_of(found), given.key or key
    tensors = network_weights(source, theirs, file, given.names, part, [name], taken, unused)[name]
    params = network_params(lowered, lowered.networks[network])
    own = {n: buffer(p) if computed(p) else tensors.get(n) for n, p in params.items()}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def official_in_own_names(spec: Spec, network: str, path: Path | str) -> Path:
    """A copy of the official checkpoint `path` in the user's cache, under latentc's own names; raises as reading it."""
    found, lowered = entry(path, spec), lower(spec)
    source = load_spec(found.spec, found.given.variant)
    name = network_of(found, source, network)
    check_fits(found, network, network_types(lowered, network), network_types(lower(source), name))
    copy = place_of(f"{found.name}.{name}.latentc-{__version__}", "own.safetensors")
    if not copy.is_file():
        tensors = network_weights(spec, lowered, str(path), networks=[network])
        write_weights(spec, lowered, tensors, copy, metadata={"format": "pt", "spec": spec.name})
    return copy


def _read(
    spec: Spec,
    lowered: Lowered,
    network: str,
    path: Path,
    groups: dict[str, dict[str, Expr]] | None,
    names: str | None,
    key: str | None,
    sharing: int,
) -> tuple[dict[str, Expr], Reading, list[str]]:
    """A network's tensors, the reading of the file that fitted, and notes; `sharing`: number of networks in the file.

    `groups`: its state dicts; None to read them from `path`.
    """
    groups = open_state_dicts(path) if groups is None else groups
    every = list(group_readings(path, groups, key))
    own = [part for reading in every if sharing and (part := reading.under(f"{network}.")) is not None]
    if sharing > 1 and names is None:
        every = []  # files of several networks in latentc's own format always contain the networks' names
    fitting: dict[tuple[str, str], tuple[dict[str, Expr], Reading, list[str]]] = {}
    first: DiagnosticError | None = None
    for reading in [*own, *every] or [Reading("", "", {})]:
        notes: list[str] = []
        try:
            tensors = fitted(spec, lowered, network, reading.tensors, names, notes)
        except DiagnosticError as error:
            first = first or error
            continue
        if reading.sure or reading in own:
            return tensors, reading, notes
        fitting.setdefault((reading.place, reading.prefix), (tensors, reading, notes))
    if len(fitting) > 1:
        raise several_fit(path, [reading for _, reading, _ in fitting.values()])
    if fitting:
        return next(iter(fitting.values()))
    assert first is not None
    if key is None and not own:
        chosen(path, groups, None)  # raises if there are several state dicts to choose from
    raise with_suggestion(first, spec, network, names, [*own, *every], fitted)


def fitted(
    spec: Spec,
    lowered: Lowered,
    network: str,
    tensors: Mapping[str, Expr],
    names: str | None,
    notes: list[str] | None = None,
) -> dict[str, Expr]:
    """A network's tensors from those of a file, including computed buffers.

    Lines about unused tensors that are not kept and about names of an earlier version are added to `notes`. Raises
    DiagnosticError E0410, E0420, E0703.
    """
    params = network_params(lowered, lowered.networks[network])
    rules, sizes = name_map(spec, network, names), symbols(lowered, lowered.networks[network])
    buffers = {n: buffer(p) for n, p in params.items() if computed(p)}
    if names is None:
        # Checkpoints of an emitted project lack computed buffers, and those in other files are redundant. The batch
        # counts of PyTorch's batch norms are not used, nor are scales of training for a quantised engine.
        unread = (".num_batches_tracked", ".input_scale")
        tensors = {n: e for n, e in tensors.items() if not n.endswith(unread) or n in params}
        former = renamed(tensors, params)
        tensors = {former.get(n, n): e for n, e in tensors.items()}
        if notes is not None and former:
            old, new = next(iter(former.items()))
            notes.append(f"names of an earlier version: `{old}` is now `{new}`; `latentc weights` converts the file")
        rules = [*({"ignore": n} for n in tensors if n in buffers), *rules]
    own = import_weights(tensors, rules, network_types(lowered, network), sizes, buffers, notes)
    return {n: own[n] if n in own else buffers[n] for n in params if n in own or n in buffers}


def check_complete(lowered: Lowered, function: str, weights: Collection[str]) -> None:
    """DiagnosticError E0410 if weights that a function needs are missing, which a name map may allow (`extra`).

    `weights`: state-dict paths as the function sees them.
    """
    missing = [path for path in own_parameters(lowered.module, function) if path not in weights]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        mend = "use a file that has them: the name map allows files without them for other methods"
        raise DiagnosticError.of("E0410", f"the weights lack {shown}", help=mend)


def write_weights(
    spec: Spec,
    lowered: Lowered,
    weights: Mapping[str, Mapping[str, Expr]],
    to: Files,
    names: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[Path, int]:
    """Writes networks' weights as safetensors under the names of name map `names`; returns {file: number of tensors}.

    `to` is one file, or NETWORK=FILE for each network of `weights`. If several networks share a file, their names begin
    with the network's, unless the name map tells them apart (each network's rules ignore the names of the others).
    Computed buffers are left out, unless the name map says that official files contain them. Raises DiagnosticError:
    E0405, E0410 to E0412, E0415, E0421, E0703.
    """
    paths = named_files(to, list(lowered.networks), list(weights))
    named: dict[str, dict[str, Expr]] = {}
    for name, tensors in weights.items():
        network = lowered.networks[name]
        params, rules, sizes = network_params(lowered, network), name_map(spec, name, names), symbols(lowered, network)
        own = {n: e for n, e in tensors.items() if not computed(params[n])}
        check_inverse(rules, {n: (e.shape, e.dtype) for n, e in own.items()}, sizes)
        named[name] = export_weights(own, rules, sizes, {n: e for n, e in tensors.items() if computed(params[n])})
    if "" in paths:
        prefixed = len(named) > 1 and not _separable(spec, lowered, named, names)
        whole = {f"{name}.{n}" if prefixed else n: e for name, own in named.items() for n, e in own.items()}
        write_safetensors(paths[""], whole, metadata)
        return {paths[""]: len(whole)}
    for name, own in named.items():
        write_safetensors(paths[name], own, metadata)
    return {paths[name]: len(own) for name, own in named.items()}


def _separable(spec: Spec, lowered: Lowered, named: Mapping[str, Mapping[str, Expr]], names: str | None) -> bool:
    """True if each network's rules ignore every name of the other networks."""
    for name in named:
        others = {other for network in named if network != name for other in named[network]}
        rules, sizes = name_map(spec, name, names), symbols(lowered, lowered.networks[name])
        if ignored_names(rules, others, sizes) != others:
            return False
    return True


def arrays(weights: Mapping[str, Expr]) -> dict[str, np.ndarray]:
    """The tensors in memory."""
    return {name: materialise(expr) for name, expr in weights.items()}


def name_map(spec: Spec, network: str, names: str | None) -> Sequence[Mapping[str, Any]]:
    """The rules of a name map for one network. DiagnosticError E0703."""
    if names is None:
        return OWN_NAMES
    if names not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        mend = did_you_mean(names, spec.weights, "omit `--names` if the file has latentc's own names")
        message = f"the spec has no name map `{names}`"
        note = f"name maps of this spec (section `weights`): {known}"
        raise DiagnosticError.of("E0703", message, spec.span("weights"), notes=(note,), help=mend)
    rules = spec.weights[names].get(network)
    original = getattr(spec.networks.get(network), "same_as", None)
    if rules is None and original is not None:
        rules = spec.weights[names].get(original)
    if rules is None:
        message = f"the name map `{names}` has no rules for the network `{network}`"
        raise DiagnosticError.of(
            "E0703", message, spec.span("weights", names), help=f"add `weights.{names}.{network}: [...]`"
        )
    return rules


def symbols(lowered: Lowered, network: Network) -> Sizes:
    """The sizes that a name map may refer to: the network's constructor arguments (`heads`), and its `sizes`."""
    found: dict[str, float | tuple[float, ...]] = dict(network.sizes)
    for function in network.functions:
        origin = lowered.module.functions[function].origin
        for name, value in (origin.args if origin else {}).items():
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = int(value)
    return found
