"""The cluster examples parse, and their flags are those of torchrun and of train.py; docs/scale.md shows real plans."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from emitted import emitted
from torch.distributed.run import get_args_parser

from latentc.cli import run
from latentc.lower import lower
from latentc.spec import load_spec

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples/cluster"


@pytest.fixture(scope="module")
def load_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The function of an emitted project that reads config.yaml and flags; SystemExit if one is wrong."""
    import importlib

    spec = load_spec("dit", overrides=["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2"])
    with emitted(lower(spec), spec, tmp_path_factory.mktemp("cluster") / "project"):
        yield importlib.import_module("latentc_support.config").load_config


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


def check_command(words: list[str], load_config: Any) -> tuple[Any, dict[str, Any]]:
    """torchrun's arguments and the settings that train.py gets."""
    at = words.index("train.py")
    arguments = get_args_parser().parse_args([*words[words.index("torchrun") + 1 : at], "train.py"])
    return arguments, load_config(words[at + 1 :])["train"]


def test_slurm(load_config: Any) -> None:
    script = CLUSTER / "train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    command = re.search(r"^srun .*?&$", text.replace("\\\n", " "), re.MULTILINE)
    assert command
    words = shlex.split(command[0].rstrip("&").replace("$SLURM_NNODES", options["nodes"]).replace("$HOST", "node0"))
    arguments, train = check_command([word.replace("${OUT:-runs/train}", "out") for word in words], load_config)
    assert (arguments.nnodes, arguments.nproc_per_node) == (options["nodes"], options["gpus-per-node"])
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("c10d", "node0:29500")
    assert (train["parallel"], train["resume"], train["out"]) == ("fsdp", True, "out")
    processes = int(options["nodes"]) * int(options["gpus-per-node"])
    assert train["batch_size"] % (processes * train["accumulate"]) == 0


def test_kubernetes(load_config: Any) -> None:
    (job,) = documents("pytorchjob.yaml")
    flavor, cluster, local = documents("queue.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert [d["kind"] for d in (flavor, cluster, local)] == ["ResourceFlavor", "ClusterQueue", "LocalQueue"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert job["metadata"]["namespace"] == local["metadata"]["namespace"]
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    (group,) = cluster["spec"]["resourceGroups"]
    (held,) = group["flavors"]
    assert held["name"] == flavor["metadata"]["name"]
    quota = {resource["name"]: resource["nominalQuota"] for resource in held["resources"]}
    assert list(quota) == group["coveredResources"]

    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"  # the operator looks for this name
    arguments, train = check_command([*container["command"], *container["args"]], load_config)
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert int(arguments.nproc_per_node) == gpus
    assert worker["replicas"] * gpus == quota["nvidia.com/gpu"]
    policy = job["spec"]["elasticPolicy"]
    for nodes in range(policy["minReplicas"], policy["maxReplicas"] + 1):
        assert train["batch_size"] % (nodes * gpus * train["accumulate"]) == 0
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}


def test_the_plans_of_the_page_are_those_of_the_command() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    shown = re.findall(r"```sh\n(latentc show [^\n]*)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 3
    for command, text in shown:
        out = io.StringIO()
        with redirect_stdout(out):
            assert run(shlex.split(command)[1:]) == 0
        assert out.getvalue() == text, command
