"""A spec's networks: run on arrays, their weights under other names, trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc.api._common import Backend, Source, check_data, lowered_spec
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc.components.contract import Lowered
    from latentc.spec import Spec
    from latentc.weights.files import Files
    from latentc.weights.in_memory import Weights


def forward(
    source: Source,
    weights: Weights | None,
    inputs: Mapping[str, ArrayLike],
    backend: Backend = "oracle",
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    network: str = "main",
    method: str = "forward",
) -> np.ndarray:
    """The first output of one run of a network's method on `inputs`; see `run_method`, which gives all of them."""
    outs = run_method(source, weights, inputs, backend, variant, overrides, names, key, network, method)
    return next(iter(outs.values()))


def run_method(
    source: Source,
    weights: Weights | None,
    inputs: Mapping[str, ArrayLike],
    backend: Backend = "oracle",
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    network: str = "main",
    method: str = "forward",
) -> dict[str, np.ndarray]:
    """The outputs of one of a network's methods by name (`out` if it has one) on `inputs`, arrays by input name.

    `backend`: "oracle" (numpy, f64), "torch" (the emitted model), "onnx" (ONNX Runtime) or "openvino", all f32.
    `names` is a name map of the spec (`official`), `key` picks one state dict of a checkpoint (`ema`).
    """
    from latentc.checkpoint import network_weights
    from latentc.measure import forward as running

    spec, lowered = lowered_spec(source, variant, overrides)
    _check_network(lowered, network)
    tensors = network_weights(spec, lowered, weights, names, key, [network])[network]
    return running.run_method(spec, lowered, tensors, inputs, backend, network, method)


def forward_file(source: Source, weights: Weights | None, inputs: Path | str, output: Path | str, *args: Any) -> None:
    """`run_method` from an .npz file to an .npz file; further arguments as `run_method` takes them."""
    from latentc.files.named import open_arrays, write_arrays

    write_arrays(output, run_method(source, weights, open_arrays(inputs), *args))


def loss(
    source: Source,
    weights: Weights | None,
    inputs: Mapping[str, ArrayLike],
    backend: Literal["oracle", "torch"] = "oracle",
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    update: str | None = None,
    training: bool = False,
) -> dict[str, np.ndarray]:
    """A training loss and its other metrics by name, on the data's fields and random draws in `inputs`.

    `update` names one of several losses (`generator`); the first by default. `training` runs the networks as train.py
    does, and adds the metric `auxiliary` where layers add losses of their own to the gradients (the balance of experts,
    the capacity of a token pool), which `loss` leaves out. Raises DiagnosticError: E0401 to E0411, E0702, E0706.
    """
    from latentc.checkpoint import network_weights
    from latentc.ir.core import networks_called
    from latentc.measure.loss import run_loss, update_called

    spec, lowered = lowered_spec(source, variant, overrides)
    chosen = update_called(lowered, update)
    called = networks_called(lowered.module, lowered.module.entries[chosen.loss])
    tensors = network_weights(spec, lowered, weights, names, key, called)
    return run_loss(spec, lowered, chosen, tensors, inputs, backend, training)


def loss_file(
    source: Source, weights: Weights | None, inputs: Path | str, output: Path | str | None, *args: Any
) -> dict[str, np.ndarray]:
    """`loss` of an .npz file, written to an .npz file if one is named; further arguments as `loss` takes them."""
    from latentc.files.named import open_arrays, write_arrays

    found = loss(source, weights, open_arrays(inputs), *args)
    if output is not None:
        write_arrays(output, found)
    return found


def convert_weights(
    source: Source,
    weights: Weights | None,
    to: Files,
    names: str | None = None,
    to_names: str | None = None,
    key: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    network: str | None = None,
    taken: list[str] | None = None,
) -> dict[Path, int]:
    """Write a checkpoint as safetensors under other names; returns {file: its number of tensors}.

    `names` is the name map the file follows, `to_names` the one to write by; None is latentc's own names, which the
    emitted project loads. `network` converts one of several networks alone. `to` may be NETWORK=FILE for each
    network, which splits a file. `taken` collects lines about state dicts and prefixes that were chosen, and about
    unused tensors whose values are not kept.
    """
    from latentc.checkpoint import network_weights, write_weights
    from latentc.components.fields import FIRST_STAGE

    spec, lowered = lowered_spec(source, variant, overrides)
    _check_network(lowered, network)
    wanted = [name for name in lowered.networks if name != FIRST_STAGE] if network is None else [network]
    tensors = network_weights(spec, lowered, weights, names, key, wanted, taken, taken)
    return write_weights(spec, lowered, tensors, to, to_names, {"format": "pt", "spec": spec.name})


