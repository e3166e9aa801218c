"""Pix2NeRF: Unsupervised Conditional pi-GAN for Single Image to Neural Radiance Fields Translation
(Cai et al. 2022, arXiv:2202.13162), and its base pi-GAN (Chan et al. 2021, arXiv:2012.00926).

A generator renders a neural field of a latent and a class from a camera; an encoder finds latent and camera of an
image, so that the image is seen from elsewhere. No image of the data needs a camera.

Specs: specs/gan/pix2nerf.yaml, specs/digits/boxes_pix2nerf.yaml.
Tests: tests/systems/pix2nerf, tests/parity/pix2nerf.py.
Rows in docs/systems.yaml: pix2nerf.
"""

COMPONENTS = {
    "networks": {
        "radiance_generator": "radiance_generator",
        "camera_discriminator": "coordinate_networks",
        "field_encoder": "coordinate_networks",
    },
    "conditions": {"camera": "camera"},
    "objectives": {"image_to_field": "image_to_field"},
    "samplers": {"camera_views": "camera_views"},
}

CAPABILITIES = {
    # The latent f32[B, Z] is uniform between -1 and 1; `train_forward` also takes places along rays, uniform between 0
    # and 1, and normal noise in densities, alternately. If the sampler asks for them: `render_at`, colours f32[B, N, C]
    # at places f32[B, N, 2] of the image, and `field_at`, colours and density f32[B, N, C + 1] at points f32[B, N, 3]
    # seen in directions f32[B, N, 3].
    "render_views": {
        "words": "renders a latent from a camera",
        "methods": {
            "forward": "noise condition* -> output",
            "train_forward": "noise noise+ condition* -> output",
            "render_at?": "state noise condition* -> output",
            "field_at?": "state state noise condition* -> output",
        },
    },
    # A score f32[B, 1], and the camera f32[B, 2].
    "discriminate_views": {
        "words": "scores how much an image looks like data, and finds its camera",
        "methods": {"forward": "state condition* -> output output"},
    },
    # The latent f32[B, Z] between -1 and 1, and the camera f32[B, 2].
    "find_views": {
        "words": "finds the latent and the camera of an image",
        "methods": {"forward": "state condition* -> output output"},
    },
}
