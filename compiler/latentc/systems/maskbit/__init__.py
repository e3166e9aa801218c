"""MaskBit: Embedding-free Image Generation via Bit Tokens (Weber et al. 2024, arXiv:2409.16211).

Tokens are the signs of channels (lookup-free quantisation).

Specs: specs/first_stages/maskbit_tokenizer.yaml, specs/tokens/maskbit.yaml.
Tests: tests/systems/maskbit, tests/parity/maskbit.py.
Rows in docs/systems.yaml: maskbit, maskbit_tokenizer.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"lookup_free": "lookup_free"},
}