def _check_network(lowered: Lowered, network: str | None) -> None:
    if network is not None and network not in lowered.networks:
        known = ", ".join(lowered.networks)
        raise DiagnosticError.of("E0702", f"no network `{network}`", help=f"networks of this spec: {known}")


def emit(
    source: Source,
    folder: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> list[Path]:
    """Write the PyTorch training project of a spec into `folder`; returns its files.

    An earlier project there is replaced file by file, what else lies in it (runs) stays. `force`: also where the folder
    holds files that latentc did not write.
    """
    from latentc.emit import project_from_lowered

    spec, lowered = lowered_spec(source, variant, overrides, to_emit=True)
    check_data(spec, lowered)
    files = project_from_lowered(lowered, spec, folder, force)
    return [*files, *_first_stage_file(spec, Path(folder))]


def _first_stage_file(spec: Spec, folder: Path) -> list[Path]:
    """Writes the weights of the first stage, if the spec names any, under the names of the emitted autoencoder.

    Buffers that follow from the spec are left out: the autoencoder computes them.
    """
    from latentc.checkpoint import first_stage_weights, network_types
    from latentc.components.fields import FIRST_STAGE
    from latentc.lower import lower
    from latentc.weights import write_safetensors

    if spec.data.first_stage is None or spec.data.first_stage.weights is None:
        return []
    assert spec.first_stage is not None
    path, held = folder / f"{FIRST_STAGE}.safetensors", network_types(lower(spec.first_stage), "main")
    tensors = {name: tensor for name, tensor in first_stage_weights(spec).items() if name in held}
    write_safetensors(path, tensors, {"format": "pt", "spec": spec.data.first_stage.spec})
    return [path]


def train(
    source: Source,
    folder: Path | str | None = None,
    arguments: Sequence[str] = (),
    variant: str | None = None,
    overrides: Sequence[str] = (),
    processes: int = 1,
    quantize: str | None = None,
    weights: Weights | None = None,
    log: Path | None = None,
) -> Path:
    """Train in a project's folder, which is returned.

    `quantize`: the scheme (`int8`) of a quantised engine that trained `weights` are to be fitted to, by distillation
    from themselves; the spec of that training and the weights it starts from are written to `FOLDER-start`.

    `source` is such a folder, or a spec, whose project is emitted into `folder` (by default named like the spec) where
    it is not there yet. `arguments` go to the project's train.py (`--steps 1000`), which runs in the folder with this
    Python and its torch, in `processes` processes; `--out` is relative to that folder, files that it reads to the
    current one. What train.py prints goes to the file `log`, if there is one. Raises DiagnosticError: E0401 if weights
    that a network starts from are missing, E0705 where it stops with an error, E0706 without torch, E0708 for a spec
    without objective, E0709 where the folder holds another project; with `quantize` also those of reading weights, and
    E0801, E0802, E0805 and E0807.
    """
    from latentc.api.training import check_pretrained, emitted_project, from_here, run_training

    project, flags = Path(source), from_here(arguments)
    if quantize is not None:
        from latentc.api.training import quantised_start

        source, folder = quantised_start(source, folder, variant, overrides, quantize, weights)
        variant, overrides = None, ()
    elif weights is not None:
        mend = "add --quantize, or name the file in the spec: `networks.main.pretrained`"
        raise DiagnosticError.of("E0708", "`--weights` is for training that quantises", help=mend)
    if not (project / "train.py").is_file():
        spec, lowered = lowered_spec(source, variant, overrides, to_emit=True)
        check_data(spec, lowered)
        project = Path(spec.name if folder is None else folder)
        check_pretrained(spec, project, flags)
        project = emitted_project(lowered, spec, project)
        _first_stage_file(spec, project)
    needed("torch", "training", 'pip install "latentc[torch]"')
    run_training(project, flags, processes, log)
    return project
