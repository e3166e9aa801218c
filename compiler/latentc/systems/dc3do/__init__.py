"""DC3DO: Diffusion Classifier for 3D Objects (Koprucu et al. 2024, arXiv:2408.06693).

The denoisers of LION (Zeng et al. 2022, arXiv:2210.06978), of its global latents and of points, conditioned on the
class. The program `classify` of the system diffusion_classifier asks either of them which class a shape has.

Specs: specs/points/dc3do.yaml, specs/points/dc3do_points.yaml.
Tests: tests/systems/dc3do, tests/parity/dc3do.py.
Rows in docs/systems.yaml: dc3do, dc3do_points.
"""

COMPONENTS = {
    "networks": {"global_prior": "global_prior", "point_voxel": "point_voxel"},
}
