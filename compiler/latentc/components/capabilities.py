"""What networks can do for objectives and samplers: capabilities, the methods of each, the roles of their ports.

No code outside the components depends on a kind: parts are matched by capabilities and by the types of ports. The core
has those that several families of networks share; a package defines the others beside its table of components.

A capability promises methods, and each method ports by role: `state time condition* -> output` has one input of role
`state`, one of role `time`, any number of conditions, and one output. `?` means at most one, `+` at least one, and a
role may be repeated. A method whose name ends in `?` may be absent; `scale_#` is `scale_0`, `scale_1` and so on.
Networks may have further methods. `words` is the text of diagnostics, after "a network that".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Role = Literal[
    "state",
    "time",
    "condition",
    "control",
    "noise",
    "token",
    "position",
    "cache",
    "memory",
    "mask",
    "scale",
    "output",
    "features",
    "logits",
    "penalty",
    "log_det",
]

Capability = str
"""The name of a capability, of the core or of a package."""

DENOISE = {
    "forward": "state time time? condition* control* memory* -> output memory*",
    "train_forward?": "state time time? condition* control* noise* memory* -> output features* memory*",
}
"""The methods of a denoiser."""

CAPABILITIES: Mapping[Capability, Mapping[str, Any]] = {
    # A second time, if any, is the span over which a velocity is averaged, 0 unless given. `train_forward` is used in
    # training; losses draw its uniform noise, and read features [B, T, C]. Memory f32[B, ...] is passed from one
    # evaluation to the next, initially zeros.
    "denoise": {"words": "predicts noise, data or a velocity from a noisy sample and its time", "methods": DENOISE},
    # As `denoise`, with a condition that its caller computes (one without inputs).
    "refine": {
        "words": "corrects a prediction that it takes as input, from a noisy sample and its time",
        "methods": DENOISE,
    },
    # As `denoise`; for each share of tokens in the sampler's `shares` also the method `routed_method(share)`: as
    # `forward`, with noise [B, T] per route, uniform scores, by the highest of which tokens skip its blocks.
    "skip_tokens": {"words": "has `routes`: blocks that some tokens skip", "methods": DENOISE},
    # f32[B, D]; built if the objective needs it.
    "embed_conditions": {
        "words": "embeds its conditions as one vector",
        "methods": {"embed?": "condition* -> output"},
    },
    # If its texts follow tokens that it predicts: `train_forward`, as `forward` with their logits in front, and these
    # as token i64[B, E]; if the sampler needs it, their log-probability f32[B] as output of `prefill`, and these as
    # token i64[B, E].
    "next_token": {
        "words": "predicts each token from those before it",
        "methods": {
            "forward": "state condition* -> logits",
            "prefill": "condition* token* -> logits output* token* cache+",
            "decode": "token+ position condition* cache+ output* -> logits output* token* cache+",
            "train_forward?": "state token* condition* -> logits token*",
        },
    },
    # The port's `null` is the mask. Samplers draw among the first `values` logits, if the port gives that number. The
    # state may hold each token as several digits of base `null`, the lowest first. `forward_kept` (rank i64[B, T] as
    # position) is `forward` if the masked tokens have the lowest ranks, and as few of them as the loss leaves are
    # known. `remember` and `recall` are built if the sampler needs them: `recall` takes tokens [B, G] as state, masks
    # that are 1 where one of them counts [B, G] and where one of all is not among them [B, T], and their positions
    # i64[B, G].
    "masked_tokens": {
        "words": "predicts masked tokens from the others",
        "methods": {
            "forward": "state condition* -> logits",
            "forward_kept?": "state position condition* -> logits",
            "remember?": "state condition* -> logits cache+",
            "recall?": "state mask+ position condition* cache+ -> logits",
        },
    },
    # Tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden -> features [B, T, D]. `forward_known` is
    # `forward` for as few known tokens as the loss leaves. `recall` takes tokens [B, G, C]; masks that are 1 where one
    # of them is hidden [B, G], where one counts [B, G], where one of all was known to `remember` [B, T], and where one
    # is not among them [B, T]; their positions i64[B, G].
    "masked_features": {
        "words": "encodes a partly hidden sample as features of each token",
        "methods": {
            "forward": "state mask condition* -> output",
            "forward_known?": "state mask condition* -> output",
            "remember?": "state mask condition* -> output cache+",
            "recall?": "state mask+ position condition* cache+ -> output",
        },
    },
    # Losses draw the one noise input of `forward` as normals. `train_forward` is built if the objective needs it, with
    # further noise of the ports' distributions.
    "generate": {
        "words": "turns noise into a sample",
        "methods": {"forward": "noise condition* -> output", "train_forward?": "noise+ condition* -> output"},
    },
    # `posterior`: mean and log-variance f32[B, Z] of the noise that a sample comes from. `likelihood`: mean of the
    # sample, which is `forward`, and logarithm of its standard deviation f32[B].
    "infer": {
        "words": "turns noise into a sample, and samples into distributions of that noise",
        "methods": {
            "forward": "noise condition* -> output",
            "posterior": "state condition* -> output output",
            "likelihood": "noise condition* -> output output",
        },
    },
    # Noise of the port's distribution if it scores random crops. Built if the objective needs them: `averages` (scores
    # of data and of samples) -> averages f32[1] of earlier scores of each; `augmentations` (a difference of features)
    # -> one output per augmentation.
    "discriminate": {
        "words": "scores how much a sample looks like data",
        "methods": {
            "forward": "state noise* condition* -> output+",
            "averages?": "state state -> output output",
            "augmentations?": "state -> output+",
        },
    },
    # The distance f32[B].
    "compare": {"words": "measures how different two samples look", "methods": {"forward": "state state -> output"}},
    # Logits over classes; no time if it classifies clean data.
    "classify": {
        "words": "predicts the class of a noisy sample at its time",
        "methods": {"forward": "state time? condition* -> logits"},
    },
    # Features f32[B, F, ...], perhaps at positions; one output for each of several levels.
    "see": {
        "words": "gives the features that it sees in a sample",
        "methods": {"see": "state -> output", "see_levels?": "state -> output+"},
    },
    "see_noisy": {
        "words": "gives the features that it sees in a noisy sample at its time",
        "methods": {"see": "state time? -> output", "see_levels?": "state time? -> output+"},
    },
    # The mask bool[B, L] is of the tokens that count.
    "encode": {
        "words": "encodes its input for other networks",
        "methods": {"encode": "state+ mask? condition* -> output"},
    },
    # Codes are tokens, or mean and log-variance of latents; `decode` takes tokens or latents; `forward` is both in a
    # row. The noise is that by which codes are drawn, of the port's distribution; the penalty is f32[B]. If the
    # objective needs it, `regularized_features` is the same with features, which the last convolution maps to the
    # output; and the scale f32[] is a factor of entropies in the penalty.
    "autoencode": {
        "words": "encodes data as codes and decodes them",
        "methods": {
            "encode": "state -> output",
            "decode": "state -> output",
            "forward": "state -> output",
            "regularized": "state noise* position* scale* -> output penalty",
            "regularized_features?": "state noise* position* scale* -> output features penalty",
        },
    },
    # The log-determinant is per dimension. `guided_inverse` takes noise, conditions, the same as `null_NAME`, the
    # attention temperature of the branch without conditions and scale f32[N, B] per predicted token. `variances`
    # (latent as state) -> those of its prior f32[T, C], by which `inverse` scales standard normal noise.
    # `train_forward`, if the objective needs it, is `forward` with penalty f32[B]: the sum of the mean squares of each
    # flow's input.
    "flow": {
        "words": "maps data to noise with a known log-determinant, and back",
        "methods": {
            "forward": "state condition* -> output log_det",
            "inverse": "noise condition* -> output",
            "train_forward?": "state condition* -> output log_det penalty",
        },
    },
}
"""The capabilities of the core."""


def routed_method(share: float) -> str:
    """The method of a network that provides `skip_tokens` in which this share of the tokens skips blocks."""
    return f"forward_skips_{f'{share:.6f}'.rstrip('0').removeprefix('0.')}"


TRAINING = "train_forward"
"""The method that losses call in place of `forward`, of networks that have it; samplers never do."""
