"""Mistakes that people make, each made on the real command line: one line says what was found and what to do.

What each one looks like to a user stands in docs/guides/mistakes.md, row for row.
"""

import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest

from dnabert2_jax.artifacts.adapter import SavedAdapter, save_adapter
from dnabert2_jax.artifacts.model import SavedModel, save_model
from dnabert2_jax.cli import main
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.storage.hashes import file_sha256
from tests.genome.helpers import random_dna, write_fasta
from tests.helpers import (
    CLASSES,
    finetune_content,
    pretrain_content,
    tiny_corpus,
    tiny_model,
    tiny_task,
    tiny_tokenizer,
    write_run,
)
from tests.mistakes import MISTAKES
from tests.processes import start_cli

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "mistakes.md"


@pytest.fixture(autouse=True, scope="module")
def promotion():
    """Optax itself relies on jax's usual promotion of dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with everything in order: genomes, corpus, tokenizer, models, tables and runs."""
    path = tmp_path_factory.mktemp("sound")
    tiny_corpus(path)
    write_fasta(path / "genes.fa", {f"gene{n}": random_dna(60, n) for n in range(3)})
    tiny_tokenizer().save(path / "tokenizer")
    base = tiny_model(path / "base")
    tiny_model(path / "other", seed=9)
    heads = sequence_classifier(base.config, len(CLASSES)).init(0)
    save_model(
        path / "classifier",
        SavedModel(kind="classifier", config=base.config, params=heads, tokenizer=base.tokenizer, labels=CLASSES),
    )
    lora = LoraConfig(rank=2)
    adapter = {"adapter": init_adapter(base.config, lora, 0), "pooler": heads["pooler"], "classifier": heads["classifier"]}
    save_adapter(path / "adapter", SavedAdapter(base=base, params=adapter, lora=lora, labels=CLASSES))
    tiny_task(path)
    tables = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    write_run(path / "pretrain.toml", "pretrain", pretrain_content(Path("base"), Path("corpus")))
    write_run(path / "finetune.toml", "finetune", finetune_content(Path("base"), tables))
    return path


@pytest.fixture
def home(sound, tmp_path, monkeypatch) -> Path:
    """A copy of it that one test may spoil, as the working directory."""
    home = tmp_path / "home"
    shutil.copytree(sound, home)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def dnabert2(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, standard output, lines of standard error)."""

    def run(command: str) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["dnabert2", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return ended.value.code, out, errors.splitlines()

    return run


def pattern(says: str) -> str:
    return ".*".join(map(re.escape, says.split("...")))


def everything(folder: Path) -> dict[str, str]:
    return {str(path): file_sha256(path) if path.is_file() else "directory" for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.did)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(mistake, home, dnabert2):
    mistake.made()
    before = everything(home)
    code, out, errors = dnabert2(mistake.command)
    assert code == 2
    assert out == ""
    assert re.fullmatch("dnabert2: " + pattern(mistake.says), errors.pop())
    assert [line.partition(":")[0] for line in errors] == ["genes.fa"] * mistake.remarks
    assert everything(home) == before


# --- a machine that is too small


@contextmanager
def limited(kind: int, value: int):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.fixture
def full_disk():
    """No file can grow beyond a quarter of a kilobyte. Compiled programs are not kept meanwhile: they would be cut, too."""
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e6)
    with limited(resource.RLIMIT_FSIZE, 256):
        yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("corpus build first.fa --out new", "new could not be written (...); make room or choose another place"),
        (
            "tokenizer train --corpus corpus --out tokenizer --vocab-size 80 --force",
            "tokenizer/tokenizer.model could not be written (...); make room or ...",
        ),
        ("merge adapter --out new", ".../new could not be written (...); make room or choose another place"),
        (
            "evaluate --model classifier --data test.csv --out scores.json",
            "scores.json could not be written (...); make room ...",
        ),
    ],
)
def test_a_full_disk(command, says, home, dnabert2, full_disk):
    before = everything(home)
    code, out, errors = dnabert2(command)
    assert code == 2
    assert out == ""
    assert re.fullmatch("dnabert2: " + pattern(says), errors[-1])
    assert "File too large" in errors[-1]
    assert "Traceback" not in "\n".join(errors)
    assert everything(home) == before


@pytest.fixture
def little_memory():
    """Half a gigabyte more than this process has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, taken + (1 << 29)):
        yield


