"""Models of the Hub, from a real server on the loopback interface, by commands in processes of their own."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dnabert2_jax import DNABERT2, UserError
from dnabert2_jax.cli import main
from dnabert2_jax.convert.hub import fetch, is_hub_name, looks_like_repository
from dnabert2_jax.storage.hashes import file_sha256
from tests.convert.helpers import TORCH_FILES, hf_directory
from tests.convert.hub_server import COMMIT, Hub, serving
from tests.helpers import tiny_model
from tests.processes import run_cli, run_script

FETCH = """
import json, sys
from dnabert2_jax.convert.hub import fetch
from dnabert2_jax.errors import UserError
for name in sys.argv[1:]:
    try:
        snapshot = fetch(name)
        print(json.dumps([*map(str, snapshot), sorted(file.name for file in snapshot.directory.iterdir())]))
    except UserError as error:
        print(json.dumps(str(error)))
"""

PUSH = """
import sys
from pathlib import Path
from dnabert2_jax.convert.hub import push
from dnabert2_jax.errors import UserError
try:
    print(push(Path(sys.argv[1]), "lab/new"))
except UserError as error:
    print(error)
"""

PYTHON = """
import json
from dnabert2_jax import DNABERT2
from dnabert2_jax.convert.opening import files_read, open_model
print(json.dumps([repr(DNABERT2.from_hf("lab/dna")), repr(DNABERT2.load("hf:lab/dna@main"))]))
print(json.dumps(files_read(open_model("hf:lab/dna"))))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A repository as people upload it: also with code, a readme, and the same weights as a pickle."""
    path = hf_directory(tmp_path_factory.mktemp("hub") / "model")
    for name in ("README.md", "bert_layers.py", "pytorch_model.bin", "training_args.bin"):
        (path / name).write_text("not wanted")
    return path


@pytest.fixture(scope="module")
def mlm_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mlm") / "model"
    tiny_model(path)
    return path


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (pickled / name).write_bytes((model / name).read_bytes())
    (pickled / "pytorch_model.bin").write_bytes((TORCH_FILES / "archive.bin").read_bytes())
    (pickled / "optimizer.bin").write_text("not wanted")
    repositories = {"lab/dna": model, "lab/pickled": pickled, "lab/secret": model}
    with serving(Hub(repositories, gated={"lab/secret"})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def fetched(*names):
    """What :func:`fetch` gives or says for each name, in a process that reads the environment."""
    return [json.loads(line) for line in run_script(FETCH, *names).splitlines()]


def pushed(directory: Path) -> str:
    """What :func:`push` gives or says, in a process that reads the environment."""
    return run_script(PUSH, directory)[:-1]


def test_configuration_tokenizer_and_weights_are_fetched_and_nothing_else(hub):
    main, pinned, pickled = fetched("hf:lab/dna", f"hf:lab/dna@{COMMIT}", "hf:lab/pickled@main")
    wanted = ["config.json", "model.safetensors", "tokenizer.json"]
    assert main[1:] == ["lab/dna", COMMIT, wanted]
    assert pinned == main
    assert pickled[1:] == ["lab/pickled", COMMIT, ["config.json", "pytorch_model.bin", "tokenizer.json"]]
    assert sorted(hub.fetched) == sorted([*wanted, *pickled[3]])  # each once: the second call found the cache


def test_what_cannot_be_fetched_is_explained(hub, monkeypatch):
    missing, revision, gated = fetched("hf:lab/none", "hf:lab/dna@v9", "hf:lab/secret")
    assert missing.startswith("hf:lab/none: there is no such repository on the Hub; check owner and name")
    assert revision.startswith("hf:lab/dna@v9: the repository has no revision 'v9'; leave @v9 out")
    assert gated.startswith("hf:lab/secret: its owner gives access on request; ask for it")
    fetched("hf:lab/dna")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached, absent = fetched("hf:lab/dna", "hf:lab/pickled")
    assert cached[1:3] == ["lab/dna", COMMIT]
    assert absent.startswith("hf:lab/pickled is not in the cache, and the Hub cannot be reached (HF_HUB_OFFLINE is set)")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    cached, absent = fetched("hf:lab/dna", "hf:lab/pickled")
    assert cached[1:3] == ["lab/dna", COMMIT]
    assert absent.startswith("hf:lab/pickled is not in the cache, and the Hub cannot be reached (")
    for message in (missing, revision, gated, absent):
        assert len(message.splitlines()) == 1


def test_a_command_takes_a_name_and_records_the_commit(hub, model, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("sequence\nACGTTGACAGT\nTTGACCA\n")
    embedded = run_cli("embed", "--model", "hf:lab/dna", "--data", table, "--out", tmp_path / "e.npz")
    assert embedded.returncode == 0, embedded.stderr
    with np.load(tmp_path / "e.npz") as file:
        assert json.loads(str(file["record"]))["model"] == f"hf:lab/dna@{COMMIT}"
        expected = DNABERT2.load(model).embed(["ACGTTGACAGT", "TTGACCA"])
        np.testing.assert_allclose(file["embeddings"], expected, atol=1e-5)


def test_python_takes_a_repository_by_its_plain_name_and_descendants_know_the_commit(hub, model):
    loaded, parents = map(json.loads, run_script(PYTHON).splitlines())
    assert all(text.startswith(f"DNABERT2('hf:lab/dna@{COMMIT}', kind='masked_lm'") for text in loaded)
    assert parents == {
        "base/model.safetensors": file_sha256(model / "model.safetensors"),
        "base/hub": f"lab/dna@{COMMIT}",
    }


def test_a_model_is_pushed_and_can_be_named(hub, mlm_path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.root = tmp_path / "hub"
    hub.root.mkdir()
    out = tmp_path / "out"
    done = run_cli("convert", "to-hf", mlm_path, out, "--push", "lab/new")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"saved {out}\npushed hf:lab/new@{COMMIT}\n"
    (created,) = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("lab", "new", "private")
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert {file.name: file.read_bytes() for file in hub.repositories["lab/new"].iterdir()} == files
    (out / "config.json").write_text("{}")
    assert pushed(out) == f"lab/new@{COMMIT}"  # a repository that is there
    assert (hub.repositories["lab/new"] / "config.json").read_text() == "{}"
    assert len(hub.created) == 1
    ((*_, names),) = fetched("hf:lab/new")
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]


def test_what_cannot_be_pushed_is_explained(hub, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    refused = pushed(model)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    alone = pushed(model)
    for message in (refused, alone):
        assert message.startswith(f"{model} is written, but was not pushed to lab/new (")
        assert message.endswith(f"`hf upload lab/new {model}` pushes what is there")
        assert len(message.splitlines()) == 1
    assert "log in with `hf auth login`" in refused
    assert "try again" in alone


@pytest.mark.parametrize("name", ["dna", "lab/dna@main", "lab/dna/more", ""])
def test_a_repository_of_another_form_is_refused_before_the_work(name, mlm_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dnabert2", "convert", "to-hf", str(mlm_path), str(tmp_path / "out"), "--push", name])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "accepted is OWNER/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["hf:", "hf:dna", "hf:lab/dna@", "hf:lab/dna/more", "hf://lab/dna", "hf:lab/d na"])
def test_a_name_of_another_form(name):
    with pytest.raises(UserError, match=r"accepted is hf:OWNER/NAME or hf:OWNER/NAME@REVISION"):
        fetch(Path(name))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'huggingface_hub, which is not installed; run pip install "dnabert2_jax\[hub\]"'):
        fetch("hf:lab/dna")


def test_a_directory_goes_before_a_repository_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looks_like_repository("lab/dna@main")
    (tmp_path / "lab" / "dna").mkdir(parents=True)
    assert not looks_like_repository("lab/dna")
    assert not looks_like_repository("dna")
    assert not looks_like_repository(tmp_path / "none" / "x")
    assert not is_hub_name(Path("lab/dna"))
