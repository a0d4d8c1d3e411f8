import bz2
import csv
import gzip
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnabert2_jax.data.reading import read_sequences, read_table
from dnabert2_jax.data.sequences import Sequences, Table
from dnabert2_jax.errors import UserError
from dnabert2_jax.genome.letters import AMBIGUITY_CODES
from tests.genome.helpers import write_fasta
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


def test_pairs(tmp_path):
    table = read_table(write(tmp_path, "sequence1,sequence2,label\nacGT,TT,x\nGG,AAA,y\n"))
    assert (table.sequences, table.pairs, table.labels) == (["ACGT", "GG"], ["TT", "AAA"], ["x", "y"])
    assert (table.letters.bases, table.letters.lower_case) == (11, 2)


def test_chosen_columns(tmp_path):
    path = write(tmp_path, "id,dna,sequence,class\n7,AC,GG,x\n")
    table = read_table(path, sequence_column="dna", label_column="class")
    assert (table.sequences, table.labels) == (["AC"], ["x"])


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
        ("sequence,lable\nACGT,0\n", ["no column 'label'", "'lable'", "did you mean 'lable'?"]),
        ("sequnce,label\nACGT,0\n", ["no column 'sequence'", "'sequnce', 'label'", "rename"]),
        ("sequence,Label,LABEL\nACGT,0,1\n", ["'Label' and 'LABEL' could each be 'label'", "rename all but one"]),
        ("sequence1,label\nACGT,0\n", ["no column 'sequence2'"]),
        ("sequence,sequence1,sequence2,label\nA,A,A,0\n", ["both 'sequence' and 'sequence1'"]),
        ("sequence,label,label\nACGT,0,1\n", ["2 columns are called 'label'"]),
        (">r1\nACGT\n", ["this looks like FASTA or FASTQ: give a table with the columns sequence, label"]),
        ("sequence|label\nACGT|0\n", ["separate the columns by commas, tabs or semicolons"]),
        ("ACGTACGT,0\nACGTACGA,1\n", ["first line holds a sequence", "sequence,label"]),
        ("sequence,label\nACGT,0\n,1\n", ["line 3", "column 'sequence' is empty"]),
        ("sequence1,sequence2,label\nACGT,,1\n", ["line 2", "column 'sequence2' is empty"]),
        ("sequence,label\nACGT,0\nAC-T,1\n", ["line 3", "'sequence'", "position 3", "'-'", "remove the gaps"]),
        ("sequence1,sequence2,label\nA,ACGU,1\n", ["line 2", "'sequence2'", "position 4", "write T for U"]),
        ("sequence,label\nACGT,0\nACGT\n", ["line 3", "1 fields", "header has 2"]),
        ("sequence,label\nACGT,0,1\n", ["line 2", "3 fields"]),
        ("sequence,label\nACGT,\n", ["line 2", "label '' is empty"]),
        ("sequence,label\nACGT, \n", ["line 2", "label '' is empty"]),
        ('sequence,label\nACGT,0\n"ACGT,1\nACGT,0\n', ["line 3", "quotes"]),
        ('sequence,label\n"ACGT"A,0\n', ["line 2", "quotes"]),
        (b"sequence,label\nACGT,0\nACGT,\xe9\n", ["line 3", "0xe9", "UTF-8"]),
        ("sequence,label\nACGT,0\n".encode("utf-16")[:-1], ["line 2", "UTF-16"]),
        (b"PK\x03\x04 and no more", ["Excel workbook cannot be read", "save the table as CSV"]),
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


def written(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return path


def test_fasta(tmp_path):
    sequences = read_sequences(write_fasta(tmp_path / "genes.fa", {"b": "ACGTN" * 30, "a": "ggg"}))
    assert sequences.names == ["b", "a"]
    assert sequences.sequences == ["ACGTN" * 30, "GGG"]
    assert sequences.pairs is None
    assert "2 sequences, 153 bases; 3 lower-case letters upper-cased; 30 ambiguity codes" in sequences.summary()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.fa.gz", gzip.compress),
        ("x.fna.bz2", bz2.compress),
        ("x.txt", bytes),
        ("x", bytes),
        ("x.gz", gzip.compress),
    ],
)
def test_fasta_is_recognised(tmp_path, name, pack):
    sequences = read_sequences(written(tmp_path / name, pack(b">one two\nAC\nGT\n")))
    assert (sequences.names, sequences.sequences) == (["one"], ["ACGT"])


