"""Every path that a command takes may lie in a bucket, or is refused there: none becomes a folder called ``gs:``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer

from dnabert2_jax.cli import app
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage.paths import in_bucket

LOCAL = {
    *("dnabert2 corpus build out", "dnabert2 adapters list directories", "dnabert2 quickstart workdir"),
    *("dnabert2 gue run data", "dnabert2 gue run workdir", "dnabert2 gue report workdir", "dnabert2 gue report out"),
    *(f"dnabert2 {command} {name}" for command in ("embed", "evaluate", "predict", "track") for name in ("bed", "fasta")),
    *(
        "dnabert2 track out",
        *(f"dnabert2 evaluate-variants {name}" for name in ("fasta", "table", "page")),
    ),
    *(
        f"dnabert2 explain {method} {name}"
        for method in ("ism", "ig", "saliency", "attention", "dependency")
        for name in ("fasta", "bed", "plot", "page")
    ),
    *(f"dnabert2 explain {method} modisco" for method in ("ism", "ig", "saliency")),
    *(f"dnabert2 variants {name}" for name in ("fasta", "variants", "table", "out", "page")),
    "dnabert2 sweep workdir",
}
"""What works on this machine's disk only."""


def paths(commands: typer.Typer, name: str) -> Iterator[tuple[str, Callable[[str], Path] | None]]:
    """Each path that a command takes, as it is written, with the function that reads it."""
    for command in commands.registered_commands:
        callback = command.callback
        assert callback is not None
        for parameter, hint in get_type_hints(callback, include_extras=True).items():
            if Path in (get_args(hint) or ()) or "Path" in str(get_args(hint)[:1]):
                about = next(part for part in hint.__metadata__ if hasattr(part, "parser"))
                yield f"{name} {command.name or callback.__name__} {parameter}", about.parser
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from paths(group.typer_instance, f"{name} {group.name}")


PATHS = dict(paths(app, "dnabert2"))


def test_there_are_paths():
    assert PATHS.keys() >= {*LOCAL, "dnabert2 pretrain workdir", "dnabert2 predict out", "dnabert2 doctor model"}
    assert len(PATHS) > 40


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_path_may_lie_in_a_bucket_or_is_refused(name):
    read = PATHS[name]
    assert read is not None
    if name in LOCAL:
        with pytest.raises(UserError, match=r"gs://bucket/x: this is done on this machine's disk"):
            read("gs://bucket/x")
    else:
        assert in_bucket(read("gs://bucket/x"))
        assert str(read("gs://bucket/x")) == "gs://bucket/x"
    assert read("runs/x") == Path("runs/x")


def test_a_command_in_a_bucket_leaves_no_folder_behind(bucket, dnabert2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, errors = dnabert2("tokenizer", "kmer", "--k", 3, "--out", bucket / "kmers")
    assert code == 0, errors
    assert out == f"saved {bucket}/kmers/kmer_tokenizer.json\n"
    code, out, errors = dnabert2("tokenizer", "info", bucket / "kmers")
    assert code == 0, errors
    code, _, errors = dnabert2("tokenizer", "kmer", "--k", 3, "--out", bucket / "kmers")
    assert code == 2
    assert f"{bucket}/kmers/kmer_tokenizer.json exists" in errors
    code, _, errors = dnabert2("predict", "--model", bucket / "none", "--data", "x.fa", "--out", bucket / "out.csv")
    assert code == 2
    assert errors == f"dnabert2: {bucket}/none does not exist; check the name (gcloud storage ls, aws s3 ls)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bucket_cache"]
