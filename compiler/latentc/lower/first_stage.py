"""The first stage in a lowered spec: adds its methods, its decoder after programs, its encoder before their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc.components.backbone import Backbone
from latentc.components.contract import CopiedProgram, Network, OutputField, Program
from latentc.components.contracts import check_programs
from latentc.components.fields import FIRST_STAGE
from latentc.components.kit.calls import own_setting, own_source
from latentc.components.sampler import DecodingSampler
from latentc.ir.builder import Builder, ModuleBuilder, Rewriter, Var
from latentc.ir.core import Function, Node, Value, callees, reachable
from latentc.ir.types import B, f32
from latentc_runtime.sources import ConditionSource

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@dataclass(frozen=True)
class Stage:
    """A lowered first stage: its network, and its decoder if that is a program rather than the method `decode`."""

    network: Network
    decoder: CopiedProgram | None


def add_first_stage(mb: ModuleBuilder, spec: Spec, encodes: bool, programs: Sequence[Program] = ()) -> Stage | None:
    """Adds the data's autoencoder as network `first_stage`, or returns None if the data has none.

    It has the methods that decode, with `encodes` also `encode`, and those of the others that programs need.
    """
    stage = spec.first_stage
    if stage is None:
        return None
    backbone = stage.networks["main"]
    assert isinstance(backbone, Backbone) and stage.data.shape is not None
    before = set(mb.functions)
    built = backbone.build(mb, FIRST_STAGE, stage, stage.data.shape[0])
    decoder = _added_decoder(mb, built, stage)
    mixed = any(output.latents for program in programs for output in program.outputs)
    wanted = {"decode"} if decoder is None else _called(mb, built, decoder.function.nodes)
    wanted |= {*(("encode",) if encodes else ()), *(("decode_latents",) if mixed else ())}
    methods = {name: method for name, method in built.methods.items() if name in wanted}
    # Other methods are left out, so that an engine does not need the encoder's weights.
    for name in built.methods:
        del mb.entries[f"{FIRST_STAGE}.{name}"]
    mb.entries |= {f"{FIRST_STAGE}.{name}": method.function for name, method in methods.items()}
    roots = [method.function for method in methods.values()]
    roots += [callee for node in (decoder.function.nodes if decoder is not None else ()) for callee in callees(node)]
    used = before.union(reachable(mb.finish(), tuple(roots)))
    for name in [name for name in mb.functions if name not in used]:
        del mb.functions[name]
    return Stage(replace(built, methods=methods), decoder)


def _added_decoder(mb: ModuleBuilder, network: Network, stage: Spec) -> CopiedProgram | None:
    """The decoder of a first stage whose sampler has one."""
    if not isinstance(stage.sampler, DecodingSampler):
        return None
    kept = dict(mb.entries)
    program = stage.sampler.decoder(mb, {"main": network}, stage)
    check_programs((program,), stage.sampler, mb)
    function = mb.functions.pop(mb.entries[program.entry])
    mb.entries = kept
    return CopiedProgram(function, program.sources, program.settings, program.evaluations)


def _called(mb: ModuleBuilder, network: Network, nodes: Sequence[Node]) -> set[str]:
    """The methods of the network that nodes call, in loops, too."""
    roots = tuple(callee for node in nodes for callee in callees(node))
    found = set(reachable(mb.finish(), roots))
    return {name for name, method in network.methods.items() if method.function in found}


def with_decoder(mb: ModuleBuilder, program: Program, stage: Stage, spec: Spec) -> Program:
    """The program with its latents or tokens decoded; unchanged if it returns none."""
    modelled = "x" if "x" in spec.data.fields else "tokens"
    outputs = program.outputs or (OutputField("samples", modelled),)
    if not any(output.field == modelled or output.latents for output in outputs):
        return program
    assert spec.first_stage is not None and spec.data.first_stage is not None
    pictures, (shift, scale) = spec.first_stage.data.fields["x"], spec.data.normalisation
    methods, decoder = stage.network.methods, stage.decoder
    fn = mb.functions[mb.entries[program.entry]]
    b = Rewriter(mb, fn)
    for node in fn.nodes:
        b.append(node)
    own = _own_inputs(b, decoder) if decoder is not None else {}
    fields = []
    for output, value in zip(outputs, fn.outputs, strict=True):
        x = Var(value, b)
        if output.latents and "decode_latents" in methods:
            x = b.call(methods["decode_latents"].function, FIRST_STAGE, x, out="images")
            output = OutputField(output.name, pictures)
        elif output.field == modelled:
            z = b.div(x, _per_channel(b, scale, x.type.rank), out="latents") if set(scale) != {1.0} else x
            z = b.add(z, _per_channel(b, shift, x.type.rank), out="latents") if any(shift) else z
            if decoder is not None:
                x = _decoded(b, decoder.function, own, z)
            else:
                x = b.call(methods["decode"].function, FIRST_STAGE, z, out="images")
            output = replace(output, field=pictures)
        b.output(x)
        fields.append(output)
    b.finish(fn.doc)
    program = replace(program, outputs=tuple(fields))
    if decoder is None:
        return program
    sources = {made.value.name: own_source(FIRST_STAGE, decoder.sources[value.name]) for value, made in own.items()}
    return replace(
        program,
        sources={**program.sources, **sources},
        settings=(*program.settings, *(own_setting(FIRST_STAGE, setting) for setting in decoder.settings)),
        evaluations=program.evaluations + decoder.evaluations,
    )


def _own_inputs(b: Builder, decoder: CopiedProgram) -> dict[Value, Var]:
    """Adds the inputs of a decoder but the codes, with the stage's name before theirs."""
    return {
        value: b.input(f"{FIRST_STAGE}_{value.name}", value.type)
        for value in decoder.function.inputs
        if not isinstance(decoder.sources[value.name], ConditionSource)
    }


def _decoded(b: Builder, decoder: Function, own: Mapping[Value, Var], codes: Var) -> Var:
    """The first output of a decoder, of which the nodes are copied."""
    made = {value: own.get(value, codes) for value in decoder.inputs}
    for node in decoder.nodes:
        made |= dict(zip(node.outputs, b.copied(node, [made[value] for value in node.inputs]), strict=True))
    return made[decoder.outputs[0]]


def with_encoder(mb: ModuleBuilder, program: Program, stage: Stage, spec: Spec) -> Program:
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
        codes = b.call(stage.network.methods["encode"].function, FIRST_STAGE, x, out="codes")
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