@pytest.mark.parametrize(("name", "pack"), [("x.csv", bytes), ("x.csv.gz", gzip.compress), ("x.txt", bytes)])
def test_table(tmp_path, name, pack):
    text = b'\xef\xbb\xbfname,sequence,other\r\nfirst,ACGT,1\r\n"se,cond",ggn,\r\n'
    sequences = read_sequences(written(tmp_path / name, pack(text)))
    assert sequences.names == ["first", "se,cond"]
    assert sequences.sequences == ["ACGT", "GGN"]
    assert (sequences.letters.lower_case, sequences.letters.ambiguous) == (3, {"N": 1})


def test_rows_without_names_are_numbered(tmp_path):
    path = written(tmp_path / "x.tsv", "label\tsequence\n1\tACGT\n0\tGG\n")
    assert read_sequences(path).names == ["1", "2"]
    assert read_sequences(path, name_column="label").names == ["1", "0"]


def test_a_column_of_names_in_other_letters(tmp_path):
    read = read_sequences(written(tmp_path / "x.csv", "Name,Sequence\ng1,AC\ng2,GT\n"))
    assert (read.names, read.columns) == (["g1", "g2"], {})
    assert read.notes == ("column 'Sequence' read as 'sequence'", "column 'Name' read as 'name'")


def test_pairs_and_one_column_of_them(tmp_path):
    path = written(tmp_path / "x.csv", "sequence1,sequence2\nAC,GGG\nTT,A\n")
    sequences = read_sequences(path)
    assert (sequences.sequences, sequences.pairs) == (["AC", "TT"], ["GGG", "A"])
    assert "2 pairs, 8 bases" in sequences.summary()
    one = read_sequences(path, sequence_column="sequence2")
    assert (one.sequences, one.pairs) == (["GGG", "A"], None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", r"x\.csv: the file is empty"),
        ("x.csv", "sequence\n", r"x\.csv: the file has a header and no rows"),
        (
            "x.csv",
            "seqence,label\nA,1\n",
            r"no column 'sequence'; the header has 'seqence', 'label'.*did you mean 'seqence'",
        ),
        ("x.csv", "sequence,sequence\nA,A\n", r"2 columns are called 'sequence'"),
        ("x.csv", "sequence,sequence1\nA,A\n", r"has both 'sequence' and 'sequence1'"),
        ("x.csv", "sequence1,label\nA,A\n", r"no column 'sequence2'"),
        ("x.csv", "name,sequence\na,A\nb\n", r"x\.csv, line 3: 1 fields, but the header has 2"),
        ("x.csv", "name,sequence\na,A\nb,\n", r"x\.csv, line 3: column 'sequence' is empty"),
        ("x.csv", "name,sequence\na,A\nb,ACXT\n", r"line 3, column 'sequence', position 3: 'X' is not a DNA letter"),
        ("x.csv", "sequence\nAC[MASK]T\n", r"position 3: '\[' is not a DNA letter.*special tokens"),
        ("x.csv.gz", b"\x1f\x8b\x08broken", r"x\.csv\.gz: damaged gzip file"),
        ("x.fa", ">a\nACGT\n>b\n", r"x\.fa, record 'b': the sequence is empty"),
        ("x.fa", ">a\nAC\n>a\nAC\n", r"the name 'a' is also that of record 1"),
        ("x.fa", "", r"x\.fa: no FASTA record"),
        ("x.fa.gz", b"plain text", r"x\.fa\.gz, record 1"),
        ("x.fastq", "@read\nACGT\n+\nIII\n", r"x\.fastq, record 1.*: not FASTQ: .*records start with '@name'"),
        ("reads", "@read\nACXT\n+\nIIII\n", r"reads, record 'read', position 3: 'X' is not a DNA letter"),
    ],
)
def test_mistakes_in_files(tmp_path, name, content, message):
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        read_sequences(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UserError, match="is a directory; give a FASTA, FASTQ, CSV or TSV file"):
        read_sequences(tmp_path)
    with pytest.raises(UserError, match=r"x\.csv: cannot be read"):
        read_sequences(tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"x\.fa does not exist"):
        read_sequences(tmp_path / "x.fa")


def test_a_column_of_names_that_was_asked_for_must_be_there(tmp_path):
    with pytest.raises(
        UserError, match=r"no column 'gene'; the header has 'genes', .*with --name-column.*did you mean 'genes'"
    ):
        read_sequences(written(tmp_path / "x.csv", "genes,sequence\na,A\n"), name_column="gene")


