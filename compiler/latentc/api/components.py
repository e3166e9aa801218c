"""Components of one's own: adding packages of them, and writing a first one."""

from __future__ import annotations

import importlib.util
import keyword
import shutil
import tempfile
from pathlib import Path

from latentc.diagnostics import DiagnosticError, did_you_mean

FOLDERS = {
    "network": "networks",
    "condition": "conditions",
    "objective": "objectives",
    "sampler": "samplers",
    "block": "blocks/feed_forwards",
}
"""The folder of the vocabulary that each kind of component is added to."""


def use_components(folder: Path | str) -> None:
    """Adds a package with components of one's own, for this process, as `--components` does. DiagnosticError E0902."""
    from latentc.components import use

    use(folder)


def init_component(component: str, output: Path | str) -> Path:
    """Writes an installable package with a component, a spec, a test and a README into the new folder `output`.

    The package is called like the folder; the component `my_network` for a network. Returns the folder.
    DiagnosticError E0701 (no such component), E0902 (no name of a package), E0412.
    """
    from latentc.files.named import make_folder, write_text
    from latentc.files.templates import rendered

    if component not in FOLDERS:
        mend = did_you_mean(component, FOLDERS, f"components: {', '.join(FOLDERS)}")
        raise DiagnosticError.of("E0701", f"there is no component called `{component}`", help=mend)
    folder = Path(output)
    package, kind = folder.resolve().name, f"my_{component}"
    if not package.isidentifier() or keyword.iskeyword(package):
        mend = f"write `-o {_identifier(package)}`"
        raise DiagnosticError.of("E0902", f"`{package}` is no name of a Python package", help=mend)
    if _taken(package, folder.resolve()):
        raise DiagnosticError.of("E0902", f"there is another Python package called `{package}`", help="choose another")
    if folder.exists():
        raise DiagnosticError.of("E0412", f"{folder} exists already", help="name another folder with -o")
    facts = {"package": package, "kind": kind, "component": component, "folder": FOLDERS[component]}
    facts["cls"] = f"My{component.capitalize()}"
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": "__init__.py",
        f"{package}/{kind}.py": f"{component}.py",
        f"{package}/specs/{kind}.yaml": f"{component}.yaml",
        f"tests/test_{kind}.py": "test.py",
    }
    make_folder(folder.resolve().parent)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{package}.", dir=folder.resolve().parent))
    except OSError as error:
        message = f"cannot write to {folder.resolve().parent}: {error.strerror}"
        raise DiagnosticError.of("E0412", message, help="choose another place") from None
    try:
        for name, template in files.items():
            write_text(made / name, rendered(f"component/{template}", facts))
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _identifier(name: str) -> str:
    """A name of a package like this one."""
    text = "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")
    return text if text.isidentifier() and not keyword.iskeyword(text) else "mypkg"


def _taken(package: str, folder: Path) -> bool:
    """True if Python finds a package of this name that is not in `folder`."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return True
    return found is not None and found.origin is not None and not Path(found.origin).is_relative_to(folder)
