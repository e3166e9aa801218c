"""RandAR: Decoder-only Autoregressive Visual Generation in Random Orders (Pang et al. 2024, arXiv:2412.01827).

LlamaGen's network on tokens in any order, each preceded by an instruction that says which position is predicted;
several instructions at once decode in parallel.

Specs: specs/digits/digits_randar.yaml, specs/tokens/randar.yaml.
Tests: tests/systems/randar, tests/parity/randar.py.
Rows in docs/systems.yaml: randar.
"""

BASES = ("rar",)

COMPONENTS = {
    "blocks/mixers": {"placed_attention": "placed_attention"},
    "networks": {"instructed_transformer": "instructed_transformer"},
    "objectives": {"random_order": "random_order"},
    "samplers": {"instructed_decoding": "instructed_decoding"},
}

CAPABILITIES = {
    # `group_0` starts from positions and conditions; `group_1`, … take the tokens of the group before, their positions,
    # positions and caches, and return caches but for the last. Groups are built if the sampler needs them.
    "instructed_tokens": {
        "words": "predicts groups of tokens at the positions that it is instructed to, in any order",
        "methods": {"group_#?": "token* position+ condition* cache* -> logits cache*"},
    },
}
