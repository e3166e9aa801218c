"""Compares what training runs: losses, their gradients, and every method of every network, on every backend.

Losses and gradients: the oracle against the emitted PyTorch, in float32 as trained. Methods, also those that only
losses call: on each installed engine too, after all its passes. Data and draws are random; so are weights, unless some
are given. Operands of methods are those of the calls in losses and programs, or drawn by their ports.

Dropout and the like are left out on both sides, and networks behave as in inference, except that losses whose layers
behave differently in training (batch norm, spectral norm) are also compared as in training.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from latentc.checkpoint import network_params
from latentc.components.contract import Lowered, Network, Update
from latentc.components.fields import FIRST_STAGE
from latentc.diagnostics import DiagnosticError
from latentc.emit.numbered import method_of
from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.ir.builder import Builder, Var
from latentc.ir.core import Function, Module, Node, only_entry, parameters, walk
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS, OpError
from latentc.ir.weight_gradients import WeightGradients, weight_gradients
from latentc.measure.calls import Call, Watched
from latentc.measure.execute import runner, sampler_inputs
from latentc.measure.loss import EmittedLosses
from latentc.measure.memory import available_memory
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES
from latentc.passes.cleanup import cleaned
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.rewrite import rewrite
from latentc.pipeline import optimised
from latentc.spec import Spec
from latentc.verify.control import control_of
from latentc.verify.draws import as_paths, drawn_loss_inputs, drawn_operands, drawn_weights
from latentc.verify.methods import title_of
from latentc.verify.report import ORACLE, TORCH, Comparison, Control, Report, Skipped
from latentc.verify.rounding import with_rounding
from latentc.weights import Array as InMemory
from latentc_runtime import BundleError
from latentc_runtime.backends import Backend, open_backend

Array = np.ndarray
Operands = Sequence[Array]
Progress = Callable[[int, int, str], None]

BATCH = 3
"""Samples that losses and methods are compared on."""

CPU_ENGINES = ("onnxruntime", "openvino")
"""Engines that run methods here, if they are installed."""

RATE = 2e9
"""FLOP/s that the oracle reaches at least; decides whether there is time for it."""

BACKWARD = 3
"""Cost of a loss and its gradient, in losses."""

SMALL = 1e-3
"""Gradients of a weight are judged by the largest of that weight, but at least this share of its network's."""

RANDOM = ("dropout", "drop_path", "training_noise")
"""Ops that are random in training, which the oracle leaves out."""

FORWARD = TOLERANCES["fp32"].forward
GRADIENT = TOLERANCES["fp32"].sampler  # errors of all layers add up, forward and backward


