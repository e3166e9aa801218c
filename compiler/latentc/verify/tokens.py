"""Compares the tokens that programs draw, also those that the first stage's decoder turns into pictures.

Symbols: B batch, T tokens, N rows of a per-step input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from latentc.measure.metrics import relative_error
from latentc.measure.subject import Subject
from latentc.verify.report import ENGINE, ORACLE, Comparison
from latentc.verify.ties import Noise, reconciled, reconciled_by_trials
from latentc_runtime.request import Request
from latentc_runtime.sources import RandomSource

Array = np.ndarray


def draws_tokens(subject: Subject, request: Request) -> list[bool]:
    """For each output of a program whether it is tokens, or what the first stage's decoder makes of tokens."""
    bare = subject.undecoded
    return [not v.type.is_float for v in bare.lowered.module.entry(bare.program(request.entry).entry).outputs]


def drawn(subject: Subject, by: str, request: Request) -> Sequence[Array]:
    """The outputs of a program before the first stage's decoder, as the oracle, PyTorch or the engine draws them.

    An engine that includes the decoder does not show them: the program is compiled again without it.
    """
    bare = subject.undecoded
    if by != ENGINE:
        return list(bare.run_request(request, "oracle" if by == ORACLE else "torch").values())
    if bare is subject:
        return list(subject.pipeline.run(request).values())
    return bare.compiled(bare.program(request.entry).entry)(bare.operands(request))


def with_ties(
    c: Comparison,
    subject: Subject,
    request: Request,
    output: int,
    got: Array,
    reference: Callable[[Request], Sequence[Array]],
    width: float,
) -> Comparison:
    """A comparison of a program that draws tokens, repeated with ties decided as the candidate decided them.

    `got`: the candidate's output number `output`, tokens or pictures of tokens. `reference` runs the program. `width`:
    by how much rounding may move a random number. Returns `c` if it is ok, or if the output does not come from tokens
    that random numbers decide.
    """
    if c.ok or not draws_tokens(subject, request)[output]:
        return c
    inputs = {i.name: i for i in request.entry.inputs if isinstance(i.source, RandomSource) and i.dtype == "f32"}
    if not inputs:  # it takes the likeliest token
        return c
    tokens = got if got.dtype.kind in "iu" else drawn(subject, c.candidate, request)[output]
    noise = {name: request.array(i) for name, i in inputs.items()}

    def sample(moved: Noise) -> Array:
        return drawn(subject, c.reference, replace(request, noise={**request.noise, **moved}))[output]

    name, first = next(iter(inputs.items()))
    decided: Noise
    if len(inputs) == 1 and first.sample_shape == () and tokens.shape[1:] == (first.rows,):
        expected, ties, u = reconciled(lambda u: sample({name: u}), noise[name], tokens, width)
        decided = {name: u}
    else:
        axes = {name: 0 if i.rows is None else 1 for name, i in inputs.items()}
        expected, ties, decided = reconciled_by_trials(sample, noise, axes, tokens, width)
    if tokens is not got:
        expected = reference(replace(request, noise={**request.noise, **decided}))[output]
    error = relative_error(got, expected)
    return replace(c, error=error, ok=error <= c.tolerance, ties=ties)
