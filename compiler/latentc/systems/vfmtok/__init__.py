"""VFMTok: Vision Foundation Models as Effective Visual Tokenizers (Zheng et al. 2025, arXiv:2507.08441).

Features of a frozen DINOv2 become tokens of regions, decoded by deformable attention.

Specs: specs/first_stages/vfmtok_tokenizer.yaml, specs/tokens/vfmtok.yaml.
Tests: tests/systems/vfmtok, tests/parity/vfmtok.py.
Rows in docs/systems.yaml: vfmtok_tokenizer, vfmtok.
"""

COMPONENTS = {
    "networks": {"feature_discriminator": "feature_discriminator", "region_autoencoder": "region_autoencoder"},
}
