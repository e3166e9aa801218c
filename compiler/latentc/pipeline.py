"""How a spec becomes what comes out: the stages, and the ordered passes of each target.

    spec.yaml ─ load_spec ─▶ Spec ─ lower ─▶ Lowered ─ optimised ─▶ Lowered ─┬─ emit   ─▶ PyTorch project
                                                                             └─ export ─▶ bundle

Training code is emitted from what `lower` made; engines from what the passes made of it. A module is verified after
every pass, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from latentc.components.contract import Lowered
from latentc.diagnostics import nearest
from latentc.ir.core import Module, alone, count, prune
from latentc.ir.reads import SamplerReads, weights_read
from latentc.ir.report import short
from latentc.ir.verify import VerifyError, verify
from latentc.passes.cache_blocks import block_caches
from latentc.passes.cleanup import cleanup
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.experts import experts
from latentc.passes.fuse import INNER_PARTS, RULES, FusionReport, Rule, fuse, fused
from latentc.passes.heads import cut_behind_heads
from latentc.passes.hoist import Hoisted, hoist, hoist_report
from latentc.passes.open_norms import open_norms
from latentc.passes.openvino import gelu_by_error_function, write_out_attention
from latentc.passes.precision import caches_in_half, precision
from latentc.passes.quantize import Quantization, quantize
from latentc.passes.to_inference import to_inference
from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Pass:
    """A named rewriting of the module; after it the module is well formed at `stage` (see `latentc.ir.verify`)."""

    name: str
    run: Callable[..., Module]  # takes the module, the spec, and the measurements that `given` names
    stage: str
    given: tuple[str, ...] = ()


_ONNX = (
    # First, so that no later pass has to know ops that only training has.
    Pass("to_inference", lambda module, spec: to_inference(module), "inference"),
    # Before guidance doubles the calls: what is folded here is folded once.
    Pass("cleanup", lambda module, spec: cleanup(module), "inference"),
    # After cleanup, before anything that reasons about batch sizes: from here on a guided call is an ordinary one.
    Pass("expand_guidance", lambda module, spec: expand_guidance(module, spec.optimize.guidance), "expanded"),
    # Before fusing, whose rules see one function at a time.
    Pass("open_norms", lambda module, spec: open_norms(module), "expanded"),
    # Before fusing: an expert is a feed-forward like any other, and its layers can be merged and quantised.
    Pass("experts", lambda module, spec: experts(module, _experts_form(spec)), "expanded"),
    # Before hoisting, whose cuts through a function would go through what belongs together.
    Pass("fuse", lambda module, spec: fuse(module, RULES[spec.target.engine]), "expanded"),
    # After guidance: its null branch is the same for every sample, so the rows are steps × (batch + one).
    Pass("hoist", lambda module, spec: hoist(module, spec.target.max_batch), "expanded"),
    # Guidance and hoisting leave constants and copies behind.
    Pass("tidy", lambda module, spec: cleanup(module), "expanded"),
    # When layers are what will run, and run where they will; before dtypes are chosen around them.
    Pass(
        "quantize",
        lambda module, spec, quantization: (
            module if quantization is None else quantize(module, quantization.plan, spec.target.engine)
        ),
        "expanded",
        ("quantization",),
    ),
)

_TYPED = (
    *_ONNX,
    # Last, when every value is there that will be: these engines compute in the dtypes of the graph.
    Pass("precision", lambda module, spec: precision(module, spec.target.precision), "expanded"),
)

# target engine -> its passes, in order. Flattening the calls is the exporter's last step.
PASSES: dict[str, tuple[Pass, ...]] = {
    "onnxruntime": _TYPED,
    "openvino": (
        # Its bf16 is a hint to the engine: the graph changes for it only where loops carry caches.
        *_ONNX,
        Pass("caches", lambda module, spec: caches_in_half(module, spec.target.precision), "expanded"),
        # When caches have their dtype, and attention is one node still.
        Pass("cache_blocks", lambda module, spec: block_caches(module, _cache_block(spec)), "expanded"),
        # Where bf16 rounds off more than the two forms differ by.
        Pass("gelu", lambda module, spec: gelu_by_error_function(module, spec.target.precision), "expanded"),
        # After quantising, whose products these are not. Measured in bf16 alone.
        Pass("inner_parts", lambda module, spec: fuse(module, _late_rules(spec)), "expanded"),
        # One transposition in place of three.
        Pass("heads", lambda module, spec: cut_behind_heads(module), "expanded"),
        # Last, so that everything before sees attentions as what they are.
        Pass("attention", lambda module, spec: write_out_attention(module), "expanded"),
    ),
    # What of attention they take depends on the form of the loop, so the exporter sees to it.
    "tensorrt": _TYPED,
    "tensorrt-rtx": _TYPED,
}


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


def _late_rules(spec: Spec) -> tuple[Rule, ...]:
    """Rules for what quantising left."""
    return (INNER_PARTS,) if (spec.target.engine, spec.target.precision) == ("openvino", "bf16") else ()


def _experts_form(spec: Spec) -> Literal["dense", "sparse"]:
    """`sparse` where the engine takes shapes that depend on data; quantised layers are those of the dense form."""
    if spec.optimize.experts != "auto":
        return spec.optimize.experts
    target = spec.target
    fits = target.engine == "onnxruntime" and target.precision == "fp32" and spec.optimize.quantize is None
    return "sparse" if fits else "dense"


def _cache_block(spec: Spec) -> int | None:
    """Tokens that caches grow by at once: one where the loop will not be in the engine, so that nothing is copied."""
    return spec.optimize.cache_block if spec.target.form in ("auto", "loop") else 1


def fusion_report(lowered: Lowered, spec: Spec) -> FusionReport:
    """What the fusion rules find in a lowered spec: how often each fits, and its nearest miss."""
    return fused(optimised(lowered, spec, "experts").module, (*RULES[spec.target.engine], *_late_rules(spec)))[1]


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
        entry, module = program.entry, alone(before, program.entry)
        after, loops = hoist_report(module, spec.target.max_batch)
        reports[entry] = HoistReport(program.steps, weights_read(module, entry), weights_read(after, entry), loops)
    return reports


def _for_inference(lowered: Lowered) -> Module:
    """The module without losses and the networks that only they call: engines have none."""
    dropped = {"loss", *lowered.networks} - set(lowered.sampled)
    entries = {k: v for k, v in lowered.module.entries.items() if k.split(".")[0] not in dropped}
    return lowered.module.with_(entries=entries)
