"""The verbs of latentc as functions: what the command line does, without the printing.

A spec is named as everywhere: a path, a shipped spec's name, or `-` for standard input; `variant` is one of its
variants and `overrides` are texts as `--set` takes them. `weights` are files, or arrays (of numpy or PyTorch) by name,
such as a state dict; of several networks `NETWORK.NAME`, or a mapping per network. All raise DiagnosticError for what
a caller can mend. Heavy packages are imported by the functions that need them, so that `check` does not wait for one.
"""

from latentc.api._common import Backend, Source
from latentc.api.classifying import classify
from latentc.api.compiling import calibrate, compile, fused
from latentc.api.components import init_component, use_components
from latentc.api.evaluating import evaluate
from latentc.api.exchange import export_diffusers, import_checkpoint, pull, push
from latentc.api.inspecting import data
from latentc.api.leagues import league
from latentc.api.networks import convert_weights, emit, forward, forward_file, loss, loss_file, run_method, train
from latentc.api.reading import (
    check,
    class_names,
    doctor,
    explain,
    hoisting,
    init,
    ir,
    notes,
    official_checkpoints,
    plan,
    resolved,
    schema,
    show,
    specs,
    why,
)
from latentc.api.retrieving import index
from latentc.api.running import bench, deploy_triton, tune, verify, verify_training
from latentc.api.sampling import sample, sample_set
from latentc.api.searching import search
from latentc.api.serving import serve
from latentc.api.sweeping import sweep
from latentc.api.watching import compare_runs, runs

__all__ = [
    "Backend",
    "Source",
    "bench",
    "calibrate",
    "check",
    "class_names",
    "classify",
    "compare_runs",
    "compile",
    "convert_weights",
    "data",
    "deploy_triton",
    "doctor",
    "emit",
    "evaluate",
    "explain",
    "export_diffusers",
    "forward",
    "forward_file",
    "fused",
    "hoisting",
    "import_checkpoint",
    "index",
    "init",
    "init_component",
    "ir",
    "league",
    "loss",
    "loss_file",
    "notes",
    "official_checkpoints",
    "plan",
    "pull",
    "push",
    "resolved",
    "run_method",
    "runs",
    "sample",
    "sample_set",
    "schema",
    "search",
    "serve",
    "show",
    "specs",
    "sweep",
    "train",
    "tune",
    "use_components",
    "verify",
    "verify_training",
    "why",
]
