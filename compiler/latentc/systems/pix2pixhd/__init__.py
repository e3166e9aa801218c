"""High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs (Wang et al. 2018, arXiv:1711.11585).

pix2pixHD: images of maps of labels, by a generator without noise against PatchGANs at several resolutions.

Specs: specs/gan/pix2pixhd.yaml, specs/digits/digits_pix2pixhd.yaml.
Tests: tests/systems/pix2pixhd, tests/parity/pix2pixhd.py.
Rows in docs/systems.yaml: pix2pixhd.
"""

COMPONENTS = {
    "networks": {
        "global_generator": "generators",
        "local_enhancer": "generators",
        "multiscale_discriminator": "multiscale_discriminator",
        "instance_encoder": "instance_encoder",
        "vgg19": "vgg19",
    },
    "conditions": {"instance_edges": "instance_edges"},
    "objectives": {"paired_translation": "paired_translation"},
    "samplers": {"render": "render"},
}

CAPABILITIES = {
    "render": {"words": "turns conditions into a sample", "methods": {"forward": "condition* -> output"}},
    # As many outputs for each of `sizes["scales"]` scales: the features of its layers, and last a score per patch.
    "discriminate_scales": {
        "words": "scores how much a sample looks like data, at several resolutions",
        "methods": {"forward": "state condition* -> output+"},
    },
    "perceive": {
        "words": "gives the features that it sees in a sample at several depths",
        "methods": {"forward": "state -> output+"},
    },
}
