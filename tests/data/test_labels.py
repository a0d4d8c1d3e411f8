from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnabert2_jax.data.by_length import epoch_batches
from dnabert2_jax.data.encoding import encode_table
from dnabert2_jax.data.labels import LabelSet, Measurements, MultiLabelSet, learn_labels, saved_labels
from dnabert2_jax.data.packed_epochs import pack_epochs
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import Table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from tests.helpers import tiny_tokenizer, write_table


def table(folder: Path, *labels: str) -> Table:
    return read_table(write_table(folder / "table.csv", [("ACGTAC", label) for label in labels]))


def test_several_labels_of_a_row_in_the_order_of_names(tmp_path):
    rows = table(tmp_path, "b;a", "-", "c", "a;c;b")
    labels = MultiLabelSet.from_table(rows)
    assert labels.names == ("a", "b", "c")
    np.testing.assert_array_equal(labels.encode(rows), [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 1]])
    assert labels.counts(rows) == {"a": 2, "b": 2, "c": 2}


def test_numbers_are_ordered_as_such_and_may_have_gaps(tmp_path):
    assert MultiLabelSet.from_table(table(tmp_path, "10;2", "0")).names == ("0", "2", "10")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.sampled_from(["a", "b", "c x", "10"])), min_size=1, max_size=6))
def test_labels_come_back_as_they_were_written(tmp_path, rows):
    written = [";".join(sorted(row)) or "-" for row in [{"a"}, {"b", "c x", "10"}, *rows]]
    read = table(tmp_path, *written)
    labels = MultiLabelSet.from_table(read)
    assert [labels.write(row > 0) for row in labels.encode(read)] == written


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("a;b", "a;;b"), "line 3: label 'a;;b': '' is empty"),
        (("a;b", "a; b"), "line 3: label 'a; b': ' b' is empty, surrounded by white space"),
        (("a;a", "b"), "line 2: label 'a;a': 'a' is empty, surrounded by white space or repeated"),
        (("a;-", "b"), "line 2: label 'a;-': '-' is empty"),
        (("a", "-"), "the rows have only the label 'a'"),
        (("-", "-"), "the rows have no labels at all"),
    ],
)
def test_what_is_no_set_of_labels_is_refused(tmp_path, labels, said):
    with pytest.raises(UserError) as error:
        MultiLabelSet.from_table(table(tmp_path, *labels))
    assert said in str(error.value)


def test_a_label_that_train_lacks_is_named(tmp_path):
    labels = MultiLabelSet(("enhancer", "promoter"))
    with pytest.raises(UserError, match=r"line 3: label 'promotor' is not a class .*did you mean 'promoter'"):
        labels.encode(table(tmp_path, "enhancer", "enhancer;promotor"))


def test_each_hint_stays_with_its_row(tmp_path):
    labels = MultiLabelSet(("enhancer", "promoter"))
    with pytest.raises(UserError) as error:
        labels.encode(table(tmp_path, "promotor", "enhancer", "enhencer", "silencer"))
    first, second, _, advice = str(error.value).partition("cannot be used: ")[2].split("; ")
    assert first.startswith("line 2: label 'promotor'")
    assert first.endswith("(did you mean 'promoter'?)")
    assert second.endswith("(did you mean 'enhancer'?)")
    assert advice.startswith("correct it, remove the row")


def test_measurements_are_read_as_they_are_and_known_by_mean_and_deviation(tmp_path):
    rows = table(tmp_path, "-1.5", "2e0", "7")
    labels = Measurements.from_table(rows)
    np.testing.assert_array_equal(labels.encode(rows), np.float32([-1.5, 2, 7]))
    assert (labels.mean, labels.deviation) == (pytest.approx(2.5), pytest.approx(np.std([-1.5, 2, 7])))
    assert saved_labels(labels.head, labels.names) == labels


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("1.0", "high"), r"line 3: label 'high' is not a number .* data\.task=single_label"),
        (("1.0", "nan"), "line 3: label 'nan' is not a number"),
        (("1", '"0,25"'), r"line 3: label '0,25' is not a number .* decimals with a point, as in 0\.25$"),
        (("inf", "1"), "line 2: label 'inf' is not a number"),
        (("1", "1e300"), "line 3: label '1e300' is not a number that float32 can hold"),
        (("1_000", "1"), "line 2: label '1_000' is not a number"),
        (("3.5", "3.5"), "all 2 rows have the label '3.5'; regression needs different values"),
        (("1000000001", "1000000002"), "beyond the seven digits of float32; subtract a constant"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path, labels, said):
    with pytest.raises(UserError, match=said):
        Measurements.from_table(table(tmp_path, *labels))


def test_a_single_label_that_is_a_measurement_is_sent_to_regression(tmp_path):
    with pytest.raises(UserError, match=r"table\.csv, line 3: label '0\.5' .* set data\.task=regression"):
        LabelSet.from_table(table(tmp_path, "1", "0.5"))


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_what_was_learned_is_what_a_saved_head_says(tmp_path, task):
    labels = learn_labels(task, table(tmp_path, "0", "1"))
    assert labels.head.task == task
    assert len(labels) == len(labels.names) == (1 if task == "regression" else 2)
    assert saved_labels(labels.head, labels.names) == labels


