"""The image, its compose file and the manifest for KServe agree with each other, the package and the server."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from served import served, tiny_bundles

from latentc.engines import ENGINES
from latentc_runtime.serve.options import KEY_VARIABLE, Options

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/serving"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMPILER_ONLY = {"polygraphy"}  # what an extra holds for building plans
BUILDS = {"setuptools", "wheel"}  # what builds a package that is no wheel
HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
TARGETS = {"cpu": "onnxruntime", "gpu": "onnxruntime", **{name: name for name in ENGINES if name != "onnxruntime"}}


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """{stage: (what it starts from, [(instruction, rest)])}."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in filter(None, map(str.strip, re.sub(r"\n\s+(?=CMD)", " ", text).splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.split()
            found[name] = (base, [])
        else:
            next(reversed(found.values()))[1].append((word, rest.strip()))
    return found


STAGES = stages()


def whole(target: str) -> list[tuple[str, str]]:
    """The instructions of a target and of all that it starts from."""
    base, own = STAGES[target]
    return [*(whole(base) if base in STAGES else []), *own]


def pips(lines: list[tuple[str, str]]) -> list[list[str]]:
    """The words of each command of pip."""
    commands = [part for word, rest in lines if word == "RUN" for part in rest.split("&&")]
    return [shlex.split(part.partition("pip ")[2]) for part in commands if re.search(r"pip (install|wheel)", part)]


def installed(target: str) -> set[str]:
    """The packages that a target installs from the index, as they are required."""
    words = {re.sub(r"\[.*\]", "", word) for command in pips(whole(target)) for word in command}
    return {word for word in words if ">=" in word and word.partition(">=")[0] not in BUILDS}


def test_there_is_a_target_for_every_backend():
    assert STAGES.keys() == {"wheel", "server", "nvidia", *TARGETS}
    assert set(TARGETS.values()) == set(ENGINES)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_installs_what_the_runtime_needs(target: str):
    """Numpy and the extras `serve` and that of the backend, as pyproject.toml has them; no package of the compiler."""
    extras = [*EXTRAS["optional-dependencies"]["serve"], *EXTRAS["optional-dependencies"][target]]
    wanted = {one for one in extras if re.split("[>=]", one)[0] not in COMPILER_ONLY}
    assert installed(target) == wanted | {one for one in EXTRAS["dependencies"] if one.startswith("numpy")}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_keeps_the_rules(target: str):
    """Those of hadolint that can be read off: DL3000, 3002, 3006, 3007, 3013, 3020, 3025, 3042, 3044, 3045."""
    lines = whole(target)
    users = [rest for word, rest in lines if word == "USER"]
    assert users[-1] == "10001", "it runs as root"
    for word, rest in [*lines, *STAGES["wheel"][1]]:
        assert word in {"RUN", "COPY", "USER", "WORKDIR", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}, word
        assert word != "WORKDIR" or rest.startswith("/")
        if word == "ENTRYPOINT" or (word == "HEALTHCHECK" and "CMD" in rest):
            assert isinstance(json.loads(rest[rest.index("[") :]), list)
    for _, *words in pips([*lines, *STAGES["wheel"][1]]):
        assert "--no-cache-dir" in words
        names = [word for word in words if not word.startswith("-")]
        assert all(re.search("[><=~]=|/|^\\.$", name) for name in names), names
    bases = {base for base, _ in STAGES.values() if base not in STAGES}
    assert all(re.fullmatch(r"[a-z/]+:\d[\w.-]+", base) for base in bases), "each base has a version"


def test_what_is_copied_is_there():
    for word, rest in STAGES["wheel"][1]:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1])


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint")
def test_hadolint_finds_nothing():
    done = subprocess.run([HADOLINT, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs a container engine")
@pytest.mark.slow
def test_the_image_is_built_and_serves(tmp_path: Path):
    bundle = tiny_bundles.host_bundle(tmp_path / "b")
    command = ["docker", "build", "--quiet", "--target", "cpu", "-f", FOLDER / "Dockerfile", ROOT]
    image = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    inside = "import latentc_runtime as r; print(r.load('/models/b').sample([1]).shape)"
    mount = ["-v", f"{bundle}:/models/b:ro", "--entrypoint", "python", image, "-c", inside]
    assert "(1, 1, 2, 2)" in subprocess.run(["docker", "run", "--rm", *mount], capture_output=True, text=True).stdout


def arguments() -> list[str]:
    """What the image starts."""
    (entry,) = (json.loads(rest) for word, rest in whole("cpu") if word == "ENTRYPOINT")
    return entry


def test_the_image_starts_the_server():
    program, flag, module, *options = arguments()
    assert (program, flag, module) == ("python", "-m", "latentc_runtime.serve")
    known = {f"--{one.name.replace('_', '-')}" for one in fields(Options)}
    assert set(options[::2]) <= known
    (port,) = (rest for word, rest in whole("cpu") if word == "EXPOSE")
    assert options[options.index("--port") + 1] == port


def test_the_health_check_asks_the_server(tmp_path: Path):
    (check,) = (json.loads(rest[rest.index("[") :]) for word, rest in whole("cpu") if word == "HEALTHCHECK")
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}") as (web, _):
        code = check[2].replace("http://127.0.0.1:8000", str(web.base_url).rstrip("/"))
        exec(code, {})
    with pytest.raises(OSError):
        exec(code, {})


def document(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def test_compose_has_a_service_for_every_target():
    services = document("compose.yaml")["services"]
    assert services.keys() == TARGETS.keys()
    for name, service in services.items():
        assert service["profiles"] == [name] and service["build"]["target"] == name
        assert (ROOT / service["build"]["dockerfile"]).is_file() and service["build"]["context"] == "."
        assert ("deploy" in service) == (name not in ("cpu", "openvino"))
        (volume,) = service["volumes"]
        assert volume.split(":")[-2] == service["command"][0].partition("=")[2]
        assert service["ports"][0].startswith("127.0.0.1:") and service["ports"][0].endswith(":8000")
        assert list(service["environment"]) == [KEY_VARIABLE]


def test_kserve_asks_for_addresses_of_the_server(tmp_path: Path):
    (container,) = document("kserve.yaml")["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container" and container["image"].endswith(":cpu")
    assert {KEY_VARIABLE, "STORAGE_URI"} == {one["name"] for one in container["env"]}
    assert container["args"][0].endswith("=/mnt/models")  # where KServe puts what STORAGE_URI names
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", key="sesame") as (web, _):
        for probe in ("readinessProbe", "livenessProbe"):
            place = container[probe]["httpGet"]
            assert web.get(place["path"]).status_code == 200 and place["port"] == 8000
