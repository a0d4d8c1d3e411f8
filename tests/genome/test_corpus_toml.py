import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dnabert2_jax.config.corpus import CorpusConfig
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import Corpus, SpeciesSource, build_corpus
from dnabert2_jax.genome.corpus_toml import load_description
from tests.genome.helpers import random_dna, write_fasta

EXAMPLE = Path(__file__).parents[2] / "configs" / "corpus.toml"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[SpeciesSource]:
    """Two species, of three files and one, with contigs that are skipped and letters that are not bases."""
    home = tmp_path_factory.mktemp("files")
    files = [
        write_fasta(home / f"{n}.fa", {f"c{n}": random_dna(3001 + n, n), f"n{n}": "ACGTN" * 41, f"s{n}": "ACG", f"e{n}": ""})
        for n in range(4)
    ]
    return [SpeciesSource("a", files[:3], 1.0), SpeciesSource("b", files[3:], 3.0)]


def test_processes_change_nothing(tmp_path, sources):
    seen = []
    one = build_corpus(sources, tmp_path / "one", validation_block=500, validation_fraction=0.2)
    options = {"validation_block": 500, "validation_fraction": 0.2}
    two = build_corpus(sources, tmp_path / "two", **options, processes=2, progress=lambda *x: seen.append(x))
    assert one.hash == two.hash
    assert one.manifest == two.manifest
    assert [name for name, _ in seen] == ["a", "a", "a", "b"]
    assert seen[-1][1] == sum(species.bases for species in one.species)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_what_was_read_is_not_read_again(tmp_path, sources):
    broken = write_fasta(tmp_path / "broken.fa", {"c": "ACGT!" * 40})
    with pytest.raises(UserError, match=r"broken\.fa.*'!' is not a DNA letter"):
        build_corpus([*sources, SpeciesSource("c", [broken], 1.0)], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    parts = tmp_path / ".corpus.parts"
    kept = {path: path.stat().st_mtime_ns for path in parts.rglob("part.json")}
    assert len(kept) == 4
    write_fasta(broken, {"c": "ACGT" * 40})
    # As after a kill: a part without its description, and one whose file has changed since.
    victim, other = sorted(kept)[:2]
    victim.unlink()
    other.write_text(other.read_text().replace('"size": ', '"size": 1'))
    fresh = build_corpus([*sources, SpeciesSource("c", [broken], 1.0)], tmp_path / "fresh")
    assert build_corpus([*sources, SpeciesSource("c", [broken], 1.0)], tmp_path / "corpus").hash == fresh.hash
    assert not parts.exists()


def test_a_killed_build_goes_on(tmp_path, sources):
    script = """
import sys, time
from pathlib import Path
from dnabert2_jax.genome import SpeciesSource, build_corpus
out, *files = map(Path, sys.argv[1:])
def slow(name, bases):
    print(bases, flush=True)
    time.sleep(60)
build_corpus([SpeciesSource("a", files)], out, progress=slow)
"""
    files = sources[0].files
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "corpus", *files], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()  # the first file is read
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (part,) = (tmp_path / ".corpus.parts").rglob("part.json")
    read_at = part.stat().st_mtime_ns
    seen = []

    def look(name, bases):
        seen.append(part.stat().st_mtime_ns)

    corpus = build_corpus([SpeciesSource("a", files)], tmp_path / "corpus", progress=look)
    assert seen == [read_at] * 3
    assert corpus.hash == build_corpus([SpeciesSource("a", files)], tmp_path / "again").hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "corpus"]


def test_a_contig_name_in_two_files_of_a_species(tmp_path):
    files = [write_fasta(tmp_path / f"{n}.fa", {f"first{n}": "ACGT" * 40, "c": "ACGT" * 50}) for n in range(2)]
    with pytest.raises(UserError, match=r"1\.fa, record 2: species 'a' already has a contig 'c' from .*0\.fa"):
        build_corpus([SpeciesSource("a", files)], tmp_path / "corpus")


def test_held_out_contigs_are_for_validation_as_a_whole(tmp_path, sources):
    a, b = sources
    corpus = build_corpus(
        [SpeciesSource("a", a.files, 1.0, ["c1"]), b], tmp_path / "corpus", validation_block=500, validation_fraction=0.2
    )
    names = corpus.contig_names
    of_a = [row for row in corpus.segments("validation").tolist() if corpus.contig_species[row[0]] == 0]
    assert [(names[contig], start, stop) for contig, start, stop in of_a] == [("c1", 0, 3002)]
    assert "c1" not in {names[contig] for contig, _, _ in corpus.segments("train").tolist()}
    assert corpus.species[0].held_out == ["c1"]
    alone = build_corpus([b], tmp_path / "alone", validation_block=500, validation_fraction=0.2)
    assert corpus.species[1].validation_bases == alone.species[0].validation_bases > 0


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (["c9"], "has no contig 'c9' to hold out"),
        (["s1"], "contig 's1', to be held out, is shorter than min_contig"),
        (["c0", "c1", "c2", "n0", "n1", "n2"], "all contigs are held out"),
    ],
)
def test_bad_held_out(tmp_path, sources, held_out, message):
    with pytest.raises(UserError, match=message):
        build_corpus([SpeciesSource("a", sources[0].files, None, held_out)], tmp_path / "corpus")


def test_the_example_has_every_key():
    description = load_description(EXAMPLE)
    assert description.build == CorpusConfig()
    assert [(len(source.files), source.weight) for source in description.species] == [(1, 2.0), (2, 1.0), (1, 1.0)]
    assert description.species[0].held_out == ["chrVI"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"species is missing"),
        ("[[species]]\nname = 'a'", r"species\.0\.files is missing"),
        ("[[species]]\nname = 'a'\nfiles = ['x']\nwieght = 1", r"unknown key species\.0\.wieght.*'weight'"),
        ("[build]\nmin_contigs = 3", r"unknown key build\.min_contigs.*'min_contig'"),
        (
            "[build]\nvalidation_fraction = 1.5\n[[species]]\nname = 'a'\nfiles = ['x']",
            r"build\.validation_fraction: .*1\.5",
        ),
        (
            "command = 'pretrain'\n[[species]]\nname = 'a'\nfiles = ['x']",
            "this is a run of `dnabert2 pretrain`, not of `dnabert2 corpus build`",
        ),
        ("[[species", "not TOML"),
    ],
)
def test_bad_descriptions(tmp_path, content, message):
    file = tmp_path / "corpus.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_description(file)


def test_the_command_builds_what_the_file_describes(tmp_path, sources):
    entries = "".join(
        f"[[species]]\nname = '{source.name}'\nfiles = {[str(file) for file in source.files]}\nweight = {source.weight}\n"
        for source in sources
    )
    (tmp_path / "corpus.toml").write_text(f"[build]\nvalidation_block = 500\nvalidation_fraction = 0.1\n{entries}")
    command = [sys.executable, "-m", "dnabert2_jax", "corpus", "build", "--config", "corpus.toml", "--out", "corpus"]
    done = subprocess.run([*command, "--validation-fraction", "0.2"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    direct = build_corpus(sources, tmp_path / "direct", validation_block=500, validation_fraction=0.2)
    assert Corpus.open(tmp_path / "corpus").hash == direct.hash
