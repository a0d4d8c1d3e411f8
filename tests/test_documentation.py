"""What the documentation tells people to type has to be there: commands, options, keys of runs, files and headings."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from dnabert2_jax import DNABERT2
from dnabert2_jax.cli import app
from dnabert2_jax.config.loading import load_finetuning, load_run
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.data.annotation import read_annotation
from dnabert2_jax.data.base_labels import BaseLabels, labels_by_contig
from dnabert2_jax.genome.reference import Reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def commands_in(text):
    """The words of each command that begins with ``dnabert2`` or is given to a launch script; continued lines are joined."""
    joined = text.replace("\\\n", " ")
    return [
        shlex.split(line)
        for line in re.findall(r"^(?:[#\s]*|.*\blaunch/\S+ .*-- +)(dnabert2 [a-z].*)$", joined, re.MULTILINE)
    ]


def shell_blocks(page):
    return "".join(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


COMMANDS = [
    pytest.param(words, id=f"{file.relative_to(ROOT)}: {' '.join(words)}")
    for file, text in [*((page, shell_blocks(page)) for page in PAGES), *((file, file.read_text()) for file in CONFIGS)]
    for words in commands_in(text)
]


def parse(words):
    """The name and the options of a command line, read by the command line's own parser."""
    command, words = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command.name, command.make_context(command.name, words).params


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_and_their_options_exist(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, options = parse(words)
    if str(options.get("config")).startswith("runs/"):  # what an earlier command writes
        return
    if name == "finetune":
        load_finetuning(options["config"], options["set_"] or ())
    if name == "pretrain":
        run = load_run(PretrainRun, options["config"], options["set_"] or ())
        assert run.optimizer.warmup(run.training.steps) < run.training.steps / 2  # the learning rate comes down again


def test_the_readme_makes_its_directory_of_results_before_a_file_goes_there():
    made, _, after = shell_blocks(ROOT / "README.md").partition("mkdir -p runs\n")
    assert "--out runs/" in after
    assert "--out runs/" not in made


def test_commands_of_launch_scripts_are_read():
    assert commands_in("sbatch --nodes=1 \\\n    launch/slurm.sbatch -- dnabert2 pretrain --workdir a\n") == [
        ["dnabert2", "pretrain", "--workdir", "a"]
    ]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_head_of_a_run_says_command_time_and_expectation(file):
    head = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    [words] = commands_in(head)
    _, options = parse(words)
    assert ROOT / options["config"] == file
    assert re.search(r"^# Time ", head, re.MULTILINE)
    assert re.search(r"^# Expect ", head, re.MULTILINE)


def test_the_development_page_names_every_package():
    """Each in the drawing of the layers and, with what lives there, in the table."""
    text = (ROOT / "docs" / "development.md").read_text()
    drawing = text.split("```")[1].split()
    for package in sorted(path.parent.name for path in (ROOT / "dnabert2_jax").glob("*/__init__.py")):
        assert package in drawing
        assert re.search(rf"^\| `{package}` \| \S", text, re.MULTILINE), package


def test_no_link_is_dead():
    pytest.importorskip("markdown_it", reason="the link check needs markdown-it-py, one of the development tools")
    check = subprocess.run([sys.executable, ROOT / "tools" / "check_links.py"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_dead_link_is_found(tmp_path):
    pytest.importorskip("markdown_it", reason="the link check needs markdown-it-py, one of the development tools")
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "check_links.py"
    script.write_text((ROOT / "tools" / "check_links.py").read_text())
    (tmp_path / "other.md").write_text("# One heading, *two*\n")
    (tmp_path / "README.md").write_text(
        "[a](other.md) [b](other.md#one-heading-two) [c](gone.md) [d](other.md#gone) `configs/gone.toml` `dnabert2_jax.runs`"
    )
    check = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert check.returncode == 1
    assert [line.split()[1] for line in check.stdout.splitlines()] == ["gone.md:", "other.md#gone:", "`configs/gone.toml`:"]


def test_tests_and_scripts_that_pages_name_exist():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`((?:tests|benchmarks|launch|tools)/[\w/.]+\.\w+)`", page.read_text())
    }
    assert "tests/recipes/test_resume.py" in named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_guide_puts_labels_of_tokens_at_their_bases(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "guides" / "per_base.md").read_text()
    (code,) = (
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "DictReader" in block
    )
    sequence = "ACGTTGACCATTAGGATACA" * 3
    tokenizer = DNABERT2.load("small").tokenizer
    pieces = [tokenizer.decode([number]) for number in tokenizer.encode_raw(sequence)]
    labels = ["site" if n % 3 == 1 else "O" for n in range(len(pieces))]
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/tokens.csv").write_text(f"name,sequence,labels\nfirst,{sequence},{' '.join(labels)}\n")
    exec(code, {})
    with Reference("runs/tokens.fa") as reference:
        annotation = read_annotation(Path("runs/tokens.bed"), reference)
        found = labels_by_contig(
            annotation, BaseLabels(("background", "site"), False, 64), reference.lengths, stranded=False
        )
    expected = [label == "site" for piece, label in zip(pieces, labels, strict=True) for _ in piece]
    assert found["first", "+"].tolist() == [int(one) for one in expected]
    assert 0 < sum(expected) < len(expected)
