"""IBQ: Scalable Image Tokenization with Index Backpropagation Quantization (Shi et al. 2024, arXiv:2412.02692).

All rows of the codebook get gradients through the softmax of their products with the latents; a Llama whose blocks are
also modulated by the class draws the tokens.

Specs: specs/first_stages/ibq_tokenizer.yaml, specs/tokens/ibq.yaml, specs/digits/digits_ibq.yaml.
Tests: tests/systems/ibq, tests/parity/ibq.py.
Rows in docs/systems.yaml: ibq, ibq_tokenizer.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"index_propagation": "index_propagation"},
    "networks": {"modulated_transformer": "modulated_transformer"},
}
