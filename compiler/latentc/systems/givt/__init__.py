"""GIVT: Generative Infinite-Vocabulary Transformers (Tschannen et al. 2023, arXiv:2312.02116).

Transformers over continuous tokens whose heads are Gaussian mixtures, drawn in order or by confidence; autoencoders of
images and of labels per pixel.

Specs: specs/digits/digits_givt.yaml, specs/first_stages/givt_dense_vae.yaml, specs/first_stages/givt_vae.yaml,
specs/tokens/givt.yaml, specs/tokens/givt_dense.yaml, specs/tokens/givt_masked.yaml.
Tests: tests/systems/givt, tests/parity/givt.py.
Rows in docs/systems.yaml: givt_dense_vae, givt, givt_masked, givt_vae, givt_dense.
"""

COMPONENTS = {
    "blocks/conditions": {"remembered_context": "remembered_context"},
    "networks": {
        "dense_autoencoder": "dense_autoencoder",
        "mixture_transformer": "mixture_transformer",
        "reversible": "reversible",
    },
    "objectives": {"label_autoencoding": "label_autoencoding", "mixture_likelihood": "mixture_likelihood"},
    "samplers": {"mixture_autoregressive": "mixture_autoregressive", "mixture_confidence": "mixture_confidence"},
}

CAPABILITIES = {
    # Tokens [B, T - 1, C] as state -> parameters of a mixture [B, T, P].
    "next_mixture": {
        "words": "predicts the distribution of each continuous token from those before it",
        "methods": {
            "forward": "state condition* -> output",
            "prefill": "condition* -> output cache+",
            "decode": "token position cache+ -> output cache+",
        },
    },
    # Tokens [B, T, C] as state, mask f32[B, T] that is 1 where one is hidden -> parameters of a mixture [B, T, P].
    "masked_mixtures": {
        "words": "predicts the distributions of hidden continuous tokens from the others",
        "methods": {"forward": "state mask condition* -> output"},
    },
    # Each method undoes the other and changes no volume.
    "adapt": {
        "words": "maps samples to others of the same shape and volume, and back",
        "methods": {"forward": "state -> output", "inverse": "state -> output"},
    },
}
