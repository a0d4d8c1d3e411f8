"""Embeddings of a run's test rows, for the map in its report."""

from pathlib import Path

import numpy as np

from dnabert2_jax.artifacts.model import load_model
from dnabert2_jax.config.per_base import PerBaseRun
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.packing import pack
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.predictor import default_batch_tokens
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.reports.run import save_arrays
from dnabert2_jax.reports.sections import EMBEDDINGS_FILE
from dnabert2_jax.training.workdir import read_run


def embed_test_rows(workdir: Path, most_rows: int = 1000) -> Path:
    """Save the pooled [CLS] vectors, the classifier's input, of test rows spread evenly over the table.

    Args:
        workdir: a finished fine-tuning run; gets ``test_embeddings.npz``: ``embeddings`` [rows, D], ``labels`` [rows] and
            ``lines`` of the file [rows].
        most_rows: maximum number of rows.

    Returns:
        The npz file.

    Raises:
        UserError: not a fine-tuning run, one without classes to color by, unfinished, or without its test table.
    """
    run = read_run(workdir)
    if isinstance(run, PretrainRun):
        raise UserError(f"{workdir} is a run of `dnabert2 {run.command}`; a map shows the test rows of a fine-tuning run")
    model = load_model(workdir / "model")
    if isinstance(run, PerBaseRun) or run.data.task != "single_label":
        raise UserError(f"{workdir}: a map needs a run with data.task single_label, this one has {run.data.task}")
    whole = read_table(run.data.test, **run.data.columns)
    table = whole.take(np.unique(np.linspace(0, len(whole) - 1, min(most_rows, len(whole))).astype(np.int64)))
    labels, types = LabelSet(model.labels), model.head.token_types
    encoded = encode_table(table, model.tokenizer, labels, run.data.max_tokens, token_types=types)
    opened = InferenceModel.of_saved(workdir / "model", model, resolve_compute(run.model.precision, run.model.attention))
    embeddings = opened.predictor.pooled(pack(encoded, default_batch_tokens()), "head", "embedding")
    file = workdir / EMBEDDINGS_FILE
    save_arrays(file, embeddings=embeddings, labels=encoded.labels, lines=np.array(table.lines, np.int64))
    return file
