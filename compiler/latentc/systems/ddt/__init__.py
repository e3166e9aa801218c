"""DDT: Decoupled Diffusion Transformer (Wang et al. 2025, arXiv:2504.05741).

An encoder branch turns the noisy sample into a condition for each token; a decoder, modulated by it token by token,
predicts the velocity. Sampling may reuse the condition over several steps. Other systems put other decoders on it.

Specs: specs/flow/ddt.yaml, specs/digits/digits_ddt.yaml.
Tests: tests/systems/ddt, tests/parity/ddt.py.
Rows in docs/systems.yaml: ddt.
"""

COMPONENTS = {
    "blocks/conditions": {"token_adaln": "token_adaln"},
    "blocks/positions": {"spread_rope_2d": "spread_rope_2d"},
    "networks": {"ddt_transformer": "ddt_transformer"},
    "samplers/spacings": {"long_last_step": "long_last_step"},
}
