"""Input of TF-MoDISco (Shrikumar et al. 2018), which discovers motifs from contributions.

``modisco motifs -s DIR/ohe.npz -a DIR/shap.npz`` reads one-hot sequences and hypothetical contributions of the four bases,
both [sequences, 4, L] in the order A, C, G, T.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import BASES, base_codes
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.storage.directories import atomic_directory
from dnabert2_jax.storage.overwriting import replacing

ONE_HOT, CONTRIBUTIONS = "ohe.npz", "shap.npz"


def check_lengths(sequences: Sequences) -> None:
    """Check in advance that TF-MoDISco can read the result.

    Raises:
        UserError: sequences of different lengths.
    """
    first = len(sequences.sequences[0])
    if odd := next((n for n, letters in enumerate(sequences.sequences) if len(letters) != first), None):
        raise UserError(
            f"{sequences.where(odd)}: {len(sequences.sequences[odd]):,} bases, but {sequences.names[0]!r} has {first:,}: "
            "TF-MoDISco needs sequences of one length; cut them to it, or leave --modisco out"
        )


def save_modisco(
    directory: Path, results: Sequence[MutationScores] | Sequence[Attributions], *, force: bool = False
) -> None:
    """Write ``ohe.npz`` and ``shap.npz``, float32 [sequences, 4, L] each; unknown bases are zeros in both.

    Mutagenesis gives all four hypothetical contributions; gradients give only those of the sequence's bases, others are 0.

    Args:
        directory: the directory to create.
        results: results for sequences of equal length.
        force: replace an existing directory of this kind.

    Raises:
        UserError: it exists, or cannot be written.
    """
    one_hot = np.stack([_one_hot(result.sequence) for result in results])
    hypothetical = np.stack([_hypothetical(result) for result in results])
    with atomic_directory(directory, may_replace=replacing(ONE_HOT, "a directory for TF-MoDISco", force=force)) as new:
        np.savez_compressed(new / ONE_HOT, one_hot.transpose(0, 2, 1))
        np.savez_compressed(new / CONTRIBUTIONS, hypothetical.transpose(0, 2, 1))


def _hypothetical(result: MutationScores | Attributions) -> NDArray[np.float32]:
    """The hypothetical contributions of the four bases, as far as the method provides them, [L, 4]."""
    if isinstance(result, MutationScores):
        return np.nan_to_num(result.scores, nan=0.0)
    return _one_hot(result.sequence) * result.contributions[:, None]


def _one_hot(letters: str) -> NDArray[np.float32]:
    """[L, 4]; zeros at unknown bases."""
    bases = base_codes(letters)
    return np.where((bases >= 0)[:, None], np.eye(len(BASES), dtype=np.float32)[bases], np.float32(0))
