"""Neural Modulation Fields for Conditional Cone Beam Neural Tomography (Papa et al. 2023, arXiv:2307.08351).

A neural field of densities that all patients share, modulated by what is learned of each patient: a code, or a small
field of its own. Both are fitted to measured line integrals along the rays of a cone beam.

Specs: specs/signals/cond_cbnt.yaml, specs/digits/phantoms_cond_cbnt.yaml.
Tests: tests/systems/cond_cbnt, tests/parity/cond_cbnt.py.
Rows in docs/systems.yaml: cond_cbnt.
"""

COMPONENTS = {
    "networks": {"modulated_field": "modulated_field"},
    "objectives": {"line_integrals": "line_integrals"},
    "samplers": {"tomography": "tomography"},
}

CAPABILITIES = {
    # Projections f32[B, 1, H, H] of patients, given the angle of the beam; `train_forward` also takes places along
    # rays, uniform between 0 and 1. If the sampler asks for them: `volume`, densities f32[B, 1, R, R, R] on a grid,
    # `density_of`, densities f32[B, 1] at one point f32[B, 3] each, `density_at`, densities f32[B, N, 1] at points
    # f32[B, N, 3], and `render_at`, integrals f32[B, N, 1] along the rays through places f32[B, N, 2] of the detector.
    "project": {
        "words": "integrates a density along the rays of a beam",
        "methods": {
            "forward": "condition* -> output",
            "train_forward": "noise condition* -> output",
            "volume?": "condition* -> output",
            "density_of?": "state condition* -> output",
            "density_at?": "state condition* -> output",
            "render_at?": "state condition* -> output",
        },
    },
}
