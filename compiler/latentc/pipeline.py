"""How a spec becomes what comes out: the stages, and every pass in order, with the engines it is for.

    spec.yaml ─ load_spec ─▶ Spec ─ lower ─▶ Lowered ─ optimised ─▶ Lowered ─┬─ emit   ─▶ PyTorch project
                                                                             └─ export ─▶ bundle

Training code is emitted from what `lower` returns, engine files from what the passes make of it. A module is verified
after every pass, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from latentc.components.contract import Lowered
from latentc.diagnostics import nearest
from latentc.engines import ENGINES, Engine
from latentc.ir.core import Module, count, only_entry, prune
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.reads import SamplerReads, weights_read
from latentc.ir.report import short
from latentc.ir.verify import VerifyError, verify
from latentc.passes.attention import write_out_attention
from latentc.passes.cleanup import cleaned, cleanup
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.experts import experts
from latentc.passes.fuse import RULES, FusionReport, fuse, fused, rules_after_quantising
from latentc.passes.gelu import gelu_by_error_function
from latentc.passes.heads import cut_behind_heads
from latentc.passes.hoist import Hoisted, hoist, hoist_report
from latentc.passes.kv_tiling import tile_caches
from latentc.passes.open_norms import open_norms
from latentc.passes.precision import caches_in_half, precision
from latentc.passes.quantize import Quantization, quantize
from latentc.passes.shared_weights import separate_shared_weights
from latentc.passes.to_inference import to_inference
from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Pass:
    """A named rewriting of the module; after it the module is well formed at `stage` (see `latentc.ir.verify`)."""

    name: str
    run: Callable[..., Module]  # takes the module, the spec, and the measurements that `given` names
    stage: str = "expanded"
    given: tuple[str, ...] = ()
    when: Callable[[Engine], bool] = lambda engine: True  # the engines that it is for


# Every pass, in order. Ops that an engine lacks in some form of the loop are written out by the exporter, which chooses
# the form; flattening the calls is its last step.
_ORDER = (
    # First: `stop_gradient` still stops gradients, and every later pass sees ordinary nodes alone.
    Pass("grad", lambda module, spec: expand_derivatives(module, cleaned), "train"),
    # So that no later pass has to know ops that only training has.
    Pass("to_inference", lambda module, spec: to_inference(module), "inference"),
    # Before guidance doubles the calls: what is folded here is folded once.
    Pass("cleanup", lambda module, spec: cleanup(module), "inference"),
    # After cleanup, before anything that reasons about batch sizes: from here on a guided call is an ordinary one.
    Pass("expand_guidance", lambda module, spec: expand_guidance(module, spec.optimize.guidance)),
    # Before fusing, whose rules see one function at a time.
    Pass("open_norms", lambda module, spec: open_norms(module)),
    # Before fusing: an expert is a feed-forward like any other, and its layers can be merged and quantised.
    Pass("experts", lambda module, spec: experts(module, _experts_form(spec))),
    # Before hoisting, which would cut through functions whose ops belong together.
    Pass("fuse", lambda module, spec: fuse(module, RULES[spec.target.engine])),
    # After guidance: its null branch is the same for every sample, so the rows are steps × (batch + one).
    Pass("hoist", lambda module, spec: hoist(module, spec.target.max_batch)),
    # Guidance and hoisting leave constants and copies behind.
    Pass("tidy", lambda module, spec: cleanup(module)),
    # When the layers that will run are there, and in their place; before dtypes are chosen around them.
    Pass(
        "quantize",
        lambda module, spec, quantization: (
            module if quantization is None else quantize(module, quantization.plan, spec.target.engine)
        ),
        given=("quantization",),
    ),
    # Last for these engines, when every value is there: they compute in the dtypes of the graph.
    Pass("precision", lambda module, spec: precision(module, spec.target.precision), when=lambda engine: engine.typed),
    # The others choose their precision themselves, but would leave what a loop carries in float32.
    Pass(
        "caches",
        lambda module, spec: caches_in_half(module, spec.target.precision),
        when=lambda engine: not engine.typed,
    ),
    # When caches have their dtype, and attention is one node still.
    Pass(
        "kv_tiling",
        lambda module, spec: tile_caches(module, _cache_block(spec)),
        when=lambda engine: engine.kv_tiling,
    ),
    # In half precision the two forms differ by less than rounding does.
    Pass(
        "gelu",
        lambda module, spec: gelu_by_error_function(module, spec.target.precision),
        when=lambda engine: engine.gelu == "erf",
    ),
    # After quantising, which takes its own layers first.
    Pass(
        "inner_parts",
        lambda module, spec: fuse(module, rules_after_quantising(spec.target.engine, spec.target.precision)),
        when=lambda engine: bool(engine.fusions_after_quantising),
    ),
    # After fusing and quantising, which make new weights of some.
    Pass(
        "shared_weights",
        lambda module, spec: separate_shared_weights(module),
        when=lambda engine: engine.mixes_shared_weights,
    ),
    # One transposition in place of three, before attention is products.
    Pass("heads", lambda module, spec: cut_behind_heads(module), when=lambda engine: engine.attention == "written_out"),
    # Last, so that every pass before it sees attention as one node.
    Pass(
        "attention",
        lambda module, spec: write_out_attention(module),
        when=lambda engine: engine.attention == "written_out",
    ),
)

PASSES: dict[str, tuple[Pass, ...]] = {
    name: tuple(p for p in _ORDER if p.when(engine)) for name, engine in ENGINES.items()
}
"""{engine: its passes, in order}"""


class PassError(Exception):
    """A pass left a module that is not well formed; the message names it, those before it, and shows the nodes."""

    def __init__(self, name: str, before: Sequence[str], error: VerifyError) -> None:
        history = f" (after {', '.join(before)})" if before else ""
        super().__init__(f"pass {name}{history} broke the module: {error}")


def optimised(
    lowered: Lowered, spec: Spec, after: str | None = None, quantization: Quantization | None = None
) -> Lowered:
    """The lowered spec after the target's passes, or after the first pass named `after`.

    `quantization` says which layers are quantised; its tensors go beside the weights (`{**weights, **tensors}`).
    Raises PassError where a pass breaks the module, ValueError where no pass is called `after`.
    """
    passes = PASSES[spec.target.engine]
    names = [p.name for p in passes]
    if after is not None and after not in names:
        guess = nearest(after, names)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ValueError(f"no pass is called {after!r}: they are {', '.join(names)}{hint}")
    module, given = prune(_for_inference(lowered)), {"quantization": quantization}
    facts = dict(lowered.facts)
    for i, current in enumerate(passes):
        if current.name == "hoist":  # what is an attention by now should be one in the engine
            facts |= {
                f"attentions of {p.entry}": count(module, module.entries[p.entry], "attention")
                for p in lowered.programs
            }
        module = current.run(module, spec, *(given[name] for name in current.given))
        try:
            verify(module, current.stage)
        except VerifyError as error:
            raise PassError(current.name, names[:i], error) from error
        if current.name == after:
            break
    return replace(lowered, module=module, updates=(), facts=facts)


def _experts_form(spec: Spec) -> Literal["dense", "sparse"]:
    """`sparse` if the engine takes data-dependent shapes; quantisation needs the layers of the dense form."""
    if spec.optimize.experts != "auto":
        return spec.optimize.experts
    target = spec.target
    fits = target.precision in ENGINES[target.engine].sparse_experts and spec.optimize.quantize is None
    return "sparse" if fits else "dense"


def _cache_block(spec: Spec) -> int | None:
    """Tokens by which caches grow at once; 1 if the loop is not inside the engine, which then copies no cache."""
    return spec.optimize.kv_tile if spec.target.form in ("auto", "loop") else 1


def fusion_report(lowered: Lowered, spec: Spec) -> FusionReport:
    """What the fusion rules find in a lowered spec: how often each fits, and its nearest miss."""
    engine = spec.target.engine
    rules = (*RULES[engine], *rules_after_quantising(engine, spec.target.precision))
    return fused(optimised(lowered, spec, "experts").module, rules)[1]


@dataclass(frozen=True)
class HoistReport:
    """The weights a sampler reads before and after hoisting, and what was decided about each of its loops."""

    steps: int
    before: SamplerReads
    after: SamplerReads
    loops: tuple[Hoisted, ...]

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        loops = [asdict(loop) for loop in self.loops]
        return {"before": self.before.data(), "after": self.after.data(), "loops": loops}

    def text(self) -> str:
        """As lines for a terminal."""
        reads = [
            f"{short(r.total, 'B')} {when} hoisting ({short(r.total // self.steps, 'B')} a step)"
            for r, when in ((self.before, "before"), (self.after, "after"))
        ]
        kept = [f"  {loop.body}: {loop.tensors} values leave it, {loop.why}" for loop in self.loops]
        return "\n".join([f"weights read: {', '.join(reads)}", *kept]) + "\n"


def hoist_reports(lowered: Lowered, spec: Spec) -> dict[str, HoistReport]:
    """{sampler's entry: what hoisting does to it}."""
    before = optimised(lowered, spec, "fuse").module
    reports = {}
    for program in lowered.programs:
        entry, module = program.entry, only_entry(before, program.entry)
        after, loops = hoist_report(module, spec.target.max_batch)
        reports[entry] = HoistReport(program.steps, weights_read(module, entry), weights_read(after, entry), loops)
    return reports


def _for_inference(lowered: Lowered) -> Module:
    """The module without losses and the networks that only they call: engines have none."""
    dropped = {"loss", *lowered.networks} - set(lowered.sampled)
    entries = {k: v for k, v in lowered.module.entries.items() if k.split(".")[0] not in dropped}
    return lowered.module.with_(entries=entries)
