"""LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior (Wang et al. 2024, arXiv:2410.21264).

A tokenizer of learned queries, trained together with a small autoregressive prior.

Specs: specs/first_stages/larp_tokenizer.yaml, specs/tokens/larp.yaml, specs/tokens/larp_fp.yaml.
Tests: tests/systems/larp, tests/parity/larp.py.
Rows in docs/systems.yaml: larp_tokenizer, larp, larp_fp.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"stochastic_codebook": "stochastic_codebook"},
    "conditions": {"ended_codes": "ended_codes"},
    "networks": {
        "larp_autoencoder": "larp_autoencoder",
        "transformer_discriminator": "transformer_discriminator",
        "vector_transformer": "vector_transformer",
    },
    "objectives": {"prior_autoencoding": "prior_autoencoding"},
}

CAPABILITIES = {
    # As `autoencode`; built if the objective needs them: features [B, N, Z] and token [B, N] of the codes, their
    # likeness to all codes, and the vectors [B, N - 1, Z] of tokens.
    "code_sequence": {
        "words": "exposes its latents to losses as a sequence",
        "methods": {
            "regularized_codes?": "state noise* position* -> output penalty features token",
            "likeness?": "features -> logits",
            "vectors?": "token -> output",
        },
    },
    # [B, N - 1, Z] -> the prediction of each vector's successor.
    "next_vector": {
        "words": "predicts each vector of a sequence from those before it",
        "methods": {"forward": "state -> output"},
    },
}
