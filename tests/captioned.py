"""A small diffusion model of images that a text encoder of its spec conditions."""

SPEC = """
latentc: 1
name: captioned
data:
  kind: npz
  path: train.npz
  shape: [1, 4, 4]
  fields:
    caption: {shape: [5], classes: 28, medium: text, alphabet: "_$abcdefghijklmnopqrstuvwxyz", start: 0, end: 1}
    caption_mask: {shape: [5], dtype: bool}
networks:
  main:
    kind: patch_transformer
    width: 8
    depth: 1
    patch: 2
    positions: {kind: sincos_2d}
    block:
      mixer: {kind: attention, heads: 2}
      feed_forward: {kind: gelu_mlp, ratio: 1}
      norm: {kind: layer_norm}
      condition: {kind: adaln_single}
  text:
    kind: text_encoder
    width: 6
    depth: 1
    relative: {buckets: 8, furthest: 4}
    block:
      mixer: {kind: t5_attention, heads: 2, head_width: 4, bias: false}
      feed_forward: {kind: swiglu, hidden: 5, activation: gelu_tanh}
      norm: {kind: rms_norm, eps: 1e-6}
      condition: {kind: in_context}
conditioning:
  time: {kind: timestep}
  caption: {kind: encoded_text, encoder: text, dropout: 0.5, null_embedding: empty_text, pad: 3}
objective: {kind: flow, process: {kind: interpolant}}
sampler: {kind: euler, steps: 1, guidance: {scale: 2.0}}
"""
