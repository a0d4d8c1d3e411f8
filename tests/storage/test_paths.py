import json
import pickle
import subprocess
import sys
from pathlib import Path

import gcsfs.retry
import pytest

from dnabert2_jax.config.loading import parse_run, run_to_dict
from dnabert2_jax.config.runs import PretrainRun
from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.atomic import write_bytes
from dnabert2_jax.storage.paths import BucketError, absolute, as_path, explain, in_bucket


@pytest.mark.parametrize("text", ["runs/x", "/abs", ".", "-", "a b", "C:/x", "s3x:/y", "gs:", "ggs:/x", "x/gs:/y"])
def test_a_local_path_is_pathlibs(text):
    assert type(as_path(text)) is type(Path())
    assert as_path(text) == Path(text)


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://bucket/run/deeper.json", "gs://bucket"])
def test_a_place_in_a_bucket_keeps_its_name(text):
    path = as_path(text)
    assert in_bucket(path)
    assert str(path) == text
    assert as_path(path) == path == absolute(path)
    assert str(path / "x") == f"{text}/x"
    assert str((path / "x").parent) == text
    assert pickle.loads(pickle.dumps(path)) == path


def test_what_pathlib_made_of_one_is_healed():
    assert str(as_path(Path("gs://bucket/run"))) == "gs://bucket/run"


@pytest.mark.parametrize("text", ["hf://model", "https://host/x", "az://container/x", "gcs://bucket/x", "file:///tmp/x"])
def test_other_urls_are_refused(text):
    with pytest.raises(UserError, match=r"is not read or written; name a local path, gs://BUCKET/"):
        as_path(text)


def test_settings_keep_it():
    content = {
        "model": {"path": "gs://bucket/base"},
        "data": {"corpus": "s3://bucket/corpus"},
    }
    run = parse_run(PretrainRun, content, "test")
    assert in_bucket(run.data.corpus)
    saved = json.loads(json.dumps(run_to_dict(run)))
    assert (saved["model"]["path"], saved["data"]["corpus"]) == ("gs://bucket/base", "s3://bucket/corpus")
    assert parse_run(PretrainRun, saved, "test") == run


@pytest.mark.parametrize("wrong", [3, True, ["x"]])
def test_settings_refuse_what_is_no_path(wrong):
    with pytest.raises(UserError, match=r"data.corpus: Input is not a valid path"):
        parse_run(PretrainRun, {"model": {"path": "base"}, "data": {"corpus": wrong}}, "test")


@pytest.mark.parametrize(("scheme", "library", "extra"), [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, scheme, library, extra):
    code = (
        f"import sys; sys.modules['{library}'] = None; sys.argv[1:] = ['report', '{scheme}://bucket/run']\n"
        "from dnabert2_jax.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"{scheme}:// needs {library}, which cannot be imported" in ended.stderr
    assert f"pip install 'dnabert2_jax[{extra}]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_another_region_is_one_line(stores, bucket, store):
    if store.scheme == "gs":
        pytest.skip("Google's store has one address for all regions")
    store.fault = lambda method, path: 400
    with pytest.raises(BucketError, match=r"the bucket is in another region; set AWS_DEFAULT_REGION") as error:
        buckets.write(bucket / "x", b"")
    assert "\n" not in str(error.value)
    with pytest.raises(BucketError, match=r"probably the bucket is in another region, .*; set AWS_DEFAULT_REGION") as error:
        buckets.read(bucket / "x")
    assert "\n" not in str(error.value)


@pytest.mark.slow  # the client libraries repeat a request for half a minute
def test_a_store_that_is_overloaded_is_one_line_after_half_a_minute(store, bucket):
    store.fault = lambda method, path: 503
    with pytest.raises(UserError, match=r"the store is not serving requests; rerun later") as error:
        write_bytes(bucket / "x", b"")
    assert "\n" not in str(error.value)


def test_a_store_that_recovers_is_not_noticed(store, bucket):
    answers = iter([503, 503])
    store.fault = lambda method, path: next(answers, None)
    write_bytes(bucket / "x", b"1")
    assert buckets.read(bucket / "x") == b"1"


def test_errors_of_elsewhere_are_not_explained():
    assert explain(ValueError("no")) is None
    assert explain(OSError(28, "No space left on device")) is None


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Forbidden: http://127.0.0.1:54040/b/bucket-31401-0/o/run%2Fstep_00000500 Access Denied", "no permission"),
        ("Unauthorized: gs://my-503/404/x, 401", "no credentials"),
        ("Please reduce your request rate., 503", "not serving requests"),
        ("bucket-403: not found (404)", "no such object"),
    ],
)
def test_numbers_in_names_are_no_status(said, advice):
    error = gcsfs.retry.HttpError({"message": said})
    assert advice in str(explain(error))
