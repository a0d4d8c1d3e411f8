"""Help is there for every command, with an example that parses, and fits 80 columns without broken words."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

import dnabert2_jax
from dnabert2_jax.cli import app


def commands(command=None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """(words, command) of every command that does something."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands())


def test_all_commands_are_there():
    assert {path[0] for path in COMMANDS} == {
        *("quickstart", "corpus", "tokenizer", "pretrain", "split", "finetune", "evaluate", "predict", "embed", "fill-mask"),
        *("merge-shards", "evaluate-variants", "sweep", "calibrate"),
        *("variants", "track", "explain", "report", "merge", "adapters", "convert", "config", "gue", "flops", "doctor"),
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_explains_every_option_and_has_an_example_that_parses(path, dnabert2):
    code, out, _ = dnabert2(*path, "-h")
    assert code == 0
    command = COMMANDS[path]
    assert command.help
    assert all(option.help for option in command.params)
    assert "Example: dnabert2 " + " ".join(path) in " ".join(out.split())
    words = shlex.split(command.epilog.partition("Example: dnabert2 ")[2])
    assert words[: len(path)] == list(path)
    unquoted = [word for word in shlex.split(command.epilog, posix=False) if word[0] != "'"]
    assert not re.search(r"[][*?;|&<>]", " ".join(unquoted)), "a shell would not pass these on as they are"
    command.make_context(path[-1], words[len(path) :])


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=lambda path: " ".join(path) or "dnabert2")
def test_help_fits_80_columns_and_breaks_no_word(path, dnabert2, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = dnabert2(*path, "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert not re.search(r"\s\.(\s|$)", out)
    assert not re.search(r"^  --\S+ <list", out, re.MULTILINE)  # an option that may be repeated takes one value each time
    texts = [option.help for option in COMMANDS[path].params if not option.hidden] if path else []
    said = " ".join(out.split())
    for text in texts:
        # a long metavar may stand between two words, but words themselves are whole
        assert all(word in said for word in re.split(r"[\s-]+", text)), text


@pytest.mark.parametrize("group", ["", "corpus", "tokenizer", "adapters", "convert", "config", "gue"])
def test_lists_of_commands_say_in_whole_sentences_what_each_does(group, dnabert2, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = dnabert2(*group.split(), "--help")[1].partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert listed
    assert all(line.endswith(".") and not line.endswith("..") for line in listed)


def test_an_option_that_is_always_refused_is_not_listed(dnabert2, refused):
    assert "--region" not in dnabert2("evaluate", "--help")[1]
    words = ("--region chr1:1-9", "a region has none", "use `dnabert2 predict`")
    refused("evaluate", "--model", "small", "--out", "-", "--fasta", "g.fa", "--region", "chr1:1-9", words=words)


def test_defaults_are_shown_where_none_stands_for_one(dnabert2):
    said = " ".join(dnabert2("corpus", "build", "-h")[1].split())
    for default in ("split", "0.02", "10000", "100", "one per core"):
        assert f"[default: ({default})" in said
    assert "keep as [UNK] (unk)" in said
    assert "[default: 3" in " ".join(dnabert2("gue", "run", "-h")[1].split())


def test_version(dnabert2):
    assert dnabert2("--version")[:2] == (0, f"dnabert2_jax {dnabert2_jax.__version__}\n")


def test_the_shell_completes_commands():
    result = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['dnabert2']; from dnabert2_jax.cli import main; main()"],
        env={"_DNABERT2_COMPLETE": "complete_bash", "COMP_WORDS": "dnabert2 pre", "COMP_CWORD": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert re.findall(r"\w+", result.stdout) == ["pretrain", "predict"]
