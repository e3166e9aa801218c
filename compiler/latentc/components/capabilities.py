"""What networks can do for objectives and samplers: capabilities, the methods of each, the roles of their ports.

No code outside the components depends on a kind: parts are matched by capabilities and by the types of ports.
"""

from __future__ import annotations

from typing import Literal

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

Capability = Literal[
    "denoise",
    "skip_tokens",
    "embed_conditions",
    "denoise_stages",
    "denoise_hidden",
    "denoise_tokens",
    "control",
    "exit",
    "refine",
    "next_token",
    "any_order",
    "next_scale",
    "quantize_scales",
    "mix_scales",
    "next_granules",
    "denoise_structure",
    "quantize_granules",
    "masked_tokens",
    "masked_features",
    "predicted_features",
    "next_mixture",
    "masked_mixtures",
    "hierarchical_features",
    "denoise_sequence",
    "generate",
    "generate_by_style",
    "generate_at_widths",
    "translate",
    "discriminate",
    "discriminate_crops",
    "compare",
    "classify",
    "see",
    "see_noisy",
    "uncertainty",
    "encode",
    "autoencode",
    "code_sequence",
    "next_vector",
    "flow",
    "flow_norms",
    "extend_video",
    "estimate_noise",
    "shift",
    "adapt",
    "pixels",
    "weigh_classes",
    "continue_rows",
]
CAPABILITIES: dict[Capability, str] = {
    "denoise": "predicts noise, data or a velocity from a noisy sample and its time",
    "skip_tokens": "has `routes`: blocks that some tokens skip",
    "denoise_stages": "predicts velocities at several resolutions",
    "denoise_tokens": "predicts tokens from noisy ones and their time",
    "denoise_hidden": "predicts data and noise of partly hidden samples",
    "embed_conditions": "embeds its conditions as one vector",
    "control": "adds to the blocks of another network",
    "exit": "predicts from the outputs of a denoiser's blocks, with an uncertainty",
    "refine": "corrects a prediction that it takes as input, from a noisy sample and its time",
    "next_token": "predicts each token from those before it",
    "any_order": "predicts tokens at any positions from those at any others",
    "next_scale": "predicts the tokens of each scale from the scales before it",
    "quantize_scales": "turns the tokens of scales into latents",
    "mix_scales": "turns mixtures of codes at each scale into latents",
    "next_granules": "predicts the codes of clusters from the latents so far",
    "denoise_structure": "predicts velocities of a structure embedding from the latents so far",
    "quantize_granules": "turns codes and labels of clusters into latents",
    "masked_tokens": "predicts masked tokens from the others",
    "masked_features": "encodes a partly hidden sample as features of each token",
    "predicted_features": "encodes a whole sample as features of each token, and predicts those of a hidden one",
    "next_mixture": "predicts the distribution of each continuous token from those before it",
    "masked_mixtures": "predicts the distributions of hidden continuous tokens from the others",
    "hierarchical_features": "encodes partly hidden pivots, then a partly hidden sample, as features of each token",
    "denoise_sequence": "denoises all tokens of a sample together, given the features of each",
    "generate": "turns noise into a sample",
    "generate_by_style": "turns noise into a style, and styles into a sample",
    "generate_at_widths": "turns noise into a sample at several widths",
    "translate": "predicts the latent of a generator from a condition",
    "discriminate": "scores how much a sample looks like data",
    "discriminate_crops": "scores how much a sample, or a random crop of it, looks like data",
    "compare": "measures how different two samples look",
    "classify": "predicts the class of a noisy sample at its time",
    "see": "gives the features that it sees in a sample",
    "see_noisy": "gives the features that it sees in a noisy sample at its time",
    "uncertainty": "estimates the log-variance of a denoiser's error at a time",
    "encode": "encodes its input for other networks",
    "autoencode": "encodes data as codes and decodes them",
    "code_sequence": "exposes its latents to losses as a sequence",
    "next_vector": "predicts each vector of a sequence from those before it",
    "flow": "maps data to noise with a known log-determinant, and back",
    "flow_norms": "exposes the norms of its flows' inputs to losses",
    "extend_video": "continues a video whose first frames are given",
    "estimate_noise": "estimates the noise that is in a sample",
    "shift": "maps noise to samples with a known log-determinant",
    "adapt": "maps samples to others of the same shape and volume, and back",
    "weigh_classes": "scores a prompt, and classes by the scores of their sequences",
    "continue_rows": "predicts the tokens of a row from its first token alone, without conditions",
    "pixels": "gives the distribution of each pixel from those before it",
}
"""Capabilities of networks, in the words of diagnostics. A capability fixes the methods and the roles of their ports:

denoise       `forward` (state, time, conditions) -> output; a second time, if any, is the span over which a velocity is
              averaged, 0 unless given; optionally `train_forward`, the same in training, with uniform noise drawn by
              losses after the conditions, and features [B, T, C] for losses after the output; optionally memory
              f32[B, ...] as input and output, passed from one evaluation to the next, initially zeros
skip_tokens   denoise, and for each share of tokens in the sampler's `shares` the method `routed_method(share)`: as
              `forward`, and noise [B, T] per route: uniform scores, by the highest of which tokens skip its blocks
denoise_stages
              `stage_0`, `stage_1`, … (state, time, conditions, and `side` f32[B], the patches along a side) -> output,
              each at twice the previous resolution; the last is called `forward`
embed_conditions `embed` (conditions) -> output f32[B, D]; built if the objective asks for it
control       `control` (state, time, conditions) -> outputs, one for each leading block of the network that it adapts
exit          `forward` (time, what the denoiser's `train_forward` returns after its output) -> outputs: the prediction
              of every exit, then the uncertainty f32[B] of each
refine        the same, with a condition that its caller computes (one without inputs)
denoise_tokens
              `forward` (tokens as state, of which `null` is the mask; time, conditions) -> logits
denoise_hidden
              `predict` (state, time, conditions) -> output [B, 2 C, ...], data and noise, and features [B, D];
              `predict_hidden_0`, … (and noise, a number per patch f32[B, T]) -> the same, and mask f32[B, T]
next_token    `forward` (tokens as state, conditions) -> logits; `prefill` (conditions) -> logits, caches;
              `decode` (token, position, caches) -> logits, caches; if its texts stand behind tokens that it predicts
              `train_forward`, as `forward` with their logits in front, and these as token i64[B, E], and, if the
              sampler asks for it, their log-probability f32[B] as output of `prefill`, and these as token i64[B, E]
any_order     `forward` (tokens as state; positions: the order; mask: what tokens see; conditions) -> logits by place;
              `group_0` (positions, conditions) -> logits, caches; `group_1`, … (tokens, their positions, positions,
              caches) -> logits, caches, none of the last; samplers ask for these
next_scale    `forward` (latents of all scales but the first as state, conditions) -> logits; `scale_0` (conditions) ->
              logits, caches; `scale_1`, … (latents as state, conditions, caches) -> logits, caches, none of the last
quantize_scales `scale_inputs` (tokens) -> output; `add_0` (tokens) -> state, output: latents of all scales so far, and
              those that the next scale begins with; `add_1`, … (state, tokens) -> the same
mix_scales    `mix_0`, … of all scales, as `add_0`, … (features f32[B, L, V], shares of all codes, in place of tokens),
              the last -> state; samplers ask for these
next_granules `forward` (latents as state; positions: structure, stage; conditions) -> output: the last latents, logits
denoise_structure
              `forward` (states: structure, latents; time; position: stage; conditions) -> output
quantize_granules `canvases` (tokens) -> output; `add_0`, … (latents as state, tokens, position: labels) -> output
masked_tokens `forward` (tokens as state, of which `null` is the mask; conditions) -> logits, of which samplers draw
              among the first `values`, if the port says so; the state may hold each token as several digits of base
              `null`, the lowest first; perhaps `forward_kept` (and rank i64[B, T] as position), the same if the
              masked tokens have the lowest ranks, and as few of them as the loss leaves are known; if the sampler
              asks for it `remember`, the same and caches, and `recall` (tokens [B, G] as state; masks that are 1
              where one of them counts [B, G], and where one of all is not among them [B, T]; their positions
              i64[B, G], conditions, caches) -> logits of these tokens, from them and what is remembered of the others
masked_features `forward` (tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden, conditions) ->
              output [B, T, D]; perhaps `forward_known`, the same for as few known tokens as the loss leaves; if the
              sampler asks for it `remember`, the same and caches, and `recall` (tokens [B, G, C] as state; masks that
              are 1 where one of them is hidden [B, G], where one counts [B, G], where one of all was known to
              `remember` [B, T], and where one is not among them [B, T]; their positions i64[B, G], conditions, caches)
              -> output [B, G, D], from these tokens and what is remembered of the others
predicted_features
              `targets` (tokens [B, T, C] as state, conditions) -> output [B, T, D] of a sample of which nothing is
              hidden; `predict` (features [B, T, D]) -> output [B, T, D], what those of a partly hidden one say of it
next_mixture  `forward` (tokens [B, T - 1, C] as state, conditions) -> output [B, T, P], numbers of a mixture; `prefill`
              (conditions) -> output [B, P], caches; `decode` (token [B, C], position, caches) -> output, caches
masked_mixtures
              `forward` (tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden, conditions) -> output
              [B, T, P]
hierarchical_features
              `pivots` (pivots [B, N, C] as state, mask f32[B, N] that is 1 where one is hidden, conditions) -> output
              [B, N + T, D]; `forward` (tokens [B, T, C] as state; masks: f32[B, T] where one is hidden, f32[B, N] where
              a pivot is left out; features of the pivots f32[B, N, D], conditions) -> output [B, N + T, D]
denoise_sequence
              `forward` (state [B, T, C], time, features of the tokens [B, T, D] as condition `z`) -> output [B, T, C]
generate      `forward` (noise, conditions) -> output; one noise input, which losses draw as normals; if the objective
              asks for it `train_forward`, the same in training, with further noise of the ports' distributions
generate_by_style
              `map` (noise, conditions) -> output, output: the style f32[B, W] and the average style f32[W];
              `synthesize` (state: styles f32[B, L, W], noise, one or more) -> output;
              `synthesize_const` (state) -> output; if it is trained `styles` (noise, conditions) -> output: styles
              f32[B, L, W] of the first noise of `train_forward`, whose other noise is that of `synthesize`; if the
              objective asks for it `path_average` (state f32[B]) -> output f32[1], the average of earlier lengths
generate_at_widths
              as generate, and `forward_I`, the same at width I, of which there are `sizes["widths"]` with `forward`
translate     `forward` (condition f32[B, E]) -> output, output: logits f32[B, M] and means f32[B, M, Z] of a mixture of
              Gaussians; `log_prob` (state: latents f32[B, Z], condition) -> output f32[B]
discriminate  `forward` (state, conditions) -> output; if the objective asks for it `averages` (states: scores of data
              and samples) -> output, output: averages f32[1] of earlier scores of each; if it has terms that read
              `features`, `augmentations` (state: a difference of features) -> one output per augmentation
discriminate_crops
              as `discriminate`; `forward` also takes noise of the port's `distribution`
compare       `forward` (state, state) -> output: the distance f32[B]
classify      `forward` (state, time unless it classifies data as it is, conditions) -> logits over classes
see           `see` (state) -> output: features f32[B, F, ...], perhaps at positions; perhaps `see_levels` (state) ->
              output, one for each of several levels
see_noisy     as `see`, and both methods take the time
uncertainty   `forward` (time) -> output f32[B]
encode        `encode` (states, conditions, perhaps a mask bool[B, L] of the tokens that count) -> output
autoencode    `encode` (state) -> output, the codes: tokens, or mean and log-variance of latents;
              `decode` (state: tokens or latents) -> output; `forward` (state) -> output, both in a row;
              `regularized` (state, noise if it draws codes, of the port's `distribution`) -> output, penalty f32[B]; if
              the objective asks for it, `regularized_features`, the same with features, which its last convolution maps
              to the output, and a scale f32[], the factor of entropies in the penalty
code_sequence as autoencode, and `regularized_codes` (state, noise) -> the same, features [B, N, Z], token [B, N];
              `likeness` (features [B, N - 1, Z]) -> logits over codes; `vectors` (token) -> output [B, N - 1, Z]
next_vector   `forward` (state [B, N - 1, Z]) -> output [B, N - 1, Z], the prediction of each vector's successor
flow          `forward` (state, conditions) -> output (the latent), log_det per dimension; `inverse` (noise, conditions)
              -> output; `guided_inverse` (noise, conditions, the same as `null_NAME`, attention temperature of the
              branch without conditions, scale f32[N, B] per token that is predicted) -> output; perhaps `variances`
              (latent as state) -> output: those of its prior f32[T, C], by which `inverse` scales standard normal noise
flow_norms    if the objective asks for it `train_forward`, as a flow's `forward`, with penalty f32[B]: the sum of
              the mean squares of what each of its flows is given
extend_video  as flow, and `extend`, `guided_extend`: as `inverse` and `guided_inverse` of the tokens behind the first
              frames, with these frames [B, C, K, H, W] as state in front -> output: all frames
estimate_noise
              `forward` (state, conditions) -> output, the noise in it
shift         `shift` (noise, conditions) -> output, log_det f32[B], of all dimensions
adapt         `forward`, `inverse` (state) -> output of the same shape; the one undoes the other and changes no volume
weigh_classes next_token, and `score` (conditions) -> output, output: log-probability of the prompt f32[B] and the
              number of its tokens f32[B]; `weigh` (state f32[B, K]) -> output: scores of a class and those behind it
pixels        `forward` (state, conditions) -> output, parameters of the distributions; `log_prob` (state, conditions)
              -> output f32[B] in nats; `draw` (noise: uniform numbers, conditions) -> output
"""


def routed_method(share: float) -> str:
    """The method of a network that provides `skip_tokens` in which this share of the tokens skips blocks."""
    return f"forward_skips_{f'{share:.6f}'.rstrip('0').removeprefix('0.')}"


TRAINING = "train_forward"
"""The method that losses call in place of `forward`, of networks that have it; samplers never do."""
