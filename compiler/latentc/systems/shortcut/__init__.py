"""One Step Diffusion via Shortcut Models (Frans et al. 2024, arXiv:2410.12557).

The network takes the size of its step. Steps of the least size learn flow matching; each of the others learns, from an
average of the network, where two steps of half its size end.

Specs: specs/digits/digits_shortcut.yaml, specs/flow/shortcut.yaml.
Tests: tests/systems/shortcut, tests/parity/shortcut.py.
Rows in docs/systems.yaml: shortcut.
"""

COMPONENTS = {
    "blocks/mixers": {"inverse_width_attention": "inverse_width_attention"},
    "conditions": {"step_size": "step_size"},
    "objectives": {"shortcut": "shortcut"},
    "processes": {"least_noise_path": "least_noise_path"},
}
