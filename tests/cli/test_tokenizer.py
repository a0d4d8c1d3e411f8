from tests.genome.helpers import write_fasta
from tests.helpers import (
    tiny_config,
    tiny_tokenizer,
)


def test_tokenizer_encode_prints_ids_that_decode(tmp_path, dnabert2, refused):
    tokenizer = tiny_tokenizer()
    tokenizer.save(tmp_path)
    code, out, errors = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "ACGTTGCA", "acnT")
    assert code == 0
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == ["name", "bases", "tokens", "ids", "pieces"]
    for (name, bases, tokens, ids, pieces), text in zip(rows, ("ACGTTGCA", "ACNT"), strict=True):
        numbers = [int(number) for number in ids.split()]
        assert numbers == tokenizer.encode(text)
        assert (int(bases), int(tokens)) == (len(text), len(numbers))
        assert [tokenizer.pieces[number] for number in numbers] == pieces.split()
        assert name.startswith("sequence ")
    assert "3 lower-case letters upper-cased" in errors
    assert "1 ambiguity codes read as [UNK]" in errors
    words = ("command line, sequence 1, position 3: 'X' is not a DNA letter",)
    refused("tokenizer", "encode", "--tokenizer", tmp_path, "ACX", words=words)
    refused("tokenizer", "encode", "--tokenizer", tmp_path, words=("either sequences or --fasta",))


def test_tokenizer_encode_reads_fasta(tmp_path, dnabert2):
    tiny_tokenizer().save(tmp_path)
    fasta = write_fasta(tmp_path / "genes.fa", {"one": "ACGT" * 30, "two": "TTTT"})
    code, out, _ = dnabert2("tokenizer", "encode", "--tokenizer", tmp_path, "--fasta", fasta)
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()[1:]] == [["one", "120"], ["two", "4"]]


def test_tokenizer_info_counts_pieces(folder, tmp_path, dnabert2, refused):
    code, out, _ = dnabert2("tokenizer", "info", folder / "base")
    assert code == 0
    assert out.startswith(f"{tiny_config().vocab_size} ids: [UNK] [CLS] [SEP] [PAD] [MASK] are 0 to 4")
    assert tiny_tokenizer().sha256 in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows[0][:2] == ["1", "4"]
    assert rows[0][3] == "A C G T"
    assert sum(int(row[1]) for row in rows) == tiny_config().vocab_size - 5
    refused("tokenizer", "info", tmp_path, words=("no such file", "dnabert2 tokenizer train"))