def test_what_there_is_to_predict_is_said():
    assert LabelSet(("plain", "rich")).what == "2 classes: plain, rich"
    assert MultiLabelSet(tuple(map(str, range(25)))).what.endswith("17, 18, 19 and 5 more")
    assert Measurements(510.25, 8.0).what == "measurements, 510.25 + 8 x output"


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_batches_hold_the_labels_of_their_rows(tmp_path, task):
    rng = np.random.default_rng(0)
    written = ["a;b", "-", "b", "c", "a;c"] if task == "multi_label" else ["0.5", "-2", "3", "1e-3", "8"]
    rows = [("".join(rng.choice(list("ACGT"), 20 + 7 * n)), label) for n, label in enumerate(written)]
    path = write_table(tmp_path / "table.csv", rows)
    splits = load_splits(path, path, path, task=task)
    encoded = encode_table(splits.train, tiny_tokenizer(), splits.labels, 64)
    padded = epoch_batches(encoded, 3, 0, 0, (64,))
    [packed] = pack_epochs([encoded], 4, 0, hidden_size=32, max_shapes=1)
    for batches in (padded, packed):
        seen = 0
        for batch in batches:
            used = batch.rows >= 0
            np.testing.assert_array_equal(batch.labels[used], encoded.labels[batch.rows[used]])
            assert not batch.labels[~used].any()
            seen += used.sum()
        assert seen == len(rows)


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def labels_refused(folder: Path, labels: list[str], *words: str) -> None:
    table = read_table(write(folder, "sequence,label\n" + "".join(f"ACGT,{label}\n" for label in labels)))
    with pytest.raises(UserError) as caught:
        LabelSet.from_table(table)
    for word in (str(table.path), *words):
        assert word in str(caught.value)


def classes(folder: Path, labels: list[str]) -> tuple[str, ...]:
    return LabelSet.from_table(read_table(write(folder, "sequence,label\n" + "".join(f"A,{x}\n" for x in labels)))).names


def test_class_numbers_sort_as_numbers_and_names_as_text(tmp_path):
    numbers = [str(n) for n in range(12)]
    assert classes(tmp_path, numbers[::-1]) == tuple(numbers)
    assert classes(tmp_path, ["donor", "acceptor", "none", "donor"]) == ("acceptor", "donor", "none")
    assert classes(tmp_path, ["002", "001"]) == ("001", "002")


def test_unusable_labels(tmp_path):
    labels_refused(tmp_path, ["0", "2", "0", "2"], "line 3", "label 2 without a label 1", "found 0, 2", "renumber")
    labels_refused(tmp_path, ["1", "2", "1"], "line 2", "label 1 without a label 0", "numbered 0 to 1")
    labels_refused(tmp_path, ["1", "-1"], "line 3", "label -1", "renumber")
    labels_refused(tmp_path, ["0", "0"], "all 2 rows", "label '0'", "at least two classes")
    labels_refused(tmp_path, ["0", "1", "1.5"], "line 4", "label '1.5'", "data.task=regression")
    labels_refused(tmp_path, ["0.25", "0.5"], "line 2", "0.25", "set data.task=regression")
    labels_refused(tmp_path, ["a", "nan", "b"], "line 3", "'nan'")
    labels_refused(tmp_path, ["0", "1", "NA", "1"], "line 4", "label 'NA'", "integers only or names only")
    labels_refused(tmp_path, ["yes", "no", "1", "no"], "line 4", "label '1'", "'yes'", "(line 2)")


def test_every_row_with_an_unknown_label_is_named(tmp_path):
    read = table(tmp_path, "a", "x", "b", "y")
    with pytest.raises(UserError, match=r"2 of 4 records cannot be used: line 3: label 'x'.*; line 5: label 'y'"):
        LabelSet(("a", "b")).encode(read)
    with pytest.raises(UserError, match=r"2 of 4 records.*line 3: label 'x'.*; line 5: label 'y'"):
        MultiLabelSet(("a", "b")).encode(read)
    with pytest.raises(UserError, match=r"4 of 4 records.*line 2: label 'a' is not a number that float32 can hold; line 3"):
        Measurements.from_table(read)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60))
def test_numbers_are_taken_exactly_when_they_have_no_gap(tmp_path_factory, numbers):
    table = read_table(
        write(tmp_path_factory.getbasetemp(), "sequence,label\n" + "".join(f"ACGT,{n}\n" for n in numbers), "numbers.csv")
    )
    if len(set(numbers)) > 1 and sorted(set(numbers)) == list(range(max(numbers) + 1)):
        assert LabelSet.from_table(table).encode(table).tolist() == numbers
    else:
        with pytest.raises(UserError):
            LabelSet.from_table(table)
