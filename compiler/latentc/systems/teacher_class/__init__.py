"""Teacher-Class Network: A Neural Network Compression Mechanism (Malik et al. 2020, arXiv:2004.03281).

Several small students each learn one chunk of the features that a teacher classifies by; joined, they are classified by
the teacher's last layer, which is then trained again. Students learn by `knowledge_distillation` of the core, from
features alone.

Specs: specs/image/tcn_teacher.yaml, specs/image/tcn.yaml, specs/digits/digits_tcn_teacher.yaml,
specs/digits/digits_tcn.yaml.
Tests: tests/systems/teacher_class.
Rows in docs/systems.yaml: tcn_teacher, tcn.
"""

COMPONENTS = {
    "networks": {"plain_classifier": "plain_classifier", "student_class": "student_class"},
}