def test_a_full_disk_under_the_output(home):
    """What is printed is complete, or the exit code and a line say that it is not."""
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "dnabert2_jax", "tokenizer", "encode", "--tokenizer", "tokenizer", "ACGT"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert process.returncode == 2
    says = "the output could not be used (No space left on device); make room or choose another place, and rerun"
    assert process.stderr.splitlines() == [f"dnabert2: {says}"]


def test_too_little_memory_for_a_sequence(home, dnabert2, little_memory):
    write_fasta(home / "long.fa", {"chr": random_dna(300_000, 0)})
    before = everything(home)
    code, out, errors = dnabert2("embed --model base --data long.fa --out vectors.npz --attention reference")
    assert code == 2
    assert out == ""
    says = "dnabert2: out of memory on the cpu device (RESOURCE_EXHAUSTED: ...); make batches smaller (--batch-tokens, ..."
    assert re.fullmatch(pattern(says), errors[-1])
    read, announced = errors[:-1]
    assert read.startswith("long.fa: 1 sequence, 300,000 bases")
    assert re.fullmatch(
        pattern("'chr' has 300,000 bases, ... one row, embedded whole, in roughly ... GB of memory; ..."), announced
    )
    assert everything(home) == before


def test_too_little_memory_for_a_batch(home, dnabert2, little_memory):
    before = everything(home)
    code, out, errors = dnabert2("pretrain --config pretrain.toml --workdir run --set training.batch_size=100000000")
    assert code == 2
    assert out == ""
    says = (
        "dnabert2: out of memory (Unable to allocate ...); use smaller batches: for a run, training.batch_size (in another "
        "--workdir) or more microbatches with training.accumulate (resumes the same one), otherwise --batch-tokens, ..."
    )
    assert re.fullmatch(pattern(says), errors[-1])
    assert "Traceback" not in "\n".join(errors)
    assert everything(home) == before


# --- a run that is under way


def test_a_workdir_in_use_and_ctrl_c(home, dnabert2):
    """A second run in the same directory is refused; the first one, interrupted, says how to go on."""
    run = "pretrain --config pretrain.toml --workdir run --set training.steps=100000"
    process = start_cli(*shlex.split(run), cwd=home)
    try:
        deadline = time.monotonic() + 60
        while not list(Path("run/checkpoints").glob("step_*/manifest.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.05)
        code, out, errors = dnabert2(run)
        assert (code, out) == (2, "")
        says = "dnabert2: another run is writing checkpoints to .../run/checkpoints; stop it, or choose another directory"
        assert re.fullmatch(pattern(says), errors[-1])
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    last = said.splitlines()[-1]
    assert re.fullmatch(r"stopped as requested; step \d+ of 100000 is saved. Run the same command to resume", last)
    assert "dnabert2: " not in said
    assert "Traceback" not in said
    assert not Path("run/model").exists()


def test_one_line_in_a_process_of_its_own(home):
    """The whole program, its interpreter and its exit included."""
    process = start_cli("predict", "--model", "classifier", "--data", "gnes.fa", "--out", "predictions.csv", cwd=home)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert errors == "dnabert2: gnes.fa does not exist; give a FASTA file, plain or compressed: check the path\n"


# --- the guide


def test_the_guide_has_every_mistake_with_its_message():
    """A row is: what one did, what the program says, what to do."""
    rows = [line.strip("|").split(" | ") for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
    assert all(len(row) == 3 and row[2].strip() for row in rows)
    told = {did.strip(): says.strip("` ") for did, says, _ in rows}
    for mistake in MISTAKES:
        assert told[mistake.did] == mistake.says.strip("` ")
