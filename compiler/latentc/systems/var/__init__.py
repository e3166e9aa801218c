"""VAR: Visual Autoregressive Modeling via Next-Scale Prediction (Tian et al. 2024, arXiv:2404.02905).

A transformer draws the code maps of a residual quantiser from coarse to fine, a map per step.

Specs: specs/digits/digits_var.yaml, specs/digits/digits_vq_multi_scale.yaml, specs/first_stages/vq_multi_scale.yaml,
specs/tokens/var.yaml.
Tests: tests/systems/var, tests/parity/var.py.
Rows in docs/systems.yaml: var, vq_multi_scale.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"multi_scale_codebook": "multi_scale_codebook"},
    "blocks/mixers": {"cosine_attention": "cosine_attention"},
    "networks": {
        "scale_autoencoder": "scale_autoencoder",
        "scale_quantizer": "scale_quantizer",
        "scale_transformer": "scale_transformer",
    },
    "objectives": {"next_scale": "next_scale_objective"},
    "samplers": {"next_scale": "next_scale_sampler"},
}

CAPABILITIES = {
    # Latents of all scales but the first as state. `scale_0` starts from the conditions; `scale_1`, … return caches but
    # for the last.
    "next_scale": {
        "words": "predicts the tokens of each scale from the scales before it",
        "methods": {
            "forward": "state condition* -> logits",
            "scale_#": "state? condition* cache* -> logits cache*",
        },
    },
    # `add_0`, …: the latents of all scales so far, and those that the next scale begins with.
    "quantize_scales": {
        "words": "turns the tokens of scales into latents",
        "methods": {"scale_inputs": "token -> output", "add_#": "state? token -> state output"},
    },
    # As `add_0`, …, of shares of all codes f32[B, L, V] in place of tokens; built if the sampler needs them.
    "mix_scales": {
        "words": "turns mixtures of codes at each scale into latents",
        "methods": {"mix_#?": "state? features -> state output?"},
    },
}
