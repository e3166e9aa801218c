"""xAR: Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation (Ren et al. 2025, arXiv:2502.20388).

Cells of an image are drawn one after the other, each by flow matching. In training every cell has a time of its own,
and sees noisy cells before it.

Specs: specs/digits/digits_xar.yaml, specs/tokens/xar.yaml.
Tests: tests/systems/xar, tests/parity/xar.py.
Rows in docs/systems.yaml: xar.
"""

COMPONENTS = {
    "blocks/conditions": {"cell_adaln": "cell_adaln"},
    "networks": {"cell_transformer": "cell_transformer"},
    "objectives": {"cell_flow": "cell_flow"},
    "processes": {"whole_time_path": "whole_time_path"},
    "samplers": {"cell_by_cell": "cell_by_cell"},
}

CAPABILITIES = {
    # `forward`: an array f32[B, C, H, W] and the times of its cells f32[B, K], row by row. The others take a cell
    # f32[B, C, h, w], its time f32[B], and keys and values of the cells before it: `cell_0`, … predict;
    # `remember_0`, …, one fewer, return keys and values with those of the cell.
    "denoise_cells": {
        "words": "predicts velocities of cells of an array, each at a time of its own, from those before it",
        "methods": {
            "forward": "state time condition* -> output",
            "cell_#": "state time condition* cache* -> output",
            "remember_#?": "state time condition* cache* -> cache+",
        },
    },
}
