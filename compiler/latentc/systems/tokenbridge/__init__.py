"""TokenBridge: Bridging Continuous and Discrete Tokens for Autoregressive Visual Generation (Wang et al. 2025,
arXiv:2503.16430).

MAR whose tokens are quantised channel by channel after the tokenizer was trained; a small transformer draws the
channels of a token one after the other.

Specs: specs/tokens/tokenbridge.yaml, specs/digits/digits_tokenbridge.yaml.
Tests: tests/systems/tokenbridge, tests/parity/tokenbridge.py.
Rows in docs/systems.yaml: tokenbridge.
"""

COMPONENTS = {
    "networks": {"channel_transformer": "channel_transformer"},
    "objectives": {"channel_token": "channel_token"},
    "samplers": {"channel_autoregressive": "channel_autoregressive"},
}

CAPABILITIES = {
    # Features f32[N, D] of tokens are the condition `z`. `forward` takes the values i64[N, C] of all channels in the
    # order of generation; `channel_0`, … the value of the channel before and caches, which the last does not return.
    "next_channel": {
        "words": "predicts each channel of a token from its features and the channels before",
        "methods": {
            "forward": "state condition+ -> logits",
            "channel_#": "condition+ token* cache* -> logits cache*",
        },
    },
}
