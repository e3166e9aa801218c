"""ImbSAM: A Closer Look at Sharpness-Aware Minimization in Class-Imbalanced Recognition (Zhou et al. 2023,
arXiv:2308.07815).

Sharpness-aware minimisation of the loss of rare classes alone, within the loss of all.

Specs: specs/digits/digits_imbsam.yaml.
Tests: tests/systems/imbsam.
Rows in docs/systems.yaml: ImbSAM.
"""

COMPONENTS = {
    "objectives": {"imbsam": "imbalanced_sharpness"},
}
