"""Self-Supervised Variational Auto-Encoders (Gatopoulos and Tomczak 2020, arXiv:2010.02014).

A variational autoencoder that first makes a simpler image, such as the same one at half the resolution, and then the
image of that; one such transformation is the authors' srVAE (arXiv:2006.05218), none the VAE with a flow as its prior
that both are compared with.

Specs: specs/variational_autoencoder/self_vae.yaml, specs/digits/digits_self_vae.yaml.
Tests: tests/systems/self_vae, tests/parity/self_vae.py.
Rows in docs/systems.yaml: self_vae.
"""

BASES = ("pixelcnn",)

COMPONENTS = {
    "networks": {"self_vae": "self_vae"},
    "objectives": {"self_supervised_bound": "self_supervised_bound"},
    "samplers": {"image_by_image": "image_by_image"},
}

CAPABILITIES = {
    # Image 0 is the sample; `transform` makes images 1 to K, each of the previous. Of image k: `posterior_k` -> mean
    # and log-variance of its latents; `log_prob_k` (it, image k + 1, its latents) -> log-probability f32[B] in nats;
    # `draw_k` (image k + 1, its latents, uniform numbers) -> image k; `prior_k` (image k + 1, latents of image k + 1)
    # -> mean and log-variance of its latents. Image K has no image k + 1, and its latents have a prior of their own:
    # `prior_log_prob` -> log-density f32[B], `prior_draw` turns normal noise into latents; without these two it is
    # standard normal.
    "supervise_itself": {
        "words": "makes a sample from simpler images that were made of it",
        "methods": {
            "transform?": "state -> output+",
            "posterior_#": "state condition* -> output output",
            "prior_#?": "state noise condition* -> output output",
            "log_prob_#": "state state? noise condition* -> output",
            "draw_#": "state? noise noise condition* -> output",
            "prior_log_prob?": "state -> output",
            "prior_draw?": "noise -> output",
        },
    },
}
