"""LARP: Tokenizing Videos with a Learned Autoregressive Generative Prior (Wang et al. 2024, arXiv:2410.21264).

A tokenizer of learned queries, trained together with a small autoregressive prior.

Specs: specs/first_stages/larp_tokenizer.yaml, specs/tokens/larp.yaml, specs/tokens/larp_fp.yaml.
Tests: tests/systems/larp, tests/parity/larp.py.
Rows in docs/systems.yaml: larp_tokenizer, larp, larp_fp.
"""

COMPONENTS = {
    "networks": {
        "larp_autoencoder": "larp_autoencoder",
        "transformer_discriminator": "transformer_discriminator",
        "vector_transformer": "vector_transformer",
    },
    "objectives": {"prior_autoencoding": "prior_autoencoding"},
}
