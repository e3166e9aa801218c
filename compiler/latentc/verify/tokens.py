"""Compares the tokens that programs draw, also those that the first stage's decoder turns into pictures.

Sequences may differ by a tie: a random number so near the border between two tokens that rounding decides. Both tokens
are then right, and all that follow may differ.

Symbols: B batch, T tokens, N rows of a per-step input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from latentc.measure.metrics import relative_error
from latentc.measure.subject import Subject
from latentc.verify.report import ENGINE, ORACLE, Comparison
from latentc_runtime.request import Request
from latentc_runtime.sources import RandomSource

Array = np.ndarray
Noise = Mapping[str, Array]
MOST = 16  # ties resolved per sequence, and trials for ties of programs with several random numbers
INSIDE = (2.0**-24, 1.0 - 2.0**-24)  # the least and the largest number of noise.uniforms


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
    by how much rounding may move a random number. Returns `c` if it is ok, or if no random number decides the
    tokens.
    """
    if c.ok:
        return c
    inputs = {i.name: i for i in request.entry.inputs if isinstance(i.source, RandomSource) and i.dtype == "f32"}
    if not inputs:  # it takes the most likely token
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
        uniform = {name for name, i in inputs.items() if i.source.distribution == "uniform"}  # type: ignore[union-attr]
        expected, ties, decided = reconciled_by_trials(sample, noise, axes, uniform, tokens, width)
    if tokens is not got:
        expected = reference(replace(request, noise={**request.noise, **decided}))[output]
    error = relative_error(got, expected)
    return replace(c, error=error, ok=error <= c.tolerance, ties=ties)


def reconciled(sample: Callable[[Array], Array], uniforms: Array, got: Array, width: float) -> tuple[Array, int, Array]:
    """The tokens i64[B, T] that `sample(uniforms [T, B])` draws with its ties decided as in `got`, their number, and
    the uniforms that decide them so.

    At the first difference, the uniform number of that token is moved by `width` down or up. If that draws the token of
    `got`, it was a tie, and the next difference follows. Otherwise the sequence stays as it is.
    """
    u = uniforms.copy()
    expected = sample(u)
    given_up = np.zeros(len(expected), bool)
    ties = 0
    for _ in range(MOST):
        rows = np.nonzero((expected != got).any(axis=1) & ~given_up)[0]
        if not rows.size:
            break
        first = (expected != got).argmax(axis=1)
        decided, used = expected.copy(), u.copy()
        for step in (-width, width):
            moved = u.copy()
            moved[first[rows], rows] = np.clip(moved[first[rows], rows] + step, *INSIDE)
            other = sample(moved)
            for b in rows:
                if other[b, first[b]] == got[b, first[b]]:
                    decided[b], used[:, b] = other[b], moved[:, b]
        for b in rows:
            ties += int(decided[b, first[b]] == got[b, first[b]])
            given_up[b] = decided[b, first[b]] != got[b, first[b]]
        expected, u = decided, used
    return expected, ties, u


def reconciled_by_trials(
    sample: Callable[[Noise], Array],
    noise: Noise,
    axes: Mapping[str, int],
    uniform: Collection[str],
    got: Array,
    width: float,
) -> tuple[Array, int, dict[str, Array]]:
    """As `reconciled`, of a program in which several random numbers decide a token, or the order of tokens.

    Moves all of `noise` {input: [B, ...] or [N, B, ...]} by `width` up or down at random. A sequence that is then that
    of `got` differed by ties; each counts as one. `axes`: the batch axis of each input. `uniform`: inputs that stay
    between 0 and 1.
    """
    rng = np.random.default_rng(0)
    found = {name: a.copy() for name, a in noise.items()}
    expected = sample(noise).copy()
    differ, ties = (expected != got).any(axis=1), 0
    for _ in range(MOST):
        if not differ.any():
            break
        moved = {name: a + rng.choice([-width, width], a.shape).astype(a.dtype) for name, a in noise.items()}
        moved |= {name: np.clip(moved[name], *INSIDE) for name in uniform}
        other = sample(moved)
        for b in np.nonzero(differ & (other == got).all(axis=1))[0]:
            for name, a in moved.items():
                np.moveaxis(found[name], axes[name], 0)[b] = np.moveaxis(a, axes[name], 0)[b]
            expected[b], differ[b] = other[b], False
            ties += 1
    return expected, ties, found
