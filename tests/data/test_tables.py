import csv
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnabert2_jax import sample_data
from dnabert2_jax.data.labels import LabelSet
from dnabert2_jax.data.reading import read_sequences, read_table
from dnabert2_jax.data.sequences import Sequences, Table
from dnabert2_jax.data.splits import load_splits
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import AMBIGUITY_CODES
from tests.mutations import damaged


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(folder: Path, text: str | bytes, *words: str, **options: str) -> None:
    """Reading the table fails, and the message names the file and every one of the words."""
    path = write(folder, text)
    with pytest.raises(UserError) as caught:
        read_table(path, **options)
    for word in (str(path), *words):
        assert word in str(caught.value)


def labels_refused(folder: Path, labels: list[str], *words: str) -> None:
    table = read_table(write(folder, "sequence,label\n" + "".join(f"ACGT,{label}\n" for label in labels)))
    with pytest.raises(UserError) as caught:
        LabelSet.from_table(table)
    for word in (str(table.path), *words):
        assert word in str(caught.value)


def classes(folder: Path, labels: list[str]) -> tuple[str, ...]:
    return LabelSet.from_table(read_table(write(folder, "sequence,label\n" + "".join(f"A,{x}\n" for x in labels)))).names


@pytest.mark.parametrize(
    "text",
    [
        "sequence,label\nACGT,0\nGGNA,1\n",
        "sequence,label\r\nACGT,0\r\nGGNA,1\r\n",
        "\ufeffsequence,label\nACGT,0\nGGNA,1",
        'sequence,label\n"ACGT","0"\n"GGNA",1\n',
        "sequence\tlabel\nACGT\t0\nGGNA\t1\n",
        '\ufeff"sequence","label"\r\n"ACGT","0"\r\n"GGNA","1"\r\n',
        "label,sequence\n0,ACGT\n1,GGNA\n",
    ],
)
@pytest.mark.parametrize("pack", [False, True])
def test_dialects_read_the_same(tmp_path, text, pack):
    data = text.encode()
    table = read_table(write(tmp_path, gzip.compress(data) if pack else data))
    assert (table.sequences, table.labels, table.lines) == (["ACGT", "GGNA"], ["0", "1"], [2, 3])
    assert table.pairs is None
    assert (table.letters.bases, table.letters.lower_case, dict(table.letters.ambiguous)) == (8, 0, {"N": 1})
    assert table.ignored_columns == ()


def test_pairs(tmp_path):
    table = read_table(write(tmp_path, "sequence1,sequence2,label\nacGT,TT,x\nGG,AAA,y\n"))
    assert (table.sequences, table.pairs, table.labels) == (["ACGT", "GG"], ["TT", "AAA"], ["x", "y"])
    assert (table.letters.bases, table.letters.lower_case) == (11, 2)


def test_chosen_and_ignored_columns(tmp_path):
    path = write(tmp_path, "id,dna,sequence,class\n7,AC,GG,x\n")
    table = read_table(path, sequence_column="dna", label_column="class")
    assert (table.sequences, table.labels, table.ignored_columns) == (["AC"], ["x"], ("id", "sequence"))


def test_lines_are_those_of_an_editor(tmp_path):
    path = write(tmp_path, '\nname,sequence,label\n"two\nlines",AC,0\n\nx,GT,1\n"three\n\nlines",A,0\n\n')
    table = read_table(path)
    assert table.lines == [3, 6, 7]
    assert table.where(1) == f"{path}, line 6"


def test_a_sequence_longer_than_the_csv_module_likes(tmp_path):
    before = csv.field_size_limit()
    sequence = "ACGTTGCA" * 50_000
    assert read_table(write(tmp_path, f"sequence,label\n{sequence},0\n")).sequences == [sequence]
    assert csv.field_size_limit() == before


