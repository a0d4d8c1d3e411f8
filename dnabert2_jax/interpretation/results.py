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
from numpy.typing import NDArray

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

    def values(name: str) -> list[Any]:
        return [getattr(result, name) for result in results]

    def joined(*names: str) -> dict[str, Any]:
        return {name: np.concatenate(values(name)) for name in names}

    def offsets(name: str) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, values(name))], dtype=np.int64)

    first = results[0]
    if isinstance(first, DependencyMap):
        return {f"dependency_{n}": own for n, own in enumerate(values("values"))}
    if isinstance(first, MutationScores):
        return {"offsets": offsets("sequence"), **joined("contributions", "values", "scores")}
    tokens = {"token_offsets": offsets("token_ids"), **joined("token_ids", "token_bases")}
    if isinstance(first, AttentionMaps):
        maps = {f"attention_{n}": own for n, own in enumerate(values("weights"))}
        return {**maps, "layers": np.array(first.layers), "heads": np.array(first.heads), **tokens}
    summed = ("value",) if np.isnan(first.baseline_value) else ("value", "baseline_value", "completeness_error")
    return {
        "offsets": offsets("sequence"),
        **joined("contributions"),
        **tokens,
        **joined("token_values"),
        **{name: np.array(values(name)) for name in summed},
    }
