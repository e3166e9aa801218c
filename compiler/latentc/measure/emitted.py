"""The emitted training project, imported: its networks and samplers with given weights."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from latentc.components.contract import Lowered
from latentc.emit.project import SHARED, as_bytes, project_files
from latentc.measure.forward import load_arrays, needed
from latentc.spec import Spec

Array = np.ndarray
_MODULES = ("model", "sampler", "objective", "tables", "constants", *SHARED)


class Emitted:
    """The training project of a lowered spec: its networks and samplers as functions of numpy arrays."""

    def __init__(self, lowered: Lowered, spec: Spec, arrays: Mapping[str, Array]) -> None:
        self.torch: Any = needed("torch", "running the emitted PyTorch", 'pip install "latentc[torch]"')
        needed("tqdm", "running the emitted PyTorch", "pip install tqdm")
        model, sampler = project_modules(lowered, spec, ("model", "sampler"))
        self.networks: dict[str, Any] = {}
        for name in lowered.sampled:  # no sampler calls a discriminator, and no bundle has its weights
            net = model.NETWORKS[name]().eval()
            own = {path: array for path, array in arrays.items() if path.startswith(f"{name}.")}
            load_arrays(net, {path.removeprefix(f"{name}."): array for path, array in own.items()})
            self.networks[name] = net
        self._methods = {name: net.main_method for name, net in lowered.networks.items()}
        self._programs: dict[str, dict[int, Any]] = sampler.PROGRAMS

    def forward(self, network: str) -> Callable[..., Array]:
        """The main method of a network as a function of its inputs."""
        return functools.partial(self._run, getattr(self.networks[network], self._methods[network]))

    def sampler(self, steps: int, program: str = "sample") -> Callable[..., Array]:
        """A whole program of so many steps as a function of its inputs."""
        sampler = self._programs[program][steps]
        models = [self.networks[name] for name in sampler.networks]
        return functools.partial(self._run, functools.partial(sampler.sample, *models))

    def outputs(self, steps: int, program: str = "sample") -> Callable[..., list[Array]]:
        """As `sampler`, with all outputs of the program."""
        sampler = self._programs[program][steps]
        models = [self.networks[name] for name in sampler.networks]

        def run(*arrays: Array) -> list[Array]:
            with self.torch.no_grad():
                made = sampler.sample(*models, *(self.torch.from_numpy(np.array(a)) for a in arrays))
            return [out.numpy() for out in (made if isinstance(made, tuple) else (made,))]

        return run

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """PyTorch on so many CPU threads."""
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(count)
        try:
            yield
        finally:
            self.torch.set_num_threads(before)

    @contextlib.contextmanager
    def with_weight(self, network: str, path: str, value: Array) -> Iterator[Callable[..., Array]]:
        """The forward of a network while one of its weights is `value`."""
        weight = self.networks[network].state_dict()[path]
        kept = weight.clone()
        weight.copy_(self.torch.from_numpy(np.array(value, np.float32)))
        try:
            yield self.forward(network)
        finally:
            weight.copy_(kept)

    def inner_results(self, network: str, arrays: Sequence[Array]) -> dict[str, Array]:
        """{call path: its result} of one forward, for each submodule that gives one tensor."""
        found: dict[str, Array] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, self.torch.Tensor):
                    found[path] = output.numpy().copy()

            return hook

        net = self.networks[network]
        handles = [module.register_forward_hook(keep(path)) for path, module in net.named_modules() if path]
        try:
            self.forward(network)(*arrays)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def network_calls(
        self, network: str, steps: int, arrays: Sequence[Array], program: str = "sample"
    ) -> list[tuple[Array, ...]]:
        """The operands of every forward of a network while a sampler runs."""
        found: list[tuple[Array, ...]] = []
        keep = self.networks[network].register_forward_pre_hook(
            lambda module, inputs: found.append(tuple(x.numpy().copy() for x in inputs))
        )
        try:
            self.sampler(steps, program)(*arrays)
        finally:
            keep.remove()
        return found

    def _run(self, call: Callable[..., Any], *arrays: Array) -> Array:
        with self.torch.inference_mode():
            result: Array = call(*(self.torch.from_numpy(np.array(a)) for a in arrays)).numpy()
        return result


def project_modules(lowered: Lowered, spec: Spec, wanted: Sequence[str]) -> list[ModuleType]:
    """Modules of a spec's project as it imports them, no longer in `sys.modules` afterwards."""
    texts = project_files(lowered, spec)
    before = {name: sys.modules.pop(name) for name in _MODULES if name in sys.modules}
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        for name in ("constants.safetensors", *(f"{module}.py" for module in _MODULES)):
            if name in texts:
                Path(folder, name).write_bytes(as_bytes(texts[name]))
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            modules = [importlib.import_module(name) for name in wanted]
        finally:
            sys.path.remove(folder)
            for name in _MODULES:
                sys.modules.pop(name, None)
            sys.modules.update(before)
    for module in modules:
        if hasattr(module, "tqdm"):
            module.__dict__["tqdm"] = lambda rows, **options: rows  # progress is told by who asked
    return modules


__all__ = ["Emitted", "project_modules"]