# --- tables as people have them


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("Sequence,LABEL\nACGT,0\nGGNA,1\n", "column 'Sequence' read as 'sequence'; column 'LABEL' read as 'label'"),
        (" sequence , label \nACGT,0\nGGNA,1\n", "spaces around 2 values removed"),
        ("seq,class\nACGT,0\nGGNA,1\n", "column 'seq' read as 'sequence'; column 'class' read as 'label'"),
        ("DNA sequence,label\nACGT,0\nGGNA,1\n", "column 'DNA sequence' read as 'sequence'"),
        ("sequence,label\nACGT,0.0\nGGNA,1.0\n", "labels such as '0.0' read as '0'"),
        ("sequence;label\nACGT;0\nGGNA;1\n", "columns separated by ';'"),
        ("sequence,label\n ACGT,0 \nGGNA ,1\n", "spaces around 3 values removed"),
        ("sequence,label\nACGT,0\nGGNA,1\n".encode("utf-16"), "UTF-16 text"),
        ("\ufeffsequence\tlabel\r\nACGT\t0\r\nGGNA\t1\r\n".encode("utf-16-be"), "UTF-16 text"),
        (
            '\ufeff"Sequence";"label"\r\n"ACGT";0\r\n"GGNA";1\r\n',
            "columns separated by ';'; column 'Sequence' read as 'sequence'",
        ),
        ("sequence,label\nACGT,0\nGGNA,1\n,\n,\n", "2 rows without values skipped"),
    ],
)
def test_what_cannot_be_misunderstood_is_read_with_one_note(tmp_path, text, note):
    table = read_table(write(tmp_path, text))
    assert (table.sequences, table.labels, table.lines) == (["ACGT", "GGNA"], ["0", "1"], [2, 3])
    assert "; ".join(table.notes) == note
    assert table.summary().endswith(note)


def test_the_separator_that_excel_declares_is_taken_and_lines_keep_their_numbers(tmp_path):
    table = read_table(write(tmp_path, "sep=;\r\nsequence;label;a,b,c\r\nACGT;0;x\r\nGGNA;1;y\r\n"))
    assert (table.sequences, table.labels, table.lines) == (["ACGT", "GGNA"], ["0", "1"], [3, 4])
    assert table.notes == ("columns separated by ';'",)


def test_columns_without_name_and_values_are_left_out(tmp_path):
    text = "sequence,label,,\nACGT,0,,\nGGNA,1,,\n"
    assert read_table(write(tmp_path, text)).labels == ["0", "1"]
    with pytest.raises(UserError, match=r"line 3: 4 fields, but the header has 2 \(sequence, label\)"):
        read_table(write(tmp_path, text.replace("1,,", "1,,x")))


def test_line_ends_of_old_macs(tmp_path):
    table = read_table(write(tmp_path, b"sequence;label;comment\rACGT;0;a, b\rGGNA;1;c\r"))
    assert (table.sequences, table.labels) == (["ACGT", "GGNA"], ["0", "1"])


def test_a_cell_that_excel_may_have_cut_is_pointed_out(tmp_path):
    longest = 32_767  # characters, says Microsoft's page "Excel specifications and limits"
    tables = [read_table(write(tmp_path, f"sequence,label\nAC,0\n{'A' * n},1\n")) for n in (longest - 1, longest)]
    assert tables[0].notes == ()
    assert tables[1].notes == ("a value of exactly 32,767 letters in line 3, where Excel truncates text: check it",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence,label\nACGT,promoter\nGGNA,#N/A\n", "line 3: label '#N/A' is a spreadsheet's error value; correct it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "workbook of Excel 97-2003, .* save it as .xlsx or CSV"),
    ],
)
def test_what_excel_writes_and_no_one_can_use(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path, text))


def test_pairs_under_other_names(tmp_path):
    table = read_table(write(tmp_path, "Seq 1,Seq_2,Label\nAC,GG,x\nT,A,y\n"))
    assert (table.sequences, table.pairs, table.labels) == (["AC", "T"], ["GG", "A"], ["x", "y"])


def test_numbers_that_are_not_classes_stay_as_they_are(tmp_path):
    assert read_table(write(tmp_path, "sequence,label\nA,1.0\nC,1.5\n")).labels == ["1.0", "1.5"]
    assert read_table(write(tmp_path, "sequence,label\nA,1.0\nC,v1\n")).labels == ["1.0", "v1"]


