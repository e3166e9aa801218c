"""Published systems: a package for each paper that needs components of its own, with everything that only it needs.

A system uses the core (`latentc.components`) and, if its paper builds on another's, that system, which its `__init__`
lists in BASES. The core never imports a system: `latentc.components.packages` finds them by the table COMPONENTS of
each `__init__`, as it finds the packages of users. To remove a paper, remove its folder here, its spec, its tests and
its row in docs/systems.yaml; the `__init__` says where they are.
"""
