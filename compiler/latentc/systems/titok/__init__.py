"""TiTok: An Image is Worth 32 Tokens for Reconstruction and Generation (Yu et al. 2024, arXiv:2406.07550).

A tokenizer whose codes are a short sequence without places in the image, first trained to predict the tokens of
another tokenizer (proxy codes) and then to make pixels of them; and a masked transformer over these codes.

Specs: specs/first_stages/titok_tokenizer.yaml, specs/tokens/titok.yaml, specs/digits/digits_titok_tokenizer.yaml,
specs/digits/digits_titok.yaml.
Tests: tests/systems/titok, tests/parity/titok.py.
Rows in docs/systems.yaml: titok, titok_tokenizer.
"""

COMPONENTS = {
    "networks": {"titok_autoencoder": "titok_autoencoder", "titok_bert": "titok_bert"},
    "objectives": {"proxy_token": "proxy_token", "weighted_masked_token": "weighted_masked_token"},
    "samplers": {"annealed_confidence": "annealed_confidence", "proxy_autoencode": "proxy_autoencode"},
}

CAPABILITIES = {
    # `proxies` (tokens as state) -> logits f32[B, T, V] of the tokens that another tokenizer has for the same image;
    # `regularized_proxies` the same of an image, with the penalty f32[B] on its own tokens.
    "proxy_tokens": {
        "words": "predicts the tokens of another tokenizer from its own",
        "methods": {
            "encode": "state -> output",
            "proxies": "state -> logits",
            "regularized_proxies": "state noise* -> logits penalty",
        },
    },
}
