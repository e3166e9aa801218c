"""Infinity: Scaling Bitwise AutoRegressive Modeling for High-Resolution Image Synthesis (Han et al. 2024,
arXiv:2412.04431).

Latents become maps of bits from coarse to fine; a transformer predicts each bit of a map by itself, trained on maps
with wrong bits that later maps correct.

Specs: specs/first_stages/infinity_vae.yaml, specs/tokens/infinity.yaml, specs/digits/digits_infinity.yaml,
specs/digits/digits_infinity_vae.yaml.
Tests: tests/systems/infinity, tests/parity/infinity.py.
Rows in docs/systems.yaml: infinity, infinity_vae.
"""

BASES = ("var",)

COMPONENTS = {
    "blocks/bottlenecks": {"multi_scale_bits": "multi_scale_bits"},
    "blocks/conditions": {"text_modulation": "text_modulation"},
    "conditions": {"attended_text": "attended_text"},
    "networks": {"bit_transformer": "bit_transformer"},
    "objectives": {"next_scale_bits": "next_scale_bits_objective"},
    "samplers": {"next_scale_bits": "next_scale_bits_sampler"},
}

CAPABILITIES = {
    # The methods of `next_scale`, with two logits per bit: of 0 and of 1.
    "next_scale_bits": {
        "words": "predicts the bits of each scale from the scales before it",
        "methods": {
            "forward": "state condition* -> logits",
            "scale_#": "state? condition* cache* -> logits cache*",
        },
    },
}
