"""Indexes of embeddings, in which a model's nearest neighbours are searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.api._common import Source
from latentc.diagnostics import DiagnosticError, mend_of_writing
from latentc.diagnostics.faults import needed

if TYPE_CHECKING:
    from latentc_runtime.retrieval import Index

_INSTALL = "pip install 'latentc[retrieval]'"


def index(
    source: Source,
    output: Path | str,
    condition: str | None = None,
    queries: Path | str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
) -> Index:
    """Write the embeddings of a spec's data as an index into the folder `output`, for requests and for training.

    `condition`: the one made of neighbours, if there are several. `queries`: an .npy file f32[K, D] of what is searched
    for to get neighbours of each class; by default the mean of the class. Raises DiagnosticError: E0401, E0403, E0412,
    E0620 (the spec searches no neighbours, or its data cannot be read), E0706.
    """
    from latentc.components.condition import searches
    from latentc.datasets import open_dataset
    from latentc.datasets.neighbours import index_of
    from latentc.files.named import read_condition
    from latentc.spec import load_spec
    from latentc_runtime.retrieval import PACKAGE, with_labels, write_index

    spec = load_spec(source, variant, overrides)
    found = searches(spec)
    if not found or condition not in (None, *found):
        what = f"no condition `{condition}` is" if condition in spec.conditions or condition else "no condition is"
        mend = (
            f"conditions that are: {', '.join(found)}"
            if found
            else "add a condition that is, such as neighbours of the sample"
        )
        raise DiagnosticError.of("E0620", f"{what} built from neighbours in {spec.name}", help=mend)
    if condition is None and len(found) > 1:
        raise DiagnosticError.of("E0620", f"{spec.name} searches for {', '.join(found)}", help="name one condition")
    search = found[condition or next(iter(found))]
    encoder = spec.data.fields[search.field].encoded_by
    if encoder is not None:
        message = f"field `{search.field}` is computed by network `{encoder}`, which only a training project runs"
        mend = "run `latentc emit`, then `python -m latentc_support.data` there: it writes an .npy file"
        raise DiagnosticError.of(
            "E0620", message, help=f"{mend}, `DATA.{encoder}.*.npy`, which `--index` takes as it is"
        )
    needed(PACKAGE, "an index of neighbours", _INSTALL)
    wanted = None if queries is None else read_condition(queries, "queries")
    try:
        data = open_dataset(spec.data.settings([search.field]))
        made = index_of(data, search.field, search.metric, spec.data.classes)
        if wanted is not None:
            if wanted.ndim != 2 or wanted.shape[1] != made.size:
                raise ValueError(
                    f"{queries} has shape {list(wanted.shape)}; one query of {made.size} numbers per class is needed"
                )
            made = with_labels(made.vectors, made.labels, 0, made.metric, wanted)
    except (ValueError, OSError, ImportError) as error:
        mend = "set `--set data.path=…`, or use other data"
        raise DiagnosticError.of("E0620", f"the data of {spec.name} cannot be read: {error}", help=mend) from None
    try:
        write_index(made, Path(output))
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror or error}"
        raise DiagnosticError.of("E0412", message, help=mend_of_writing(error)) from None
    return made
