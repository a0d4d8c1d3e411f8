"""``tokenizer.json``: the same ids as Hugging Face's ``tokenizers``, in both directions."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnabert2_jax.errors import UserError
from dnabert2_jax.genome import read_fasta
from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.tokenizer.bpe import FIRST_MERGE, BpeTokenizer
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.loading import Tokenizer
from dnabert2_jax.tokenizer.special import SPECIAL_TOKENS, with_template
from dnabert2_jax.tokenizer.training import train_bpe

# The first sequence of the original's README, and its ids.
README_SEQUENCE = "ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC"
README_IDS = [1, 5, 194, 32, 757, 1239, 2092, 294, 24, 359, 88, 93, 32, 75, 77, 19, 2]

repeats = st.builds(lambda unit, times: unit * times, st.text("ACGT", min_size=1, max_size=4), st.integers(1, 40))
dna = st.lists(st.text("ACGT", max_size=60) | repeats, max_size=6).map("".join)
# No brackets: `tokenizers` finds special tokens in text, this package does not.
any_text = st.text(max_size=20).map(lambda text: text.replace("[", "(").replace("\ud800", ""))
messy = st.lists(dna | st.text("ACGTacgtNRYSWKMBDHV \t\n", max_size=30) | any_text, max_size=6).map("".join)


@pytest.fixture(scope="module")
def exported(tokenizer: BpeTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    tokenizer.save_hugging_face(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(exported: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))


def their_ids(theirs: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]


def windows_of(sequence: str, length: int, offset: int) -> list[str]:
    return [sequence[start : start + length] for start in range(offset, len(sequence), length)]


@settings(max_examples=200)
@given(messy)
@example("NNNN ACGTNacgt\x1cACGT\u2028A_C-G+T\U0001f9ec")
def test_an_exported_tokenizer_gives_the_same_ids_there(tokenizer, theirs, text: str):
    assert tokenizer.encode_raw(text) == theirs.encode(text, add_special_tokens=False).ids


@given(dna, dna)
def test_templates_are_the_same_there(tokenizer, theirs, text: str, pair: str):
    assert tokenizer.encode(text) == theirs.encode(text).ids
    assert tokenizer.encode(text, pair) == theirs.encode(text, pair).ids


def test_real_windows_get_the_same_ids_there(tokenizer, theirs, chromosomes: list[str]):
    for offset, chromosome in enumerate(chromosomes):
        for sequence in (chromosome[:100_000], chromosome[:100_000].upper()):  # as it stands, soft-masked, and without
            windows = windows_of(sequence, 650, offset)
            assert [ids.tolist() for ids in tokenizer.encode_raw_batch(windows)] == their_ids(theirs, windows)


@settings(max_examples=25)
@given(st.lists(repeats, min_size=1, max_size=4).map("".join), st.integers(0, 60), st.data())
def test_any_vocabulary_gives_the_same_ids_there(tmp_path_factory, sample: str, size: int, data: st.DataObject):
    # Small samples of repeats make vocabularies in which the same letters can be joined in many orders.
    sample += BASES
    try:
        trained = train_bpe([sample], vocab_size=FIRST_MERGE + size)
    except UserError as error:
        trained = train_bpe([sample], vocab_size=int(str(error).rpartition(" ")[2]))
    folder = tmp_path_factory.getbasetemp() / "any vocabulary"
    theirs = tokenizers.Tokenizer.from_file(str(trained.save_hugging_face(folder)))
    for text in data.draw(st.lists(dna | repeats, min_size=5, max_size=5)):
        assert trained.encode_raw(text) == theirs.encode(text, add_special_tokens=False).ids
    assert Tokenizer.load(folder).sha256 == trained.sha256


@settings(max_examples=100)
@given(st.lists(st.text("AC", min_size=2, max_size=5), unique=True, max_size=25), st.data())
def test_even_pieces_in_any_order_give_the_same_ids_there(tmp_path_factory, merges: list[str], data: st.DataObject):
    # No training would learn these: pieces before their parts, pieces that no text gives.
    odd = BpeTokenizer.from_pieces([*SPECIAL_TOKENS, *BASES, *merges])
    folder = tmp_path_factory.getbasetemp() / "any pieces"
    theirs = tokenizers.Tokenizer.from_file(str(odd.save_hugging_face(folder)))
    for text in data.draw(st.lists(st.text("AC", max_size=60), min_size=5, max_size=5)):
        ids = odd.encode_raw(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert not {number for number, pair in enumerate(odd.merges(), FIRST_MERGE) if pair is None} & set(ids)
    assert Tokenizer.load(folder).sha256 == odd.sha256


def test_an_export_comes_back_the_same_in_every_form(tokenizer, exported: Path, tmp_path: Path):
    read = Tokenizer.load(exported)
    assert read.sha256 == tokenizer.sha256
    assert read.pieces == tokenizer.pieces
    assert Tokenizer.load(exported / "tokenizer.json").sha256 == tokenizer.sha256
    renamed = tmp_path / "yeast.json"
    renamed.write_bytes((exported / "tokenizer.json").read_bytes())
    assert Tokenizer.load(renamed).sha256 == tokenizer.sha256
    assert Tokenizer.load(read.save(tmp_path)).sha256 == tokenizer.sha256


def test_a_directory_with_two_tokenizers_is_refused_unless_they_are_the_same(tokenizer, exported: Path, tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).sha256 == tokenizer.sha256
    KmerTokenizer(6, 6).save(tmp_path)
    with pytest.raises(UserError, match=r"two different tokenizers, tokenizer\.model and kmer_tokenizer\.json; name one"):
        Tokenizer.load(tmp_path)
    assert isinstance(Tokenizer.load(tmp_path / "kmer_tokenizer.json"), KmerTokenizer)


def test_the_newer_spelling_of_merges_and_the_settings_of_a_call_are_understood(tokenizer, exported: Path, tmp_path: Path):
    theirs = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    theirs.enable_truncation(8)
    theirs.enable_padding(pad_id=3, pad_token="[PAD]")
    theirs.save(str(tmp_path / "tokenizer.json"))
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"]["max_length"] == 8
    assert isinstance(saved["model"]["merges"][0], list)
    read = Tokenizer.load(tmp_path)
    assert read.sha256 == tokenizer.sha256
    assert len(read.encode("ACGTTGCATTGCA" * 4)) > 8


def test_no_export_where_it_cannot_be_written(tokenizer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        tokenizer.save_hugging_face(tmp_path / "file")


def set_key(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


def add_a_token(content: dict[str, Any]) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "id": 1024, "content": "[YEAST]"})


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]


def other_parts(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    at, (a, b) = next((at, parts) for at, merge in enumerate(merges) if len((parts := merge.split())[0]) > 1)
    merges[at] = f"{a[:1]} {a[1:] + b}"


def move_ids(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["[PAD]"], vocabulary["[UNK]"] = 0, 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("normalizer", to={"type": "Lowercase"}), "normalizer: Input should be null"),
        (set_key("pre_tokenizer", to={"type": "ByteLevel"}), "pre_tokenizer is .*ByteLevel.*; accepted is .*Whitespace"),
        (set_key("post_processor", "pair", to=[]), "post_processor is "),
        (set_key("post_processor", to=None), r"post_processor: .*\(found None\)"),
        (add_a_token, r"added_tokens is .*'\[YEAST\]'"),
        (set_key("model", "type", to="WordPiece"), r"model\.type: .*'BPE'.*found WordPiece"),
        (set_key("model", "fuse_unk", to=True), r"model\.fuse_unk: .*found True"),
        (set_key("model", "dropout", to=0.1), r"model\.dropout: .*found 0.1"),
        (set_key("model", "continuing_subword_prefix", to="##"), r"model\.continuing_subword_prefix: .*found ##"),
        (set_key("model", "new_option", to=1), r"model\.new_option: Extra inputs"),
        (set_key("model", "vocab", "A", to=9), r"id 6 \('C'\) is where id 5 should be"),
        (set_key("model", "vocab", "AX", to=1024), "id 1024 is 'AX'; accepted is a piece of A C G T"),
        (move_ids, r"ids 0-8 are \[PAD\] \[CLS\] \[SEP\] \[UNK\]"),
        (swap_merges, "merge 3 is .*; accepted is "),
        (other_parts, "merge .* which follows from the order of the ids"),
        (lambda content: content["model"]["merges"].pop(), "1014 merges; accepted is 1015"),
        (lambda content: content.pop("model"), "model: Field required"),
    ],
)
def test_what_would_change_the_ids_is_refused(exported: Path, tmp_path: Path, change, message: str):
    content = json.loads((exported / "tokenizer.json").read_text())
    change(content)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as refused:
        Tokenizer.load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert "\n" not in str(refused.value)


@given(
    st.binary(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_a_file_that_is_something_else_is_refused(tmp_path_factory, content: bytes):
    file = tmp_path_factory.getbasetemp() / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        Tokenizer.load(file)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_file_is_refused_or_gives_the_same_ids_there(tmp_path_factory, small: bytes, data: st.DataObject):
    damaged = bytearray(small)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(small) - 1), st.integers(0, 255)), min_size=1, max_size=3)
    ):
        damaged[at] = byte
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    file = tmp_path_factory.getbasetemp() / "damaged" / "tokenizer.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(damaged)
    try:
        read = Tokenizer.load(file)
    except UserError:
        return
    try:
        theirs = tokenizers.Tokenizer.from_file(str(file))
    except Exception:  # it needs keys that have no say in the ids
        return
    text = "ACGTTGCANNACGACGTTACGT"
    assert read.encode_raw(text) == theirs.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train_bpe(["ACGTTGCA" * 9], vocab_size=14).save_hugging_face(tmp_path_factory.mktemp("small")).read_bytes()


# --- the released tokenizer


@pytest.fixture
def released(shared_dir: Path) -> Path:
    return shared_dir / "data/dnabert2_hf"


def test_the_published_example(released: Path):
    tokenizer = Tokenizer.load(released)
    assert tokenizer.vocab_size == 4096
    assert tokenizer.encode(README_SEQUENCE) == README_IDS
    assert tokenizer.encode_batch([README_SEQUENCE]) == [README_IDS]
    assert tokenizer.decode(README_IDS) == README_SEQUENCE


def test_the_released_file_comes_back_as_it_was(released: Path, tmp_path: Path):
    Tokenizer.load(released).save_hugging_face(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((released / name).read_text())


def test_the_released_tokenizer_on_any_text(released: Path):
    ours = Tokenizer.load(released)
    theirs = tokenizers.Tokenizer.from_file(str(released / "tokenizer.json"))

    @settings(max_examples=300)
    @given(messy, messy)
    def same(text: str, pair: str):
        assert ours.encode_raw(text) == theirs.encode(text, add_special_tokens=False).ids
        assert with_template(ours.encode_raw(text), ours.encode_raw(pair)).tolist() == theirs.encode(text, pair).ids

    same()


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 217, 433])
def test_the_released_tokenizer_on_every_window_of_whole_genomes(released: Path, shared_dir: Path, offset: int):
    ours = Tokenizer.load(released)
    theirs = tokenizers.Tokenizer.from_file(str(released / "tokenizer.json"))
    bases = 0
    for path in sorted((shared_dir / "data/genomes").glob("*.fa.gz")):
        for record in read_fasta(path):
            sequence = record.sequence.decode()
            windows = windows_of(sequence, 650, offset % max(1, len(sequence)))
            assert [ids.tolist() for ids in ours.encode_raw_batch(windows, num_threads=os.cpu_count() or 1)] == their_ids(
                theirs, windows
            ), (path, record.name)
            bases += sum(map(len, windows))
    assert bases > 50_000_000
