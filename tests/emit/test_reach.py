"""Definitions that a project leaves out because nothing in it calls them."""

from __future__ import annotations

from latentc.emit.reach import reached_only

TOOLS = '''"""Tools."""

import math
import os

# The limit.
LIMIT = 3
UNUSED = 4  # of nothing


class Box:
    """A box."""

    def __init__(self, side):
        self.side = side

    def volume(self):
        return self.side**3

    def surface(self):
        return 6 * self.side**2


# ---- no caller


def lost():
    return os.sep


# ---- called


def kept(x):
    return min(math.floor(x), LIMIT)


def by_name():
    return 1


__all__ = ["Box", "lost"]
'''


def reached(train: str, **others: str) -> dict[str, str]:
    files = {"train.py": train, "latentc_support/tools.py": TOOLS}
    files |= {f"latentc_support/{name}.py": text for name, text in others.items()}
    return reached_only(files, ["train.py"], [])


def test_definitions_without_a_caller_go_and_the_layout_stays() -> None:
    files = reached("from latentc_support.tools import Box, kept, lost\n\nprint(Box(kept(2.0)).volume())\n")
    assert files["train.py"] == "from latentc_support.tools import Box, kept\n\nprint(Box(kept(2.0)).volume())\n"
    parts = TOOLS.split("\n\n\n")
    box = parts[1].partition("\n\n    def surface")[0]
    head = '"""Tools."""\n\nimport math\n\n# The limit.\nLIMIT = 3'
    assert files["latentc_support/tools.py"] == "\n\n\n".join([head, box, "# ---- called", parts[5]]) + "\n"


def test_members_of_modules_are_found_by_name() -> None:
    by_attribute = reached("from latentc_support import tools\n\nprint(tools.kept(1))\n")
    assert "def kept" in by_attribute["latentc_support/tools.py"] and "by_name" not in str(by_attribute)
    by_text = reached("from latentc_support import tools\n\nprint(getattr(tools, 'by_name', None))\n")
    assert "def by_name" in by_text["latentc_support/tools.py"] and "kept" not in str(by_text)
    passed_on = reached(
        "from latentc_support import tools, user\n\nuser.use(tools)\n", user="def use(m):\n    m.lost()\n"
    )
    assert "def lost" in passed_on["latentc_support/tools.py"] and "kept" not in str(passed_on)


def test_modules_that_settings_name_are_kept() -> None:
    train = "import importlib\n\nmodule = importlib.import_module('latentc_support.' + input())\nmodule.read()\n"
    files = {"train.py": train, "latentc_support/tools.py": TOOLS}
    files |= {f"latentc_support/{name}.py": "def read(): ...\n\n\ndef write(): ...\n" for name in ("npz", "csv")}
    found = reached_only(files, ["train.py"], [], ["npz"])
    assert found["latentc_support/npz.py"] == "def read(): ...\n" and "latentc_support/csv.py" not in found


def test_top_level_statements_of_loaded_modules_reach_what_they_call() -> None:
    hook = "import sys\n\n\ndef report(kind): ...\n\n\ndef other(): ...\n\n\nsys.excepthook = report\n"
    train = (
        "import latentc_support.hook  # noqa: F401\n\n\ndef main(): ...\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    files = reached(train, hook=hook)
    assert "report" in files["latentc_support/hook.py"] and "other" not in files["latentc_support/hook.py"]
    assert files["train.py"] == train and "latentc_support/tools.py" not in files
