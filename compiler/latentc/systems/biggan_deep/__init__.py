"""BigGAN-deep (Brock et al. 2019, arXiv:1809.11096, appendix B).

BigGAN with twice as many blocks, which have bottlenecks.

Specs: specs/gan/biggan_deep.yaml.
Tests: tests/parity/gans.py.
Rows in docs/systems.yaml: biggan_deep.
"""

COMPONENTS = {
    "networks": {"deep_discriminator": "deep_discriminator", "deep_generator": "deep_generator"},
}
