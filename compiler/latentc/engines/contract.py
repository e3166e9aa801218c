"""The contract of engines: the facts that the spec's rules, the passes, the exporter and the reports ask for.

Plain data; nothing here imports an engine, so that `check` and `--help` stay quick. A fact says what the engine does,
never which engine it is, and is read where it matters: no code outside this folder compares an engine's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda


@dataclass(frozen=True)
class Finding:
    """One line of `latentc doctor`; `state` is ok, missing (something optional) or fault."""

    name: str
    state: str
    detail: str
    help: str = ""


@dataclass(frozen=True)
class Unrolling:
    """Cost and gain of unrolling a sampler's loop, as `benchmarks/modes.py` measures it.

    `evaluations`: form `auto` unrolls loops of up to so many network evaluations. `copies`: each evaluation then holds
    its own copy of the weights. `gain`: what unrolling is worth, in words for the manifest.
    """

    evaluations: int
    copies: bool
    gain: str


@dataclass(frozen=True)
class Quantised:
    """How the engine runs quantised layers.

    `schemes` {scheme: precisions of everything else that it goes with}. `operators`: it has operators for quantised
    products (linear_int8, linear_blocks); otherwise layers are written as Q/DQ around the ordinary product.
    `convolutions`: it gains from quantised convolutions. `single_rows`: quantising the weights of layers that see one
    row per sample pays. `moves_rounding`: it moves the rounding of a convolution's input to another place, and there
    rounds wrongly. `gemm_unpacks`: it expands a packed Gemm weight, so that one-token products must be a MatMul.
    `powers_as_scales`: it reads scales that are powers of two (e8m0). `split_heads_late`: heads are split after
    quantising.
    """

    schemes: Mapping[str, tuple[str, ...]]
    operators: bool = False
    convolutions: bool = True
    single_rows: bool = False
    moves_rounding: bool = False
    gemm_unpacks: bool = False
    powers_as_scales: bool = False
    split_heads_late: bool = False


@dataclass(frozen=True)
class Plans:
    """Ahead-of-time plans: an engine that builds a binary per ONNX file and GPU.

    `package`: the module that builds them. `ahead_of_time`: builds for any listed capability without a GPU; otherwise
    for the GPU of the machine. `timing_cache`: keeps kernel timings between builds. `refused` {option of `target`: why
    the engine does not take it}. `largest_top_k`: it cannot select more elements. `least_fp8`, `least_fp4`: the first
    compute capability with such floats.
    """

    package: str
    ahead_of_time: bool
    timing_cache: bool
    refused: Mapping[str, str] = field(default_factory=dict)
    largest_top_k: int = 3840
    least_fp8: int = 89
    least_fp4: int = 100


@dataclass(frozen=True)
class Triton:
    """NVIDIA Triton's own backend for the engine.

    `kind`: the instance kind, None for that of the requested device. `parameters` of the model; `threads`: the one that
    sets the CPU threads. `precisions` the backend can compute in. `why_not_ensemble`: why `--kind auto`
    prefers the sampler model. `samples_first`: it batches by sample, and so takes no per-step noise. `folder`: a model
    is a folder with the graph and its weights; otherwise they lie side by side.
    """

    backend: str
    kind: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    threads: str | None = None
    precisions: tuple[str, ...] | None = None
    why_not_ensemble: str | None = None
    samples_first: bool = False
    folder: bool = False


@dataclass(frozen=True)
class Engine:
    """One engine. Its file says for each fact that is not obvious why it is so, with the measurement.

    name, title: as in `target.engine`, and in a sentence.
    extra: `pip install "latentc[EXTRA]"` brings it.
    device: the runtime's device that runs this engine and nothing in its place.
    graph_engine: the engine of the runtime that runs its ONNX files on a CPU.
    precisions: what `target.precision` may be.
    typed: it computes in the dtypes of the graph; otherwise its precision is a hint and the graph stays float32.
    quantised: how it runs quantised layers.
    fusions: fusion rules it gets beside those that every engine gets, by name, in order.
    fusions_after_quantising: {precision: rules applied to what quantisation left}.
    attention: "operator" (one ONNX operator), "written_out" (products and a softmax, unless causal without a mask) or
        "kernel" (an operator if the engine has a kernel for it, otherwise written out).
    gelu: which form of GELU runs in half precision: "as_given", or "erf" in place of the tanh form.
    sigmoid: how sigmoids that are no gates run in float32: "operator", or "written_out" by an exponential.
    group_norm: how group norms run in float32: "operator", or "by_channels" (moments per channel).
    kv_tiling: it copies the key-value caches that a loop carries, so that caches grow a block at a time.
    mixes_heads_and_queries: its attention is wrong if there are as many queries as heads; heads then join the batch.
    mixes_shared_weights: its results are wrong if one weight is read both as it is and transposed.
    sparse_experts: precisions in which it takes the data-dependent shapes of routed experts.
    missing: ops of the IR that it cannot run; a pass writes them out.
    missing_in_loops: ops of the IR that it cannot run inside a loop; the exporter writes them out there.
    any_trip: its step engines take tables of any number of rows; otherwise sizes are known when it is built.
    inner_loops: in form `host`, a loop inside a step is part of the step's engine.
    overwrites_constants: it may overwrite what it has computed once for all runs.
    overwrites_invariants: it may overwrite what a loop gives all its trips.
    ends_loops: it takes a loop's condition; otherwise a loop that may end early runs all its steps.
    unrolling: what form `auto` goes by.
    plans, triton: None if it has none.
    doctor: its lines of `latentc doctor`; gets this machine's GPU.
    """

    name: str
    title: str
    extra: str
    device: str
    graph_engine: str
    precisions: tuple[str, ...]
    typed: bool
    quantised: Quantised
    unrolling: Unrolling
    doctor: Callable[[Cuda | None], Iterator[Finding]]
    fusions: tuple[str, ...] = ()
    fusions_after_quantising: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attention: Literal["operator", "written_out", "kernel"] = "operator"
    gelu: Literal["as_given", "erf"] = "as_given"
    sigmoid: Literal["operator", "written_out"] = "operator"
    group_norm: Literal["operator", "by_channels"] = "operator"
    kv_tiling: bool = False
    mixes_heads_and_queries: bool = False
    mixes_shared_weights: bool = False
    sparse_experts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    missing_in_loops: tuple[str, ...] = ()
    any_trip: bool = True
    inner_loops: bool = True
    overwrites_constants: bool = False
    overwrites_invariants: bool = False
    ends_loops: bool = True
    cpu_only: bool = False
    plans: Plans | None = None
    triton: Triton | None = None

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f'pip install "latentc[{self.extra}]"'


def installed(distribution: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def versions(engine: str) -> dict[str, str]:
    """{package: version} that the content of a bundle for `engine`, the name of its package, depends on."""
    return {name: installed(name) or "not installed" for name in ("numpy", "onnx", engine)}


def package(name: str, module: str, distributions: Sequence[str], use: str, command: str) -> Finding:
    """True if a module of one of these distributions can be imported; `use` is what for, `command` installs it."""
    found = [f"{name} {installed(name)}" for name in distributions if installed(name)]
    if len(found) > 1:
        clash = f"{' and '.join(found)} are the same module: one hides the other"
        return Finding(name, "fault", clash, f"pip uninstall {' '.join(distributions)}, then install one")
    try:
        importlib.import_module(module)
    except ImportError as error:
        # An installed package that cannot be imported is broken; an absent one was not wanted.
        return Finding(name, "fault" if found else "missing", f"for {use}: {error}", f"run `{command}`")
    return Finding(name, "ok", found[0] if found else "installed")