@given(rows=st.lists(st.tuples(st.text("ACGTNacgtn", min_size=1), st.text("ab,\"'\t;é", min_size=1)), min_size=1))
@pytest.mark.parametrize("dialect", ["excel", "excel-tab", "unix"])
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, dialect):
    rows = [(sequence, label) for sequence, label in rows if label == label.strip()] or [("A", "a")]
    path = tmp_path_factory.getbasetemp() / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, dialect).writerows([("sequence", "label"), *rows])
    table = read_table(path)
    assert list(zip(table.sequences, table.labels, strict=True)) == [(s.upper(), label) for s, label in rows]
    assert table.letters.bases == sum(len(s) for s, _ in rows)
    assert table.letters.lower_case == sum(letter.islower() for s, _ in rows for letter in s)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\n\n", ["empty"]),
        ("sequence,label\n", ["no rows"]),
        ("sequence,labels\nACGT,0\n", ["no column 'label'", "'labels'", "did you mean 'labels'?"]),
        ("seq,label\nACGT,0\n", ["no column 'sequence'", "'seq', 'label'", "rename"]),
        ("sequence1,label\nACGT,0\n", ["no column 'sequence2'"]),
        ("sequence,sequence1,sequence2,label\nA,A,A,0\n", ["both 'sequence' and 'sequence1'"]),
        ("sequence,label,label\nACGT,0,1\n", ["2 columns are called 'label'"]),
        ("sequence;label\nACGT;0\n", ["separate the columns by commas or tabs"]),
        ("ACGTACGT,0\nACGTACGA,1\n", ["first line holds a sequence", "sequence,label"]),
        ("sequence,label\nACGT,0\n,1\n", ["line 3", "column 'sequence' is empty"]),
        ("sequence1,sequence2,label\nACGT,,1\n", ["line 2", "column 'sequence2' is empty"]),
        ("sequence,label\nACGT,0\nAC-T,1\n", ["line 3", "'sequence'", "position 3", "'-'", "remove the gaps"]),
        ("sequence1,sequence2,label\nA,ACGU,1\n", ["line 2", "'sequence2'", "position 4", "write T for U"]),
        ("sequence,label\nACGT,0\nACGT\n", ["line 3", "1 fields", "header has 2"]),
        ("sequence,label\nACGT,0,1\n", ["line 2", "3 fields"]),
        ("sequence,label\nACGT,\n", ["line 2", "label '' is empty"]),
        ("sequence,label\nACGT, 1\n", ["line 2", "label ' 1'", "white space"]),
        ('sequence,label\nACGT,0\n"ACGT,1\nACGT,0\n', ["line 3", "quotes"]),
        ('sequence,label\n"ACGT"A,0\n', ["line 2", "quotes"]),
        (b"sequence,label\nACGT,0\nACGT,\xe9\n", ["line 3", "0xe9", "UTF-8"]),
        ("sequence,label\nACGT,0\n".encode("utf-16"), ["line 1", "UTF-8"]),
        (gzip.compress(b"sequence,label\nACGT,0\n", mtime=0)[:-6], ["damaged gzip"]),
        (gzip.compress(b"sequence,label\nACGT,0\n", mtime=0)[:12] + b"\xff\xff\xff", ["damaged gzip"]),
    ],
)
def test_bad_tables_say_where_and_what_to_do(tmp_path, text, words):
    refused(tmp_path, text, *words)


def test_a_column_asked_for_by_name_is_missing(tmp_path):
    refused(tmp_path, "sequence,target\nA,0\n", "no column 'targt'", "did you mean 'target'?", label_column="targt")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv.*No such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="Is a directory"):
        read_table(tmp_path)


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
    labels_refused(tmp_path, ["0", "1", "1.0"], "line 4", "label '1.0'", "write 1 for 1.0")
    labels_refused(tmp_path, ["0.25", "0.5"], "line 2", "0.25", "set data.task=regression")
    labels_refused(tmp_path, ["a", "nan", "b"], "line 3", "'nan'")
    labels_refused(tmp_path, ["0", "1", "NA", "1"], "line 4", "label 'NA'", "integers only or names only")
    labels_refused(tmp_path, ["yes", "no", "1", "no"], "line 4", "label '1'", "'yes'", "(line 2)")


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