def test_an_excel_workbook(tmp_path, monkeypatch):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "empty"
    sheet, notes = book.create_sheet("rows"), book.create_sheet("notes")
    for row in [("Sequence", "label", "comment"), ("ACGT", 0, None), (None, None, None), ("ggna", 1.0, "x")]:
        sheet.append(row)
    notes.append(["nothing"])
    book.save(tmp_path / "table.xlsx")
    table = read_table(tmp_path / "table.xlsx")
    assert (table.sequences, table.labels, table.lines) == (["ACGT", "GGNA"], ["0", "1"], [2, 4])
    assert "sheet 'rows' of 2 read" in table.notes
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"table\.xlsx: this is an Excel workbook.*dnabert2_jax\[excel\].*as CSV"):
        read_table(tmp_path / "table.xlsx")


def test_a_label_map(tmp_path):
    path = write(tmp_path, "sequence,label\nA,0\nC,1\nG,2\n")
    assert read_table(path, label_map={"0": "no", "1": "yes", "2": "maybe"}).labels == ["no", "yes", "maybe"]
    with pytest.raises(UserError, match=r"line 4: label '2' is not in the label map \(0, 1\)"):
        read_table(path, label_map={"0": "no", "1": "yes"})


def test_all_bad_rows_are_named(tmp_path):
    path = write(tmp_path, "sequence,label\nACGT,0\nAXGT,0\n,1\nACGT\nACGT,\n")
    with pytest.raises(UserError) as caught:
        read_table(path, bad_records="error")
    said = str(caught.value)
    assert said.startswith(f"{path}: 4 of 5 records cannot be used: line 3, column 'sequence', position 2: 'X'")
    assert [said.count(f"line {line}") for line in (2, 3, 4, 5, 6)] == [0, 1, 1, 1, 1]
    assert said.endswith("or leave such records out with --bad-records skip")
    refused(tmp_path, "sequence,label\n" + "X,0\n" * 25, "25 of 25 records", "line 11,", "and 15 more")


def test_bad_records_are_skipped_counted_and_listed(tmp_path):
    path = write(tmp_path, "sequence,label\nACgT,0\nAcXT,0\nGGA,1\n")
    table = read_table(path, bad_records="skip")
    assert (table.sequences, table.names, table.lines) == (["ACGT", "GGA"], ["1", "3"], [2, 4])
    assert (table.letters.bases, table.letters.lower_case) == (7, 1)
    assert "1 of 3 records skipped: line 3, column 'sequence', position 3: 'X'" in table.summary()
    fasta = read_sequences(written(tmp_path / "x.fa", ">a\nAC\n>b\nAU\n>c\n\n"), bad_records="skip")
    assert (fasta.names, fasta.sequences) == (["a"], ["AC"])
    assert "2 of 3 records skipped: record 'b', position 2: 'U'" in fasta.summary()
    with pytest.raises(UserError, match="leaves nothing to read"):
        read_sequences(written(tmp_path / "y.fa", ">b\nAU\n"), bad_records="skip")


@pytest.mark.parametrize(("name", "pack"), [("x.fq", bytes), ("x.fastq.gz", gzip.compress), ("reads", bytes)])
def test_fastq(tmp_path, name, pack):
    reads = read_sequences(written(tmp_path / name, pack(b"@r1 lane 1\nACGT\n+\nIIII\n@r2\nggn\n+\n@@@\n")))
    assert (reads.names, reads.sequences) == (["r1", "r2"], ["ACGT", "GGN"])


@pytest.mark.parametrize(
    "content", [b">1\nACGT\n", b"@1\nACGT\n+\nIIII\n", b"sequence\nACGT\n", gzip.compress(b">1\nACGT\n", mtime=0)]
)
def test_standard_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    sequences = read_sequences("-")
    assert (sequences.source, sequences.names, sequences.sequences) == ("standard input", ["1"], ["ACGT"])


def test_a_labeled_table_from_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"sequence,label\nACGT,a\nGGN,b\n")))
    table = read_table("-")
    assert (table.source, table.sequences, table.labels) == ("standard input", ["ACGT", "GGN"], ["a", "b"])


def test_other_columns_are_kept_beside_unlabeled_sequences(tmp_path):
    sequences = read_sequences(written(tmp_path / "x.csv", "gene,sequence,name,label\nlacZ,A,a,1\nlacY,C,b,0\n"))
    assert sequences.names == ["a", "b"]
    assert sequences.columns == {"gene": ["lacZ", "lacY"], "label": ["1", "0"]}
