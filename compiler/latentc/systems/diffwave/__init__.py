"""DiffWave: A Versatile Diffusion Model for Audio Synthesis (Kong et al. 2021, arXiv:2009.09761).

A network of dilated convolutions denoises waveforms, as a vocoder or without a condition.

Specs: specs/audio/diffwave.yaml, specs/audio/diffwave_sc09.yaml.
Tests: tests/systems/diffwave, tests/parity/diffwave.py.
Rows in docs/systems.yaml: diffwave, diffwave_sc09.
"""

COMPONENTS = {
    "conditions": {"step_table": "step_table"},
    "networks": {"diffwave": "diffwave"},
    "samplers": {"clipped_ddpm": "clipped_ddpm"},
    "samplers/spacings": {"betas": "betas"},
}
