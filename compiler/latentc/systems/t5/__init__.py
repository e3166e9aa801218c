"""T5: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (Raffel et al. 2020,
arXiv:1910.10683).

Its attention; the encoder is a `text_encoder` of the core.

Specs: specs/text/t5.yaml.
Tests: tests/parity/text.py.
Rows in docs/systems.yaml: t5.
"""

COMPONENTS = {
    "blocks/mixers": {"t5_attention": "t5_attention"},
}
