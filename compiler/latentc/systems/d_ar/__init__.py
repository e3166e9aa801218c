"""D-AR: Diffusion via Autoregressive Models (Gao and Shou 2025, arXiv:2505.23660).

A tokenizer whose codes condition the steps of a diffusion in pixels in turn: a code is read at one step, so images come
out step by step while their codes are predicted, by LlamaGen's transformer.

Specs: specs/first_stages/d_ar_tokenizer.yaml, specs/tokens/d_ar.yaml, specs/digits/digits_d_ar_tokenizer.yaml,
specs/digits/digits_d_ar.yaml.
Tests: tests/systems/d_ar, tests/parity/d_ar.py.
Rows in docs/systems.yaml: d_ar, d_ar_tokenizer.
"""

COMPONENTS = {
    "blocks/feed_forwards": {"silu_mlp": "silu_mlp"},
    "networks": {"sequential_tokenizer": "sequential_tokenizer"},
    "objectives": {"sequential_diffusion": "sequential_diffusion"},
    "samplers": {
        "rising_autoregressive": "rising_autoregressive",
        "sequential_autoencode": "sequential_autoencode",
    },
}

CAPABILITIES = {
    # Codes i64[B, Q] of an array; `conditions` f32[B, Q, D] of codes. `forward`: the velocity at a state and its time,
    # given the conditions f32[B, n, D] of a group. `train_forward` encodes too: the array and the first code i64[B] of
    # the group; penalties f32[B] and the number f32[B] of codes that they are sums over.
    "sequential_codes": {
        "words": "encodes arrays as codes that condition the steps of a diffusion in turn",
        "methods": {
            "encode": "state -> output",
            "conditions": "token -> output",
            "forward": "state time condition -> output",
            "train_forward": "state state time position -> output penalty+",
        },
    },
}
