from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from tests.genome.helpers import write_fasta


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    """Build a corpus from {species: [sequence, ...]}; contigs are called c0, c1, ..."""

    def make(species: dict[str, Sequence[str]], weights: dict[str, float] | None = None, **options) -> Corpus:
        home = tmp_path / f"corpus{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        sources = [
            SpeciesSource(
                name,
                [write_fasta(home / f"{name}.fa", {f"c{i}": sequence for i, sequence in enumerate(contigs)})],
                weights and weights[name],
            )
            for name, contigs in species.items()
        ]
        return build_corpus(sources, home / "corpus", **options)

    return make
