"""The first stage in a lowered spec: adds its methods, and appends its decoder to programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentc.components.backbone import Backbone
from latentc.components.contract import Network, OutputField, Program
from latentc.components.fields import FIRST_STAGE
from latentc.ir.builder import ModuleBuilder, Rewriter, Var
from latentc.ir.core import reachable

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def add_first_stage(mb: ModuleBuilder, spec: Spec, encodes: bool, programs: Sequence[Program] = ()) -> Network | None:
    """Adds the data's autoencoder as network `first_stage`, or returns None if the data has none.

    It has the method `decode`, with `encodes` also `encode`, and those of the others that programs need.
    """
    stage = spec.first_stage
    if stage is None:
        return None
    backbone = stage.networks["main"]
    assert isinstance(backbone, Backbone) and stage.data.shape is not None
    before = set(mb.functions)
    built = backbone.build(mb, FIRST_STAGE, stage, stage.data.shape[0])
    mixed = any(output.latents for program in programs for output in program.outputs)
    wanted = ("decode", *(("encode",) if encodes else ()), *(("decode_latents",) if mixed else ()))
    methods = {name: built.methods[name] for name in wanted if name in built.methods}
    # Other methods are left out, so that an engine does not need the encoder's weights.
    for name in built.methods:
        del mb.entries[f"{FIRST_STAGE}.{name}"]
    mb.entries |= {f"{FIRST_STAGE}.{name}": method.function for name, method in methods.items()}
    used = before.union(reachable(mb.finish(), tuple(method.function for method in methods.values())))
    for name in [name for name in mb.functions if name not in used]:
        del mb.functions[name]
    return replace(built, methods=methods)


def with_decoder(mb: ModuleBuilder, program: Program, stage: Network, spec: Spec) -> Program:
    """The program with its latents or tokens decoded; unchanged if it returns none."""
    modelled = "x" if "x" in spec.data.fields else "tokens"
    outputs = program.outputs or (OutputField("samples", modelled),)
    if not any(output.field == modelled or output.latents for output in outputs):
        return program
    assert spec.first_stage is not None and spec.data.first_stage is not None
    pictures, (shift, scale) = spec.first_stage.data.fields["x"], spec.data.normalisation
    fn = mb.functions[mb.entries[program.entry]]
    b = Rewriter(mb, fn)
    for node in fn.nodes:
        b.append(node)
    fields = []
    for output, value in zip(outputs, fn.outputs, strict=True):
        x = Var(value, b)
        if output.latents and "decode_latents" in stage.methods:
            x = b.call(stage.methods["decode_latents"].function, FIRST_STAGE, x, out="images")
            output = OutputField(output.name, pictures)
        elif output.field == modelled:
            z = b.div(x, _per_channel(b, scale), out="latents") if set(scale) != {1.0} else x
            z = b.add(z, _per_channel(b, shift), out="latents") if any(shift) else z
            x = b.call(stage.methods["decode"].function, FIRST_STAGE, z, out="images")
            output = replace(output, field=pictures)
        b.output(x)
        fields.append(output)
    b.finish(fn.doc)
    return replace(program, outputs=tuple(fields))


def _per_channel(b: Rewriter, numbers: Sequence[float]) -> Any:
    """A number for all channels, or a constant [C, 1, 1] that broadcasts to latents [B, C, h, w]."""
    return numbers[0] if len(numbers) == 1 else b.constant([[[number]] for number in numbers])
