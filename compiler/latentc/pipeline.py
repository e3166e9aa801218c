"""The stages from a spec to a project or bundle, and every pass in order, with the engines it is for.

    spec.yaml ─ load_spec ─▶ Spec ─ lower ─▶ Lowered ─ optimised ─▶ Lowered ─┬─ emit   ─▶ PyTorch project
                                                                             └─ export ─▶ bundle

Training code is emitted from the lowered module, engine files from the module after all passes. A module is verified
after every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from latentc.components.capabilities import TRAINING
from latentc.components.contract import Lowered
from latentc.diagnostics import nearest
from latentc.engines import ENGINES, Engine
from latentc.ir.core import Module, count, only_entry, prune
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.report import SamplerReads, short, weights_read
from latentc.ir.verify import VerifyError, verify
from latentc.passes.cleanup import cleaned, cleanup
from latentc.passes.decompose import decompose, decompose_attention, fold_heads, group_norm_by_channels
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.experts import expand_experts
from latentc.passes.fuse import RULES, FusionReport, fuse, fused, rules_after_quantising
from latentc.passes.gelu import gelu_by_error_function
from latentc.passes.heads import split_heads_late
from latentc.passes.hoist import Hoisted, hoist, hoist_report
from latentc.passes.inline_norms import inline_norms
from latentc.passes.kv_tiling import tile_caches
from latentc.passes.precision import caches_in_half, precision
from latentc.passes.quantize.plan import Quantization
from latentc.passes.quantize.rewrite import quantize
from latentc.passes.shared_weights import separate_shared_weights
from latentc.passes.sigmoid import exact_sigmoid
from latentc.passes.to_inference import to_inference
from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Pass:
    """A named rewrite of the module; after it the module is well formed at `stage` (see `latentc.ir.verify`)."""

    name: str
    run: Callable[[Module, Spec, Quantization | None], Module]
    stage: str = "expanded"
    when: Callable[[Engine], bool] = lambda engine: True  # the engines it is for


# Every pass, in order. Ops that an engine lacks in one of the loop forms are decomposed by the exporter, which chooses
# the form; inlining calls is its last step.
_ORDER = (
    # First: `stop_gradient` still stops gradients here, and later passes see only ordinary nodes.
    Pass("grad", lambda module, spec, _: expand_derivatives(module, cleaned), "train"),
    # So that later passes need not handle training-only ops.
    Pass("to_inference", lambda module, spec, _: to_inference(module), "inference"),
    # Before guidance duplicates calls, so that everything is folded once.
    Pass("cleanup", lambda module, spec, _: cleanup(module), "inference"),
    # After cleanup, before passes that reason about batch sizes: from here on a guided call is an ordinary one.
    Pass("expand_guidance", lambda module, spec, _: expand_guidance(module, spec.optimize.guidance)),
    # Before fusing, whose rules see one function at a time.
    Pass("inline_norms", lambda module, spec, _: inline_norms(module)),
    # Before fusing: an expert is a feed-forward like any other, and its layers can be merged and quantised.
    Pass("experts", lambda module, spec, _: expand_experts(module, _experts_form(spec))),
    # Before hoisting, which would split functions whose ops could be fused.
    Pass("fuse", lambda module, spec, _: fuse(module, RULES[spec.target.engine])),
    # After guidance: the null branch is the same for every sample, so there are steps × (batch + 1) rows.
    Pass("hoist", lambda module, spec, _: hoist(module, spec.target.max_batch)),
    # Guidance and hoisting leave constants and copies behind.
    Pass("tidy", lambda module, spec, _: cleanup(module)),
    # After the passes that create or move layers; before dtypes are chosen around them.
    Pass("quantize", lambda module, spec, plan: quantize(module, plan.plan, spec.target.engine) if plan else module),
    # For engines that compute in the dtypes of the graph: after the passes that create values.
    Pass("precision", lambda module, spec, _: precision(module, spec.target.precision), when=lambda e: e.typed),
    # The other engines choose precisions themselves, but would keep the carried values of loops in float32.
    Pass("caches", lambda module, spec, _: caches_in_half(module, spec.target.precision), when=lambda e: not e.typed),
    # After caches have their dtype, before attention is decomposed.
    Pass("kv_tiling", lambda module, spec, _: tile_caches(module, _cache_block(spec)), when=lambda e: e.kv_tiling),
    # After the precision is known: only in half precision do the two forms differ by less than rounding.
    Pass(
        "gelu",
        lambda module, spec, _: gelu_by_error_function(module, spec.target.precision),
        when=lambda e: e.gelu == "erf",
    ),
    # After fusing, which looks for the operator; only float32 can tell the two forms apart.
    Pass(
        "sigmoid",
        lambda module, spec, _: exact_sigmoid(module, spec.target.precision),
        when=lambda e: e.sigmoid == "written_out",
    ),
    # After quantising, which looks for the layers around a norm; before ops are decomposed, which would flatten groups.
    Pass(
        "group_norm",
        lambda module, spec, _: group_norm_by_channels(module, spec.target.precision),
        when=lambda e: e.group_norm == "by_channels",
    ),
    # Ops that an engine lacks are decomposed.
    Pass(
        "missing",
        lambda module, spec, _: decompose(module, ENGINES[spec.target.engine].missing),
        when=lambda e: bool(e.missing),
    ),
    # After quantising, so that it applies to the remaining layers.
    Pass(
        "inner_parts",
        lambda module, spec, _: fuse(module, rules_after_quantising(spec.target.engine, spec.target.precision)),
        when=lambda e: bool(e.fusions_after_quantising),
    ),
    # After fusing and quantising, which replace weights.
    Pass(
        "shared_weights",
        lambda module, spec, _: separate_shared_weights(module),
        when=lambda e: e.mixes_shared_weights,
    ),
    # One transposition instead of three; before attention is decomposed.
    Pass("heads", lambda module, spec, _: split_heads_late(module), when=lambda e: e.attention == "written_out"),
    # After it, which looks for heads in their own axis; before attention is decomposed.
    Pass("fold_heads", lambda module, spec, _: fold_heads(module), when=lambda e: e.mixes_heads_and_queries),
    # Last, so that all other passes see attention as one node.
    Pass("attention", lambda module, spec, _: decompose_attention(module), when=lambda e: e.attention == "written_out"),
)

PASSES: dict[str, tuple[Pass, ...]] = {
    name: tuple(p for p in _ORDER if p.when(engine)) for name, engine in ENGINES.items()
}
"""{engine: its passes, in order}"""


class PassError(Exception):
    """A pass left an ill-formed module; the message names the pass and those before it, and shows the nodes."""

    def __init__(self, name: str, before: Sequence[str], error: VerifyError) -> None:
        history = f" (after {', '.join(before)})" if before else ""
        super().__init__(f"pass {name}{history} broke the module: {error}")


def optimised(
    lowered: Lowered, spec: Spec, after: str | None = None, quantization: Quantization | None = None
) -> Lowered:
    """The lowered spec after the target's passes, or after the pass named `after`.

    `quantization` selects the quantised layers; its tensors are used along with the weights
    (`{**weights, **tensors}`). Raises PassError if a pass breaks the module, ValueError for an unknown `after`.
    """
    passes = PASSES[spec.target.engine]
    names = [p.name for p in passes]
    if after is not None and after not in names:
        guess = nearest(after, names)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ValueError(f"no pass is called {after!r}; passes: {', '.join(names)}{hint}")
    module = prune(_for_inference(lowered, quantized=spec.optimize.quantize is not None))
    facts = dict(lowered.facts)
    for i, current in enumerate(passes):
        if current.name == "quantize":  # the engine should end up with as many attentions as hoisting has left
            facts |= {
                f"attentions of {p.entry}": count(module, module.entries[p.entry], "attention")
                for p in lowered.programs
            }
        module = current.run(module, spec, quantization)
        try:
            verify(module, current.stage)
        except VerifyError as error:
            raise PassError(current.name, names[:i], error) from error
        if current.name == after:
            break
    return replace(lowered, module=module, updates=(), facts=facts)


def _experts_form(spec: Spec) -> Literal["dense", "sparse"]:
    """`sparse` if the engine supports data-dependent shapes; quantisation needs the layers of the dense form."""
    if spec.optimize.experts != "auto":
        return spec.optimize.experts
    target = spec.target
    fits = target.precision in ENGINES[target.engine].sparse_experts and spec.optimize.quantize is None
    return "sparse" if fits else "dense"


def _cache_block(spec: Spec) -> int | None:
    """Tokens per block of caches; 1 if the loop is outside the engine, so that no cache is copied."""
    return spec.optimize.kv_tile if spec.target.form in ("auto", "loop") else 1


def fusion_report(lowered: Lowered, spec: Spec) -> FusionReport:
    """How often each fusion rule applies to a lowered spec, and its nearest miss."""
    engine = spec.target.engine
    rules = (*RULES[engine], *rules_after_quantising(engine, spec.target.precision))
    return fused(optimised(lowered, spec, "experts").module, rules)[1]


@dataclass(frozen=True)
class HoistReport:
    """The weights that a sampler reads before and after hoisting, and the decisions about its loops."""

    steps: int
    before: SamplerReads
    after: SamplerReads
    loops: tuple[Hoisted, ...]

    def data(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        loops = [asdict(loop) for loop in self.loops]
        return {"before": self.before.data(), "after": self.after.data(), "loops": loops}

    def text(self) -> str:
        """Text for a terminal."""
        reads = [
            f"{short(r.total, 'B')} {when} hoisting ({short(r.total // self.steps, 'B')} per step)"
            for r, when in ((self.before, "before"), (self.after, "after"))
        ]
        kept = [f"  {loop.body}: {loop.tensors} values leave it, {loop.why}" for loop in self.loops]
        return "\n".join([f"weights read: {', '.join(reads)}", *kept]) + "\n"


def hoist_reports(lowered: Lowered, spec: Spec) -> dict[str, HoistReport]:
    """{entry of a sampler: what hoisting does to it}."""
    before = optimised(lowered, spec, "fuse").module
    reports = {}
    for program in lowered.programs:
        entry, module = program.entry, only_entry(before, program.entry)
        after, loops = hoist_report(module, spec.target.max_batch)
        reports[entry] = HoistReport(program.steps, weights_read(module, entry), weights_read(after, entry), loops)
    return reports


def _for_inference(lowered: Lowered, quantized: bool) -> Module:
    """The module without losses and the networks that only they use.

    If layers are `quantized`, also without methods that only training calls: calibration never sees their inputs.
    """
    dropped = {"loss", *lowered.networks} - set(lowered.sampled)
    entries = {
        entry: function
        for entry, function in lowered.module.entries.items()
        if entry.split(".")[0] not in dropped and not (quantized and entry.split(".")[-1] == TRAINING)
    }
    return lowered.module.with_(entries=entries)
