"""BD3-LM: Block Diffusion (Arriola et al. 2025, arXiv:2503.09573).

Blocks of tokens from left to right, each by masked diffusion given the blocks before it.

Specs: specs/text/bd3lm.yaml, specs/digits/digits_bd3lm.yaml.
Tests: tests/systems/bd3lm, tests/parity/bd3lm.py.
Rows in docs/systems.yaml: bd3lm.
"""

BASES = ("mdlm",)

COMPONENTS = {
    "networks": {"block_dit": "block_dit"},
    "objectives": {"block_diffusion_tokens": "block_diffusion_tokens"},
    "samplers": {"first_hitting": "first_hitting"},
}

CAPABILITIES = {
    # Tokens see those of their own block and of earlier ones. The port's `null` is the mask. `train_forward` takes the
    # noisy tokens as state and the clean ones as token: noisy tokens see those of their block, and the clean ones of
    # earlier blocks.
    "unmask_blocks": {
        "words": "predicts masked tokens of a block from its others and earlier blocks",
        "methods": {
            "forward": "state condition* -> logits",
            "train_forward": "state token condition* -> logits",
        },
    },
}
