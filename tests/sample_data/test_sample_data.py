import csv
import gzip
from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnabert2_jax import sample_data
from dnabert2_jax.genome import read_fasta

LENGTHS = {"saccharomyces_cerevisiae": 230_218, "saccharomyces_kudriavzevii": 216_969, "saccharomyces_mikatae": 248_052}
COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def tables() -> dict[str, list[tuple[str, str]]]:
    rows = {}
    for split in ("train", "dev", "test"):
        with gzip.open(sample_data.table(split), "rt", newline="") as file:
            header, *rest = csv.reader(file)
        assert header == ["sequence", "label"]
        rows[split] = [(sequence, label) for sequence, label in rest]
    return rows


@pytest.fixture(scope="module")
def chromosomes() -> dict[str, str]:
    return {species: next(read_fasta(path)).sequence.decode().upper() for species, path in sample_data.fasta_files().items()}


def test_small_enough_to_ship():
    files = [*sample_data.fasta_files().values(), *map(sample_data.table, ("train", "dev", "test"))]
    assert sum(path.stat().st_size for path in files) < 1_000_000


def test_chromosomes(chromosomes):
    assert {species: len(sequence) for species, sequence in chromosomes.items()} == LENGTHS


def test_windows_are_clean_balanced_and_distinct(tables):
    for rows in tables.values():
        assert {len(sequence) for sequence, _ in rows} == {150}
        assert not set("".join(sequence for sequence, _ in rows)) - set("ACGT")
        counts = Counter(label for _, label in rows)
        assert set(counts) == {"coding+", "coding-", "intergenic"}
        assert len(set(counts.values())) == 1
    everything = [sequence for rows in tables.values() for sequence, _ in rows]
    assert len(everything) == len(set(everything))


def test_splits_come_from_the_species_they_should_and_share_no_base(tables, chromosomes):
    place = {
        c[start : start + 150]: (species, start) for species, c in chromosomes.items() for start in range(0, len(c), 50)
    }
    taken = {
        split: {(place[sequence][0], place[sequence][1] + i) for sequence, _ in rows for i in range(150)}
        for split, rows in tables.items()
    }
    assert {species for species, _ in taken["test"]} == {"saccharomyces_cerevisiae"}
    for split in ("train", "dev"):
        assert {species for species, _ in taken[split]} == {"saccharomyces_kudriavzevii", "saccharomyces_mikatae"}
    assert not taken["train"] & taken["dev"]


def test_windows_occur_once_in_the_three_chromosomes(tables, chromosomes):
    everything = "|".join(chromosomes.values())
    for rows in tables.values():
        for sequence, _ in rows[::40]:
            assert everything.count(sequence) + everything.count(sequence.translate(COMPLEMENT)[::-1]) == 1


def test_coding_windows_have_an_open_frame_on_their_strand(tables):
    def open_frames(sequence: str) -> int:
        return sum(not {"TAA", "TAG", "TGA"} & {sequence[i : i + 3] for i in range(frame, 148, 3)} for frame in range(3))

    rows = [row for split in tables.values() for row in split]
    plus = [open_frames(sequence) > 0 for sequence, label in rows if label == "coding+"]
    minus = [open_frames(sequence.translate(COMPLEMENT)[::-1]) > 0 for sequence, label in rows if label == "coding-"]
    intergenic = [open_frames(sequence) > 0 for sequence, label in rows if label == "intergenic"]
    # A window over the end of a gene may hold its stop codon or an intron; nearly none does.
    assert sum(plus) > 0.97 * len(plus)
    assert sum(minus) > 0.97 * len(minus)
    assert sum(intergenic) < 0.6 * len(intergenic)


@pytest.mark.slow
def test_kmer_regression_reaches_the_stated_score(tables):
    (train_x, train_y), (test_x, test_y) = (list(zip(*tables[split], strict=True)) for split in ("train", "test"))
    model = make_pipeline(
        CountVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False),
        StandardScaler(with_mean=False),
        LogisticRegression(C=0.001, max_iter=1000),
    )
    model.fit(train_x, train_y)
    assert matthews_corrcoef(test_y, model.predict(test_x)) == pytest.approx(0.60, abs=0.02)
