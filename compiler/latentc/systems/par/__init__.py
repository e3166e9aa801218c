"""PAR: Parallelized Autoregressive Visual Generation (Wang et al. 2024, arXiv:2412.15119).

A grid of tokens is cut into regions. The first tokens of the regions are drawn one after the other, then the tokens at
one place of all regions at once, place after place.

Specs: specs/digits/digits_par.yaml, specs/tokens/par.yaml.
Tests: tests/systems/par, tests/parity/par.py.
Rows in docs/systems.yaml: par.
"""

COMPONENTS = {
    "networks": {"region_transformer": "region_transformer"},
    "objectives": {"next_place": "next_place"},
    "samplers": {"place_by_place": "place_by_place"},
}

CAPABILITIES = {
    # Of m tokens at a place: `forward` takes all tokens but the last as state, in the network's reading. `decode` takes
    # a token i64[B], and the number of the next; `enter` the last of the first m; `decode_place` those of a place
    # i64[B, m] and the number of its first. Caches f32[B, H, T, d] are filled as they are read; logits f32[B, V], or of
    # a place f32[B m, V].
    "next_places": {
        "words": "predicts the tokens at a place of all regions from those at the places before",
        "methods": {
            "forward": "state condition* -> logits",
            "prefill": "condition* -> logits cache+",
            "decode": "token position cache+ -> logits cache+",
            "enter": "token cache+ -> logits cache+",
            "decode_place": "token position cache+ -> logits cache+",
        },
    },
}
