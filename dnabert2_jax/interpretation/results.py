"""Explanations as one file, npz or HDF5.

Every file has ``names`` and ``sequences``; for intervals also ``contigs``, ``starts``, ``ends`` (0-based, half-open),
``strands`` and ``intervals`` (names). Bases of an interval on the minus strand are in the direction of that strand. Results
of all sequences are concatenated: sequence i has the rows ``offsets[i]`` to ``offsets[i + 1]``.

================ =====================================================================================================
ism              ``values`` and ``scores`` [bases, 4], ``contributions`` [bases], ``offsets``
ig, saliency     ``contributions`` [bases], ``offsets``; ``token_values``, ``token_ids``, ``token_bases`` [tokens],
                 ``token_offsets``; ``value``, for ig also ``baseline_value`` and ``completeness_error`` [sequences]
attention        ``attention_0``, ``attention_1``, ... [layers, heads, T, T] or [layers, heads, L, L] of each sequence;
                 ``layers``, ``heads``; ``token_ids``, ``token_bases`` [tokens], ``token_offsets``, with [CLS] and [SEP]
dependency       ``dependency_0``, ``dependency_1``, ... [L, L] of each sequence
================ =====================================================================================================

Bases are in the order A, C, G, T. The array (HDF5: attribute) ``record`` describes how the file was made.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnabert2_jax.extras import optional_package
from dnabert2_jax.inference.output import check_output
from dnabert2_jax.inference.record import RECORD, Record, record_text
from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.storage.atomic import atomic_file

Explanation = MutationScores | Attributions | AttentionMaps | DependencyMap
Explanations = Sequence[Explanation]
"""Results of one method, one per sequence."""

Places = Mapping[str, Any]
"""``contigs``, ``starts``, ``ends``, ``strands`` and ``intervals`` (names) of intervals; empty for sequences from a file."""

SUFFIXES = (".npz", ".h5")


def save_explanations(path: Path, results: Explanations, record: Record, places: Places | None = None) -> None:
    """Write results of one method; see the module's docstring for the content.

    Args:
        path: ``.npz`` or ``.h5``.
        results: at least one result of one method.
        record: how they were made, see :mod:`dnabert2_jax.inference.record`.
        places: coordinates of the sequences in a genome.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    check_output(path, SUFFIXES)
    about = {"names": [result.name for result in results], "sequences": [result.sequence for result in results]}
    arrays = {**about, **(places or {}), **arrays_of(results)}
    with atomic_file(path) as unfinished:
        if path.suffix == ".npz":
            with unfinished.open("wb") as file:
                np.savez(file, **{**arrays, RECORD: record_text(record)})
        else:
            h5py = optional_package("h5py", "HDF5 files need", "dnabert2_jax[hdf5]", otherwise="choose .npz")
            with h5py.File(unfinished, "w") as file:
                file.attrs[RECORD] = record_text(record)
                for name, values in arrays.items():
                    kind = h5py.string_dtype() if isinstance(values, list) else None
                    file.create_dataset(name, data=values, dtype=kind)


def arrays_of(results: Explanations) -> dict[str, Any]:
    """The arrays of the results themselves, by name."""
    arrays: dict[str, Any] = {}
    for n, result in enumerate(results):
        if isinstance(result, AttentionMaps):
            arrays[f"attention_{n}"] = result.weights
            arrays |= {"layers": np.array(result.layers), "heads": np.array(result.heads)}
        elif isinstance(result, DependencyMap):
            arrays[f"dependency_{n}"] = result.values
    bases = [result for result in results if isinstance(result, MutationScores | Attributions)]
    if bases:
        arrays["offsets"] = _offsets([len(result.sequence) for result in bases])
        arrays["contributions"] = np.concatenate([result.contributions for result in bases])
    mutated = [result for result in results if isinstance(result, MutationScores)]
    if mutated:
        arrays["values"] = np.concatenate([result.values for result in mutated])
        arrays["scores"] = np.concatenate([result.scores for result in mutated])
    tokens = [result for result in results if isinstance(result, Attributions | AttentionMaps)]
    if tokens:
        arrays["token_offsets"] = _offsets([len(result.token_ids) for result in tokens])
        arrays["token_ids"] = np.concatenate([result.token_ids for result in tokens])
        arrays["token_bases"] = np.concatenate([result.token_bases for result in tokens])
    attributed = [result for result in results if isinstance(result, Attributions)]
    if attributed:
        arrays["token_values"] = np.concatenate([result.token_values for result in attributed])
        arrays["value"] = np.array([result.value for result in attributed])
        if not np.isnan(attributed[0].baseline_value):
            arrays["baseline_value"] = np.array([result.baseline_value for result in attributed])
            arrays["completeness_error"] = np.array([result.completeness_error for result in attributed])
    return arrays


def _offsets(counts: list[int]) -> Any:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