def test_splits_share_the_classes_of_train(tmp_path):
    train = write(tmp_path, "sequence,label\nA,b\nC,a\nG,c\n", "train.csv")
    dev = write(tmp_path, "sequence\tlabel\nA\tc\n", "dev.tsv")
    test = write(tmp_path, "sequence,label\nA,a\nA,b\n", "test.csv")
    splits = load_splits(train, dev, test)
    assert splits.labels.names == ("a", "b", "c")
    assert [splits.labels.encode(table).tolist() for table in (splits.train, splits.dev, splits.test)] == [
        [1, 0, 2],
        [2],
        [0, 1],
    ]
    assert len(splits.labels) == 3


def test_a_test_label_that_train_lacks(tmp_path):
    train = write(tmp_path, "sequence,label\nA,donor\nC,acceptor\n", "train.csv")
    test = write(tmp_path, "sequence,label\nA,donor\nA,donors\n", "test.csv")
    with pytest.raises(UserError) as caught:
        load_splits(train, train, test)
    for word in (f"{test}, line 3", "'donors'", "acceptor, donor", "did you mean 'donor'?", "add training rows"):
        assert word in str(caught.value)


def test_pairs_and_single_sequences_do_not_mix(tmp_path):
    train = write(tmp_path, "sequence,label\nA,0\nC,1\n", "train.csv")
    test = write(tmp_path, "sequence1,sequence2,label\nA,A,0\n", "test.csv")
    with pytest.raises(UserError, match=r"train\.csv has one sequence a row and .*test\.csv has two"):
        load_splits(train, train, test)


SINGLE = b'sequence,note,label\nACGT,"a\nb",a\n"GGNA",,b\r\nacgt,x,a\n'
PAIRS = b"\xef\xbb\xbfsequence1\tsequence2\tlabel\nACGT\tAC\t0\nGG\tT\t1\n"


def read_or_refused(read: Callable[[Path], Table | Sequences], path: Path) -> Table | Sequences | None:
    """What the file holds, or None where it is refused; whatever else happens fails the test."""
    try:
        return read(path)
    except UserError as error:
        refusal = str(error)
    assert str(path) in refusal
    return None


@settings(max_examples=400)
@given(damaged(SINGLE) | damaged(PAIRS))
@example(SINGLE)
@example(PAIRS)
@example(b'sequence,lab"el\nAC,1\n')
@example(b"sequence,label\nAC\0,1\n")
@example(b"sequence,label\rAC,1\rGT,0\r")
def test_a_damaged_table_is_read_whole_or_refused(tmp_path_factory, content: bytes):
    path = write(tmp_path_factory.getbasetemp(), content, "damaged.csv")
    for read in (read_table, read_sequences):
        table = read_or_refused(read, path)
        if table is not None:
            columns = [table.sequences, *([table.pairs] if table.pairs is not None else [])]
            letters = "".join("".join(column) for column in columns)
            assert all(all(column) and len(column) == len(table) for column in columns)
            assert set(letters) <= {*"ACGT", *AMBIGUITY_CODES}
            # Every letter comes from the file, and none is left out: each row has its number of fields.
            assert table.letters.bases == len(letters) <= len(content)
            if isinstance(table, Table):
                assert len(table.lines) == len(table)
                assert table.lines == sorted(set(table.lines))
                assert 1 < table.lines[-1] <= 1 + len(re.findall(b"\r\n|\n|\r", content))


@settings(max_examples=100)
@given(damaged(gzip.compress(SINGLE, mtime=0)))
def test_a_damaged_gzip_table_is_refused_or_unharmed(tmp_path_factory, content: bytes):
    path = write(tmp_path_factory.getbasetemp(), content, "damaged.csv.gz")
    table = read_or_refused(read_table, path)
    assert table is None or table.labels == ["a", "b", "a"]


def test_sample_table():
    splits = load_splits(*(sample_data.table(split) for split in ("train", "dev", "test")))
    assert splits.labels.names == ("coding+", "coding-", "intergenic")
    assert {len(sequence) for sequence in splits.train.sequences} == {150}


def test_gue_table(shared_dir):
    folder = shared_dir / "data/GUE/prom/prom_300_tata"
    splits = load_splits(folder / "train.csv", folder / "dev.csv", folder / "test.csv")
    assert [len(table) for table in (splits.train, splits.dev, splits.test)] == [4904, 613, 613]
    assert splits.labels.names == ("0", "1")
    assert splits.train.lines[-1] == 4905