def verify_training(
    spec: Spec,
    lowered: Lowered,
    title: str,
    weights: Mapping[str, Mapping[str, Array]] | None = None,
    *,
    budget: float = 120.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compare the losses, gradients and methods of a spec; `title` says in the report what was given.

    `weights` {network: {path: array}}: by default drawn with `seed`. What does not fit into `budget` seconds is skipped
    and reported. Raises DiagnosticError E0706 without torch, MemoryError if drawn weights would fill the memory.
    """
    if weights is None:
        params = [p for network in _networks(lowered).values() for p in network_params(lowered, network).values()]
        if 8 * sum(param.type.count() for param in params) > available_memory():  # drawn in float64, kept in float32
            raise MemoryError
        rng = np.random.default_rng(seed)
        weights = {name: drawn_weights(lowered, network, rng) for name, network in _networks(lowered).items()}
    return _Training(spec, lowered, weights, budget, seed, progress or (lambda done, total, what: None)).report(title)


def _networks(lowered: Lowered) -> dict[str, Network]:
    """The networks of the spec itself; the first stage is another spec's."""
    return {name: network for name, network in lowered.networks.items() if name != FIRST_STAGE}


class _Training:
    def __init__(
        self,
        spec: Spec,
        lowered: Lowered,
        weights: Mapping[str, Mapping[str, Array]],
        budget: float,
        seed: int,
        progress: Progress,
    ) -> None:
        self.spec, self.lowered, self.weights = spec, lowered, weights
        self.budget, self.seed, self.progress = budget, seed, progress
        self.start = time.perf_counter()
        self.arrays = as_paths(weights)
        self.torch = EmittedLosses(lowered, spec, weights)
        self.comparisons: list[Comparison] = []
        self.controls: list[Control] = []
        self.skipped: list[Skipped] = []
        self.operands: dict[str, Operands] = {}  # by entry, of the first call in a loss or program

    def report(self, title: str) -> Report:
        networks = _networks(self.lowered)
        methods = [(network, name) for network in networks.values() for name in network.methods]
        total = len(self.lowered.updates) + len(methods)
        with _one_thread(self.torch.torch):
            for done, update in enumerate(self.lowered.updates):
                self.progress(done, total, f"comparing {_loss_title(update)}")
                self._loss(update)
            self._watch_programs()
            for done, (network, name) in enumerate(methods, len(self.lowered.updates)):
                self.progress(done, total, f"comparing {title_of(network.name, name)}")
                self._method(network, name)
        self.progress(total, total, "done")
        return Report(
            bundle=title,
            name=self.spec.name,
            device=", ".join(["training", TORCH, *(ENGINES[name].title for name in self.backends)]),
            comparisons=tuple(self.comparisons),
            controls=tuple(self.controls),
            divergences=(),
            skipped=tuple(self.skipped),
            seconds=time.perf_counter() - self.start,
        )

    # ---- what can be run

    def _skip(self, what: str, why: str) -> None:
        self.skipped.append(Skipped(what, why))

    def _fits(self, what: str, work: float) -> bool:
        """True if the oracle has time for `work` FLOPs."""
        left = self.budget - (time.perf_counter() - self.start)
        if work / RATE <= left:
            return True
        self._skip(what, f"it takes about {work / RATE:.0f} s, but the budget is {self.budget:.0f} s")
        return False

    @functools.cached_property
    def backends(self) -> dict[str, Backend]:
        """The engines that run here, by name."""
        found = {}
        for name in CPU_ENGINES:
            if importlib.util.find_spec(name) is None:
                self._skip(f"methods on {ENGINES[name].title}", "it is not installed")
                continue
            found[name] = open_backend("cpu", 1, name)
        return found

    # ---- losses

    def _loss(self, update: Update) -> None:
        title, entry = _loss_title(update), update.loss
        if not self._fits(title, BATCH * flops(self.lowered.module, entry)):
            return
        given = drawn_loss_inputs(self.spec, self.lowered, update, BATCH, self.seed)
        operands = list(given.values())
        names = [name.rsplit("/", 1)[-1] for name in update.metrics or ("loss",)]
        exact = Interpreter(self.lowered.module, self.arrays).run(entry, *operands)
        single = self._watched(entry, operands)
        got = self.torch.metrics(update, operands)
        self._compare_metrics(title, names, exact, lambda: single, list(got.values()))
        self._control(title, update, operands, list(got.values()))
        self._gradient(title, update, operands)
        if any(OPS[n.op].train or n.op == "auxiliary_loss" for n in _nodes(self.lowered.module, entry) if n.op in OPS):
            self._loss_in_training(title, update, operands, names)

    def _watched(self, entry: str, operands: Operands) -> Sequence[Array]:
        """A run by the oracle in float32 that notes the operands of the first call of each method."""
        methods = {
            method.function: name
            for network in _networks(self.lowered).values()
            for name, method in network.methods.items()
        }

        def seen(call: Call, given: Operands) -> None:
            self.operands.setdefault(call.entry, [np.array(x) for x in given])

        return Watched(self.lowered.module, methods, self.arrays, seen, float_dtype="f32").run(entry, *operands)

    def _compare_metrics(
        self, what: str, names: Sequence[str], exact: Operands, single: Callable[[], Operands], got: Operands
    ) -> None:
        for i, name in enumerate(names):
            error = relative_error(got[i], exact[i], _scale(exact))
            found = Comparison(what, name, BATCH, ORACLE, TORCH, error, FORWARD, error <= FORWARD)
            self.comparisons += with_rounding([found], lambda i=i: relative_error(single()[i], exact[i], _scale(exact)))  # type: ignore[misc]

    def _control(self, what: str, update: Update, operands: Operands, got: Operands) -> None:
        """PyTorch's loss against the oracle's with one changed weight, of the first trained network where it shows."""
        module, entry = self.lowered.module, self.lowered.module.entries[update.loss]
        tolerance = max([FORWARD, *(c.tolerance for c in self.comparisons if c.what == what)])

        def rerun(path: str, changed: Array) -> Sequence[Array]:
            return Interpreter(module, {**self.arrays, path: changed}).run(update.loss, *operands)

        made: list[Control] = []
        for name in update.networks:
            read = [path.removeprefix(f"{name}.") for path in parameters(module, entry) if path.startswith(f"{name}.")]
            if (one := control_of(what, name, read, self.arrays, got, rerun, tolerance)) is None:
                continue
            made.append(replace(one, candidate=TORCH))
            if one.ok:
                break
        self.controls += made[-1:]

    def _gradient(self, title: str, update: Update, operands: Operands) -> None:
        """The gradient of a loss by each weight, of each trained network apart."""
        what = f"gradient of {title}"
        if not self._fits(what, BACKWARD * BATCH * flops(self.lowered.module, update.loss)):
            return
        module = expand_guidance(only_entry(self.lowered.module, update.loss))
        try:
            found = weight_gradients(module, update.loss, update.networks, cleaned)
        except OpError as error:
            self._skip(what, str(error))
            return
        if not found.paths:
            self._skip(what, "the loss reads no weight of the networks that it trains")
            return
        exact = self._by_oracle(found, operands, "f64")
        got = self.torch.gradients(update, operands)

        @functools.cache
        def single() -> dict[str, Array]:
            return self._by_oracle(found, operands, "f32")

        for name in update.networks:
            own = [path for path in found.paths if path.startswith(f"{name}.")]
            if not own:
                continue
            least = SMALL * max(float(np.max(np.abs(exact[path]), initial=0.0)) for path in own)
            errors = {path: relative_error(got[path], exact[path], least) for path in own}
            point, off = max(errors.items(), key=lambda item: item[1])
            point = point.removeprefix(f"{name}.")
            one = Comparison(f"{what} by {name}", point, BATCH, ORACLE, TORCH, off, GRADIENT, off <= GRADIENT)

            def rounding(own: Sequence[str] = own, least: float = least) -> float:
                return max(relative_error(single()[path], exact[path], least) for path in own)

            self.comparisons += with_rounding([one], rounding)

    def _by_oracle(self, found: WeightGradients, operands: Operands, dtype: str) -> dict[str, Array]:
        values = [self.arrays[path] for path in found.paths]
        outs = Interpreter(found.module, self.arrays, dtype).run(found.function, *operands, *values)
        return dict(zip(found.paths, outs[len(outs) - len(found.paths) :], strict=True))

    def _loss_in_training(self, title: str, update: Update, operands: Operands, names: Sequence[str]) -> None:
        """The same loss with networks as in training, without what is random there."""
        what = f"{title} in training"
        lowered = without_random(self.lowered)
        torch = self.torch if lowered is self.lowered else EmittedLosses(lowered, self.spec, self.weights)
        got = torch.metrics(update, operands, training=True)

        def run(dtype: str) -> list[Array]:
            oracle = Trained(lowered.module, self.arrays, dtype, training=True)
            outs = list(oracle.run(update.loss, *operands))
            return [*outs, *([np.sum(np.stack(oracle.auxiliary), axis=0)] if oracle.auxiliary else [])]

        named = [*names, *(["auxiliary"] if "auxiliary" in got else [])]
        self._compare_metrics(what, named, run("f64"), functools.cache(lambda: run("f32")), list(got.values()))

    # ---- methods

    def _watch_programs(self) -> None:
        """Notes the operands of the methods that programs call, as long as some are missing."""
        for program in self.lowered.programs:
            module = self.lowered.module
            missing = {f"{n}.{m}" for n, network in _networks(self.lowered).items() for m in network.methods}
            if missing <= self.operands.keys():
                return
            if not self._fits(f"operands from program {program.name}", BATCH * flops(module, program.entry)):
                continue
            classes = np.arange(BATCH) % max(self.spec.data.classes, 1)
            with contextlib.suppress(BundleError, ValueError, KeyError):
                given = sampler_inputs(self.lowered, program, classes.tolist(), self.seed)
                self._watched(program.entry, list(given.values()))

    def _method(self, network: Network, name: str) -> None:
        method, entry, title = network.methods[name], f"{network.name}.{name}", title_of(network.name, name)
        module = self.lowered.module
        if not self._fits(title, BATCH * flops(module, method.function)):
            return
        own = self.weights[network.name]
        operands = self.operands.get(entry)
        drawn = operands is None
        if operands is None:
            operands = drawn_operands(method.inputs, BATCH, np.random.default_rng(self.seed))
        run = functools.partial(_run, module, method.function, operands=operands)
        try:
            exact = run(own, "f64")
        except (IndexError, ValueError) as error:
            self._skip(title, f"operands drawn by its ports do not fit it: {error}")
            return
        if drawn and not all(np.isfinite(x).all() for x in exact if x.dtype.kind == "f"):
            self._skip(title, "operands drawn by its ports give no finite numbers")
            return
        results: dict[str, Operands] = {}
        if network.name in self.torch.model.NETWORKS:
            results[TORCH] = self._by_torch(network, name, operands)
        else:
            self._skip(f"{title} by {TORCH}", "the project does not need the network")
        for engine in self.backends:
            with contextlib.suppress(_NotRun):
                results[ENGINES[engine].title] = self._by_engine(engine, entry, title, operands)
        compared = [
            Comparison(
                title, "drawn" if drawn else "called", BATCH, ORACLE, candidate, error, FORWARD, error <= FORWARD
            )
            for candidate, outs in results.items()
            for error in (_largest(outs, exact),)
        ]
        compared = with_rounding(compared, lambda: _largest(run(own, "f32"), exact))
        self.comparisons += compared
        if results and not any(control.network == network.name for control in self.controls):
            self._control_of_method(network, name, operands, results, max(c.tolerance for c in compared))

    def _control_of_method(
        self, network: Network, name: str, operands: Operands, results: Mapping[str, Operands], tolerance: float
    ) -> None:
        """The last backend's results against the oracle's with one changed weight."""
        function = network.methods[name].function
        own = {f"{network.name}.{path}": array for path, array in self.weights[network.name].items()}

        def rerun(path: str, changed: Array) -> Sequence[Array]:
            weights = {**self.weights[network.name], path.removeprefix(f"{network.name}."): changed}
            return _run(self.lowered.module, function, weights, "f64", operands)

        read = parameters(self.lowered.module, function)
        if not read:
            return
        candidate, got = list(results.items())[-1]
        made = control_of(title_of(network.name, name), network.name, read, own, got, rerun, tolerance)
        if made is not None:
            self.controls.append(replace(made, candidate=candidate))

    def _by_torch(self, network: Network, name: str, operands: Operands) -> list[Array]:
        torch = self.torch.torch
        with torch.no_grad():
            method = method_of(self.torch.network(network.name), name)
            outs = method(*(torch.from_numpy(np.array(x)) for x in operands))
        # A view of a parameter, such as an expanded one, requires a gradient even so.
        return [out.detach().numpy() for out in (outs if isinstance(outs, tuple | list) else (outs,))]

    def _by_engine(self, engine: str, entry: str, title: str, operands: Operands) -> list[Array]:
        lowered, target = self._deployed(engine), self.spec.target
        weights = {path: InMemory(array) for path, array in self.arrays.items()}
        try:
            module = for_form(only_entry(lowered.module, entry), "loop", ENGINES[engine])
            return runner(module, entry, weights, target.opset, self.backends[engine])(operands)
        except (BundleError, DiagnosticError) as error:
            self._skip(f"{title} on {ENGINES[engine].title}", str(error))
            raise _NotRun from None

    def _deployed(self, engine: str) -> Lowered:
        """The networks after all passes of an engine."""
        if engine not in self._lowered:
            target = self.spec.target.model_copy(update={"engine": engine, "precision": "fp32"})
            plain = self.spec.optimize.model_copy(update={"quantize": None})
            spec = self.spec.model_copy(update={"target": target, "optimize": plain})
            own = _networks(self.lowered)
            self._lowered[engine] = optimised(replace(self.lowered, networks=own, programs=()), spec)
        return self._lowered[engine]

    @functools.cached_property
    def _lowered(self) -> dict[str, Lowered]:
        return {}


class _NotRun(Exception):
    pass


class Trained(Interpreter):
    """The interpreter in training, whose calls read the state that calls before them wrote."""

    def call(self, fn: Function, inputs: Sequence[Array], prefix: str) -> Sequence[Array]:
        outs = super().call(fn, inputs, prefix)
        self._weights.update(self.written)
        return outs


def without_random(lowered: Lowered) -> Lowered:
    """The same without what is random in training; the same object if nothing is."""

    def replaced(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op in RANDOM:
            return operands[:1]
        if node.attrs.get("dropout"):
            attrs = {name: value for name, value in node.attrs.items() if name != "dropout"}
            return b.keep(Node(node.op, node.inputs, node.outputs, attrs, node.loc), operands)
        return None

    module = rewrite(lowered.module, replaced)
    return lowered if module is lowered.module else replace(lowered, module=module)


def _run(module: Module, function: str, weights: Mapping[str, Array], dtype: str, operands: Operands) -> list[Array]:
    return list(Interpreter(module, weights, dtype).run(function, *operands))


def _nodes(module: Module, entry: str) -> Iterator[Node]:
    """Every node that an entry runs."""
    return (node for _, node in walk(only_entry(module, entry)))


def _scale(metrics: Operands) -> float:
    """The size by which a loss and its parts are judged: parts may be differences of almost equal numbers."""
    return SMALL * max((float(np.max(np.abs(x), initial=0.0)) for x in metrics), default=0.0)


def _largest(results: Operands, exact: Operands) -> float:
    return max((relative_error(a, b) for a, b in zip(results, exact, strict=True)), default=0.0)


def _loss_title(update: Update) -> str:
    return f"loss {update.name}" if update.name else "loss"


@contextlib.contextmanager
def _one_thread(torch: object) -> Iterator[None]:
    before = torch.get_num_threads()  # type: ignore[attr-defined]
    torch.set_num_threads(1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before)  # type: ignore[attr-defined]
