"""Annotated lines give their input back, byte by byte; tables have a row for each allele."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dnabert2_jax.variants.fields import AlleleScores, fields_of
from dnabert2_jax.variants.output import annotated, header_lines, table_columns
from dnabert2_jax.variants.records import parse_vcf_line
from tests.variants.helpers import without_ours

FIELDS = fields_of(("llr", "emb"), (), "both", regression=False)
OK = AlleleScores("ok", {"llr": -1.23456789, "llr_fwd": -2.0, "llr_rev": 0.5, "emb": 1e-7, "span": 7, "tokens": "2>3"})
NOT = AlleleScores("too_long", {})


@pytest.mark.parametrize("info", [b".", b"", b"DP=3", b"DP=3;", b";", b"A B", b"DB;H2", b"S=\xff\xe9"])
@pytest.mark.parametrize("more", [b"", b"\tGT\t0|1", b"\tGT\t./.\t 0 "])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_a_line_without_our_keys_is_the_line_that_was_read(info, more, ending):
    raw = b"1\t5\t.\tA\tC,G\t.\t.\t" + info + more + ending
    for scores in ([OK, NOT], [NOT, NOT]):
        line = annotated(raw, scores, FIELDS)
        assert without_ours(line) == raw
        assert line != raw


column = st.binary(max_size=6).filter(lambda b: not set(b) & set(b"\t\r\n"))


@hypothesis.given(columns=st.lists(column, min_size=8, max_size=12), ending=st.sampled_from([b"\n", b"\r\n", b""]))
def test_whatever_the_columns_are(columns, ending):
    raw = b"\t".join([b"1", b"5", *columns[2:]]) + ending
    hypothesis.assume(raw.rstrip(b"\r\n") + ending == raw)
    assert without_ours(annotated(raw, [OK], FIELDS)) == raw


def test_values_are_written_for_each_allele():
    line = annotated(b"1\t5\t.\tA\tC,<DEL>\t.\t.\tDP=3\n", [OK, NOT], FIELDS)
    assert line == (
        b"1\t5\t.\tA\tC,<DEL>\t.\t.\tDP=3;DB2_STATUS=ok,too_long;DB2_LLR=-1.23457,.;DB2_LLR_FWD=-2,.;DB2_LLR_REV=0.5,.;"
        b"DB2_EMB=1e-07,.;DB2_SPAN=7,.;DB2_TOKENS=2>3,.\n"
    )


def test_the_header_defines_each_key_on_a_line():
    lines = header_lines(FIELDS, b"\r\n").split(b"\r\n")
    assert lines.pop() == b""
    assert [line.partition(b"ID=")[2].partition(b",")[0] for line in lines] == [
        *(field.key.encode() for field in FIELDS),
        b"DB2_STATUS",
    ]
    assert all(line.startswith(b"##INFO=<ID=DB2_") and b",Number=A,Type=" in line and line.endswith(b'">') for line in lines)


def test_labels_with_quotes_stay_one_description():
    (line, *_) = header_lines(fields_of(("delta",), ('a"b\\',), "+", regression=False), b"\n").splitlines()
    assert b'class a\\"b\\\\ with REF"' in line
    assert line.startswith(b"##INFO=<ID=DB2_REF_a_b_,")


def test_classes_whose_keys_would_be_the_same_are_numbered():
    keys = [field.key for field in fields_of(("delta",), ("a b", "a_b", "c"), "+", regression=False)]
    assert keys[2::3][:3] == ["DB2_DELTA_a_b_0", "DB2_DELTA_a_b_1", "DB2_DELTA_c"]


def test_a_table_has_a_row_for_each_allele():
    records = [parse_vcf_line(b"1\t5\trs1\tA\tC,*\t.\t.\t.\n", "x", 1), parse_vcf_line(b"1\t6\t.\tG\t.\t.\t.\t.\n", "x", 2)]
    columns = table_columns(records, [[OK, AlleleScores("star", {})], [AlleleScores("missing", {})]], FIELDS, ())
    assert columns["pos"].tolist() == [5, 5, 6]
    assert columns["alt"] == ["C", "*", "."]
    assert columns["status"] == ["ok", "star", "missing"]
    assert columns["llr"][0] == OK.values["llr"]
    assert np.isnan(columns["llr"][1:]).all()
    assert columns["tokens"] == ["2>3", "", ""]


def test_columns_of_the_input_keep_their_names():
    record = parse_vcf_line(b"1\t5\trs1\tA\tC\t.\t.\t.\n", "x", 1)
    columns = table_columns(
        [record.__class__(1, "1", 4, ".", "A", ("C",), fields=("1", "hot"))], [[OK]], FIELDS, ("chr", "llr")
    )
    assert columns["llr"] == ["hot"]
    assert columns["db2_llr"][0] == OK.values["llr"]
