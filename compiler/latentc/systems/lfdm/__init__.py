"""LFDM: Conditional Image-to-Video Generation with Latent Flow Diffusion Models (Ni et al. 2023, arXiv:2303.13744).

A flow autoencoder describes a video as motion of its first frame: where each pixel comes from, and whether it is seen
there. A U-Net over space and time denoises that motion, given features of the image and a class or text.

Specs: specs/first_stages/lfdm_autoencoder.yaml, specs/diffusion/lfdm.yaml.
Tests: tests/systems/lfdm, tests/parity/lfdm.py.
Rows in docs/systems.yaml: lfdm_autoencoder, lfdm.
"""

COMPONENTS = {
    "networks": {"flow_autoencoder": "flow_autoencoder", "flow_unet": "flow_unet"},
    "objectives": {"flow_autoencoding": "flow_autoencoding", "latent_flow": "latent_flow"},
    "samplers": {
        "flow_ddim": "flow_ddim",
        "motion_transfer": "motion_transfer",
        "shifted_ddim": "shifted_ddim",
    },
}

CAPABILITIES = {
    # Motion f32[B, 3, F, h, w] is a flow (where pixels come from, as columns and rows from -1 to 1) and how much of
    # each pixel is seen there, from -1 to 1. `flow`: image, video -> motion; `animate`: image, motion -> video.
    # `transfer`: image, another -> the image moved to the other, with the other's regions: means f32[B, K, 2] and roots
    # of covariances f32[B, K, 4]; `regions`: image -> the same of its own.
    "animate": {
        "words": "describes video as motion of an image, and moves the image by it",
        "methods": {
            "flow": "state state -> output",
            "animate": "state state -> output",
            "transfer": "state state -> output output output",
            "regions": "state -> output output",
        },
    },
}
