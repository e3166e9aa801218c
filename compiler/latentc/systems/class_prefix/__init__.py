"""Data Augmentation using Pre-trained Transformer Models (Kumar, Choudhary and Cho 2020, arXiv:2003.02245).

Pre-trained language models (BERT, BART, GPT-2) restore or continue texts that are prefixed with their class.

Specs: specs/tokens/class_prefix_bart.yaml, specs/tokens/class_prefix_bert.yaml, specs/tokens/class_prefix_gpt2.yaml.
Tests: tests/systems/class_prefix, tests/parity/class_prefix.py.
Rows in docs/systems.yaml: class_prefix_bart, class_prefix_gpt2, class_prefix_bert.
"""

COMPONENTS = {
    "conditions": {"masked_text": "masked_text_condition"},
    "data": {"text_rows": "text_rows"},
    "networks": {
        "row_language_model": "row_language_model",
        "text_bert": "text_bert",
        "text_to_text": "text_to_text",
    },
    "objectives": {"masked_text": "masked_text_objective", "row_tokens": "row_tokens"},
    "samplers": {"beam_search": "beam_search", "infill": "infill"},
}

CAPABILITIES = {
    "continue_rows": {
        "words": "predicts the tokens of a row from its first token alone, without conditions",
        "methods": {"read?": "state -> logits"},
    },
}
