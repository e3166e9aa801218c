"""DeCo: frequency-decoupled pixel diffusion (Ma et al. 2025, arXiv:2511.19365).

DDT's condition encoder on large patches of pixels; a small network, modulated for each pixel, adds the detail. The
error is also weighed by frequency, as JPEG does.

Specs: specs/flow/deco.yaml, specs/digits/digits_deco.yaml.
Tests: tests/systems/deco, tests/parity/deco.py.
Rows in docs/systems.yaml: deco.
"""

BASES = ("ddt", "pixnerd")

COMPONENTS = {
    "networks": {"deco_transformer": "deco_transformer"},
    "objectives/denoising_terms": {"frequency_error": "frequency_error"},
}
