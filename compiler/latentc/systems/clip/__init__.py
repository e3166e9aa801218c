"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al. 2021, arXiv:2103.00020).

Its ResNets of images; its transformers are the core's `patch_encoder` and `text_encoder`.

Specs: specs/image/clip_resnet.yaml.
Tests: tests/parity/clip.py.
Rows in docs/systems.yaml: clip_resnet.
"""

COMPONENTS = {
    "networks": {"clip_resnet": "clip_resnet"},
}
