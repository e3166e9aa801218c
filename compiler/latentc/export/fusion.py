"""How many attentions, norms and activations became single operators, counted in the ONNX files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto

from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.export.lowerings import TABLE
from latentc.ir.core import Module, parameters, source_params
from latentc_runtime.manifest import Fusion

NORMS = ("LayerNormalization", "RMSNormalization", "GroupNormalization")
ACTIVATIONS = ("Gelu", "Swish", "Sigmoid")  # engines fuse Sigmoid with its product


def fusion_of(models: Iterable[ModelProto], modules: Iterable[Module], attentions: int) -> Fusion:
    """Counts of the files; `attentions` is the number in the model, `modules` are the sources of the files."""
    found = Counter(node.op_type for model in models for graph in graphs(model.graph) for node in graph.node)
    merged: dict[str, int] = {}
    for module in modules:
        for entry in module.entries.values():
            for path, param in parameters(module, entry).items():
                if param.recipe is not None and param.recipe.op == "concat" and param.type.rank == 2:
                    merged[path] = len(source_params(param))
    return Fusion(
        attentions=attentions,
        operators=found["Attention"],
        norms=sum(found[op] for op in NORMS),
        activations=sum(found[op] for op in ACTIVATIONS),
        merged=sum(merged.values()),
    )


def require_fused(fusion: Fusion, engine: str, opset: int) -> None:
    """Raises DiagnosticError E0509 if the engine needs attention as one operator and its files hold too few of them.

    Other engines fuse written-out attention themselves; plans are inspected when they are built.
    """
    taken = ENGINES[engine].attention == "operator" and opset >= TABLE["attention"].opset
    if not taken or fusion.operators >= fusion.attentions:
        return
    message = f"only {fusion.operators} of {fusion.attentions} attentions became one operator in the engine's files"
    mend = "`latentc show SPEC --why attention` says why the others did not"
    raise DiagnosticError.of("E0509", message, help=mend)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def fusion_text(fusion: Fusion, plans: Mapping[str, int]) -> str:
    """One line for the terminal; `plans` {capability: attentions fused into one kernel}."""
    if plans:
        attention = f"{min(plans.values())} attentions fused into one kernel each"
    elif fusion.attentions and not fusion.operators:
        attention = f"{fusion.attentions} attentions written out for the engine to fuse"
    else:
        attention = f"{fusion.operators} attentions fused into one operator each"
    parts = [attention, f"{fusion.norms} norms and {fusion.activations} activations fused"]
    return ", ".join(parts) + f", {fusion.merged} linear layers merged"
