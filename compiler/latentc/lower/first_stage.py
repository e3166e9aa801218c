"""The first stage in a lowered spec: adds its methods, its decoder after programs, its encoder before their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc.components.backbone import Backbone
from latentc.components.contract import Network, OutputField, Program
from latentc.components.fields import FIRST_STAGE
from latentc.ir.builder import Builder, ModuleBuilder, Rewriter, Var
from latentc.ir.core import reachable
from latentc.ir.types import B, f32

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
            z = b.div(x, _per_channel(b, scale, x.type.rank), out="latents") if set(scale) != {1.0} else x
            z = b.add(z, _per_channel(b, shift, x.type.rank), out="latents") if any(shift) else z
            x = b.call(stage.methods["decode"].function, FIRST_STAGE, z, out="images")
            output = replace(output, field=pictures)
        b.output(x)
        fields.append(output)
    b.finish(fn.doc)
    return replace(program, outputs=tuple(fields))


def with_encoder(mb: ModuleBuilder, program: Program, stage: Network, spec: Spec) -> Program:
    """The program with its `encoded` inputs given as what the first stage encodes; unchanged if it has none."""
    if not program.encoded:
        return program
    assert spec.first_stage is not None and spec.data.first_stage is not None
    field, (shift, scale) = spec.first_stage.data.fields["x"], spec.data.normalisation
    fn = mb.functions[mb.entries[program.entry]]
    b = Builder(mb, fn.name, fn.origin)
    made: dict[Any, Var] = {}
    for value in fn.inputs:
        if value.name not in program.encoded:
            made[value] = b.input(value.name, value.type)
            continue
        x = b.input(value.name, f32(B, *field.shape))
        codes = b.call(stage.methods["encode"].function, FIRST_STAGE, x, out="codes")
        latents = int(value.type.shape[1])  # type: ignore[arg-type]  # codes have their log-variance too
        z = b.slice(codes, axis=1, start=0, stop=latents, out="latents")
        rank = value.type.rank
        z = b.op("sub", z, _per_channel(b, shift, rank), out="latents") if any(shift) else z
        made[value] = b.mul(z, _per_channel(b, scale, rank), out="latents") if set(scale) != {1.0} else z
    for node in fn.nodes:
        outputs = b.copied(node, [made[value] for value in node.inputs])
        made |= dict(zip(node.outputs, outputs, strict=True))
    b.output(*(made[value] for value in fn.outputs))
    b.finish(fn.doc)
    conditions = tuple(
        replace(one, shape=field.shape, axes=field.axes) if one.name in program.encoded else one
        for one in program.conditions
    )
    return replace(program, conditions=conditions)


def _per_channel(b: Builder, numbers: Sequence[float], rank: int = 4) -> Any:
    """A number for all channels, or a constant [C, 1, …] that broadcasts to latents [B, C, …] of this rank."""
    if len(numbers) == 1:
        return numbers[0]
    return b.constant(np.reshape(numbers, (-1, *[1] * (rank - 2))), "f32")
