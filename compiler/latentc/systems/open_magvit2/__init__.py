"""Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-Regressive Visual Generation (Luo et al. 2024,
arXiv:2409.04410).

A token of 18 bits is drawn in two parts, each by a small transformer over the parts before it; the tokenizer's decoder
is normalised by statistics of the codes. Builds on `lookup_free` of MaskBit.

Specs: specs/first_stages/open_magvit2_tokenizer.yaml, specs/tokens/open_magvit2.yaml.
Tests: tests/systems/open_magvit2, tests/parity/open_magvit2.py.
Rows in docs/systems.yaml: open_magvit2, open_magvit2_tokenizer.
"""

BASES = ("maskbit",)

COMPONENTS = {
    "blocks/bottlenecks": {"smoothed_lookup_free": "smoothed_lookup_free"},
    "networks": {"adaptive_autoencoder": "adaptive_autoencoder", "factorized_transformer": "factorized_transformer"},
    "objectives": {"factorized_token": "factorized_token"},
    "samplers": {"factorized": "factorized"},
}

CAPABILITIES = {
    # Tokens have parts, the lowest bits first. `forward` gives the logits of each part of all tokens. `part_0`, … take
    # the context of a token f32[B, D], which is the first cache of `prefill` and `decode`, and the parts before.
    "next_parts": {
        "words": "predicts each part of a token from the tokens before it and the parts before",
        "methods": {
            "forward": "state condition* -> logits+",
            "prefill": "condition* -> cache+",
            "decode": "token position condition* cache+ -> cache+",
            "part_#": "cache token* -> logits",
        },
    },
}
