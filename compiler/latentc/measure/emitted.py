"""The emitted training project, imported: its networks and programs with given weights."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from latentc.components.contract import Lowered
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.emit.loops import UNFINISHED
from latentc.emit.model import SUPPORT
from latentc.emit.numbered import attribute_of, method_of
from latentc.emit.project import as_bytes, project_files
from latentc.spec import Spec
from latentc_runtime.manifest import ProgramEntry

Array = np.ndarray
Run = Callable[[Sequence[Array]], list[Array]]
_AUTOENCODER = f"{SUPPORT}.autoencoder"


class Emitted:
    """The training project of a lowered spec: its networks and programs as functions of numpy arrays.

    They compute on the PyTorch device `device`; arrays are copied there and back in every call.
    """

    def __init__(self, lowered: Lowered, spec: Spec, arrays: Mapping[str, Array], device: str = "cpu") -> None:
        self.torch: Any = needed("torch", "running the emitted PyTorch", 'pip install "latentc[torch]"')
        needed("tqdm", "running the emitted PyTorch", "pip install tqdm")
        staged = FIRST_STAGE in lowered.networks
        wanted = ("model", "sampler", *((_AUTOENCODER,) if staged else ()))
        self.modules = project_modules(lowered, spec, wanted)
        model, sampler, *others = (self.modules[name] for name in wanted)
        builders = model.NETWORKS | {n: build for other in others for n, build in other.NETWORKS.items()}
        self.device = device
        self.networks: dict[str, Any] = {}
        for name in lowered.sampled:  # no program calls a discriminator, so no bundle has its weights
            net = builders[name]().eval()
            own = {path: array for path, array in arrays.items() if path.startswith(f"{name}.")}
            # Weights that no program uses are not in a bundle.
            load_arrays(net, {path.removeprefix(f"{name}."): array for path, array in own.items()})
            self.networks[name] = net.to(device)
        self._programs: dict[str, dict[int, Any]] = sampler.PROGRAMS

    def method(self, network: str, method: str) -> Run:
        """A method of a network as a function of its operands."""
        return functools.partial(self._run, method_of(self.networks[network], method))

    def program(self, entry: ProgramEntry) -> Run:
        """A program as a function of its inputs in the order of its entry in the module.

        The function raises DiagnosticError E0713 if samples are not at their end after all steps.
        """
        program = self._programs[entry.name][entry.steps]
        models = [self.networks[name] for name in program.networks]

        def run(operands: Sequence[Array]) -> list[Array]:
            try:
                return self._run(functools.partial(program.sample, *models), operands)
            except RuntimeError as error:
                if str(error).startswith(UNFINISHED):
                    raise unfinished(entry) from None
                raise

        return run

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """PyTorch limited to `count` CPU threads."""
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(count)
        try:
            yield
        finally:
            self.torch.set_num_threads(before)

    @contextlib.contextmanager
    def with_weight(self, network: str, path: str, value: Array) -> Iterator[None]:
        """The network with one weight set to `value`."""
        weight = self.networks[network].state_dict()[path]
        kept = weight.clone()
        weight.copy_(self.torch.from_numpy(np.array(value, np.float32)))
        try:
            yield
        finally:
            weight.copy_(kept)

    def inner_results(self, network: str, method: str, operands: Sequence[Array]) -> dict[str, Array]:
        """{call path: its result} of one run of a method, for each submodule that returns one tensor."""
        found: dict[str, Array] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, self.torch.Tensor):
                    found[path] = output.cpu().numpy().copy()

            return hook

        named = [(path, module) for path, module in self.networks[network].named_modules() if path]
        handles = [module.register_forward_hook(keep(path)) for path, module in named]
        try:
            self.method(network, method)(operands)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def network_calls(
        self, entry: ProgramEntry, methods: Mapping[str, Collection[str]], operands: Sequence[Array]
    ) -> list[tuple[str, str, list[Array]]]:
        """(network, method, operands) of each call of the `methods` {network: their names} while a program runs.

        Without those that it differentiates, which the module after its passes has in other functions.
        """
        found: list[tuple[str, str, list[Any]]] = []
        kept = self.torch.func.debug_unwrap  # while a program differentiates, tensors are no arrays

        def watched(network: str, names: Mapping[tuple[int, ...], str], method: Callable[..., Any]) -> Any:
            def call(*given: Any) -> Any:
                numbers = tuple(x for x in given if isinstance(x, int))
                if numbers in names and not self.torch.is_grad_enabled():
                    tensors = [kept(x.detach().clone()) for x in given[len(numbers) :]]
                    found.append((network, names[numbers], tensors))
                return method(*given)

            return call

        places: dict[tuple[str, str], dict[tuple[int, ...], str]] = {}
        for network, name in ((network, name) for network, names in methods.items() for name in names):
            attribute, numbers = attribute_of(self.networks[network], name)
            places.setdefault((network, attribute), {})[numbers] = name
        for (network, attribute), names in places.items():
            net = self.networks[network]
            setattr(net, attribute, watched(network, names, getattr(net, attribute)))
        try:
            self.program(entry)(operands)
        finally:
            for network, attribute in places:
                delattr(self.networks[network], attribute)
        return [(network, name, [x.cpu().numpy() for x in tensors]) for network, name, tensors in found]

    def _run(self, call: Callable[..., Any], operands: Sequence[Array]) -> list[Array]:
        with self.torch.no_grad():  # not inference_mode, because programs may differentiate
            outs = call(*(self.torch.from_numpy(np.array(a)).to(self.device) for a in operands))
            return [out.cpu().numpy() for out in (outs if isinstance(outs, tuple | list) else (outs,))]


def unfinished(entry: ProgramEntry) -> DiagnosticError:
    """DiagnosticError E0713: a program that chooses its steps has left samples on their way."""
    message = f"after the {entry.steps} steps of `{entry.name}` some samples have not reached the end: those are NaN"
    mend = f"compile it again with more steps (`--steps {10 * entry.steps}`) or a greater `rtol` and `atol`"
    return DiagnosticError.of("E0713", message, help=mend)


def load_arrays(net: Any, weights: Mapping[str, Array]) -> None:
    """Loads weights into an emitted network; those that are missing keep their initial values."""
    import torch

    kept = [path for path in net.state_dict() if path in weights]
    # Copies: a mapped file is read-only, which torch warns about.
    net.load_state_dict({path: torch.from_numpy(np.array(weights[path], np.float32)) for path in kept}, strict=False)


def module_from_source(source: str, name: str, constants: Mapping[str, Any] | None = None) -> ModuleType:
    """Imports Python source as a module that is not kept in `sys.modules`; its lines show in tracebacks.

    `constants`: the values it imports from the project's module of constants.
    """
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"latentc_emitted_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        held = ModuleType(f"{SUPPORT}.constants")
        held.__dict__["CONSTANTS"] = constants or {}
        with _without((SUPPORT,)):
            sys.modules |= {SUPPORT: ModuleType(SUPPORT), held.__name__: held}
            spec.loader.exec_module(module)
    return module


def project_modules(lowered: Lowered, spec: Spec, wanted: Sequence[str]) -> dict[str, ModuleType]:
    """Modules of a spec's project by name, with those that they import; `sys.modules` is left as it was."""
    texts = {
        path: text for path, text in project_files(lowered, spec).items() if path.endswith((".py", ".safetensors"))
    }
    names = {Path(path).parts[0].removesuffix(".py") for path in texts}
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder, _without(names):
        for path, text in texts.items():
            file = Path(folder, path)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(as_bytes(text))
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            for name in wanted:
                importlib.import_module(name)
        finally:
            sys.path.remove(folder)
        modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for module in modules.values():
        if hasattr(module, "tqdm"):
            module.__dict__["tqdm"] = lambda rows, **options: rows  # the caller reports progress
    return modules


@contextlib.contextmanager
def _without(packages: Collection[str]) -> Iterator[None]:
    """Leaves `sys.modules` without some modules and packages; restores it afterwards."""

    def take() -> dict[str, ModuleType]:
        found = [name for name in sys.modules if name.partition(".")[0] in packages]
        return {name: sys.modules.pop(name) for name in found}

    before = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(before)
