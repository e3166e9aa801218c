"""Synthesizing EEG Signals from ERP Paradigms with Conditional Diffusion Models (Klein et al. 2024, arXiv:2403.18486).

EEGWave denoises all electrodes at once; the class, the subject and the session are embedded like the time. It builds on
the system `diffwave`.

Specs: specs/signals/eeg.yaml.
Tests: tests/systems/eeg, tests/parity/eeg.py.
Rows in docs/systems.yaml: eeg.
"""

BASES = ("diffwave",)

COMPONENTS = {
    "conditions": {"step_features": "step_features"},
    "networks": {"eegwave": "eegwave"},
}
