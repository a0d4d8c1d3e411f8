"""``dnabert2 tokenizer train``, ``kmer``, ``export``, ``encode`` and ``info``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dnabert2_jax.cli.app import group
from dnabert2_jax.cli.options import Force, path
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import remark
from dnabert2_jax.storage.overwriting import refuse_overwriting

tokenizer = group("tokenizer", "Train, inspect and export tokenizers.")

_ANY_TOKENIZER = "Tokenizer (also tokenizer.json) or its directory, or a model directory."


@tokenizer.command(
    "train", epilog="Example: dnabert2 tokenizer train --corpus runs/corpus --out runs/tokenizer --vocab-size 4096"
)
def tokenizer_train(
    corpus: Annotated[Path, Option(parser=path, help="Corpus directory; only its training split is read.")],
    out: Annotated[Path, Option(parser=path, help="Directory for tokenizer.model.")],
    vocab_size: Annotated[int, Option(help="Token ids, special ones included.")] = 4096,
    longest_piece: Annotated[int, Option(help="Maximum bases per piece.")] = 32,
    sample_bases: Annotated[int, Option(help="Bases to train on, 40 bytes of memory each.")] = 20_000_000,
    seed: Annotated[int, Option(help="Seed of the sample.")] = 0,
    force: Force = False,
) -> None:
    """Train a BPE tokenizer on a sample of a corpus."""
    from dnabert2_jax.genome.corpus import Corpus
    from dnabert2_jax.tokenizer.bpe import BpeTokenizer
    from dnabert2_jax.tokenizer.training import SENTENCE_BASES, sample_corpus, train_bpe

    refuse_overwriting(out / BpeTokenizer.file_name, force=force)
    sample = sample_corpus(Corpus.open(corpus), sample_bases=sample_bases, window_bases=SENTENCE_BASES, seed=seed)
    trained = train_bpe(sample, vocab_size=vocab_size, max_piece_length=longest_piece)
    file = trained.save(out)
    longest = max(trained.pieces[5:], key=len)
    remark(f"{trained.vocab_size:,} pieces; the longest is {longest} ({len(longest)} bases)")
    print(f"saved {file}")


@tokenizer.command("kmer", epilog="Example: dnabert2 tokenizer kmer --k 6 --stride 1 --out runs/overlapping6")
def tokenizer_kmer(
    out: Annotated[Path, Option(parser=path, help="Directory for kmer_tokenizer.json.")],
    k: Annotated[int, Option(help="Bases per k-mer, 3 to 6.")] = 6,
    stride: Annotated[int | None, Option(help="1: overlapping, as in DNABERT; k: adjacent.", show_default="k")] = None,
    force: Force = False,
) -> None:
    """Write a k-mer tokenizer, for comparison.

    It can replace a trained tokenizer in every run.
    """
    from dnabert2_jax.tokenizer.kmer import KmerTokenizer

    made = KmerTokenizer(k, k if stride is None else stride)
    refuse_overwriting(out / made.file_name, force=force)
    file = made.save(out)
    remark(f"{made.vocab_size:,} ids")
    print(f"saved {file}")


@tokenizer.command("export", epilog="Example: dnabert2 tokenizer export runs/tokenizer --out runs/hugging_face")
def tokenizer_export(
    tokenizer: Annotated[Path, Argument(parser=path, help="BPE tokenizer, or a model directory with one.")],
    out: Annotated[Path, Option(parser=path, help="Directory for tokenizer.json and tokenizer_config.json.")],
    force: Force = False,
) -> None:
    """Export a BPE tokenizer to Hugging Face's format.

    Hugging Face's libraries give the same ids with it.
    """
    from dnabert2_jax.tokenizer.loading import Tokenizer

    refuse_overwriting(out / "tokenizer.json", force=force)
    print(f"saved {Tokenizer.load(tokenizer).save_hugging_face(out)}")


@tokenizer.command("encode", epilog="Example: dnabert2 tokenizer encode --tokenizer runs/tokenizer ACGTTGCATATA")
def tokenizer_encode(
    tokenizer: Annotated[Path, Option(parser=path, help=_ANY_TOKENIZER)],
    sequence: Annotated[list[str] | None, Argument(metavar="SEQUENCE", help="DNA, in either case.")] = None,
    fasta: Annotated[Path | None, Option(parser=path, help="FASTA file, instead of sequences.")] = None,
) -> None:
    """Print sequences as tokens.

    Tab-separated: name, bases, tokens, ids and pieces, including [CLS] and [SEP].
    """
    from dnabert2_jax.genome.fasta import read_fasta
    from dnabert2_jax.genome.letters import LetterCounts, clean_letters
    from dnabert2_jax.tokenizer.loading import Tokenizer
    from dnabert2_jax.tokenizer.special import with_template

    if bool(sequence) == (fasta is not None):
        raise UserError("give either sequences or --fasta")
    loaded = Tokenizer.load(tokenizer)
    records = (
        ((record.name, record.sequence) for record in read_fasta(fasta))
        if fasta is not None
        else ((f"sequence {number}", text.encode()) for number, text in enumerate(sequence or (), start=1))
    )
    counts = LetterCounts()
    for number, (name, text) in enumerate(records):
        source = str(fasta or "command line")
        letters, seen = clean_letters(text, source=source, record=name)
        counts.add(seen)
        try:
            ids = with_template(loaded.encode_raw(letters.tobytes().decode("ascii"))).tolist()
        except UserError as error:  # too short for the tokenizer, which does not know the source
            raise UserError(f"{source}, {name}: {error}") from error
        pieces = " ".join(loaded.pieces[token] for token in ids)
        if number == 0:  # not above an error about the first sequence
            print("name\tbases\ttokens\tids\tpieces")
        print(f"{name}\t{len(letters)}\t{len(ids)}\t{' '.join(map(str, ids))}\t{pieces}")
    for change in counts.changes():
        remark(change)


@tokenizer.command("info", epilog="Example: dnabert2 tokenizer info runs/tokenizer")
def tokenizer_info(tokenizer: Annotated[Path, Argument(parser=path, help=_ANY_TOKENIZER)]) -> None:
    """Print a tokenizer's pieces by length in bases."""
    from collections import Counter

    from dnabert2_jax.tokenizer.loading import Tokenizer
    from dnabert2_jax.tokenizer.special import NUM_SPECIAL, SPECIAL_TOKENS

    loaded = Tokenizer.load(tokenizer)
    pieces = loaded.pieces[NUM_SPECIAL:]
    print(f"{loaded.vocab_size:,} ids: {' '.join(SPECIAL_TOKENS)} are 0 to {NUM_SPECIAL - 1}, the others are DNA")
    print(f"sha256 {loaded.sha256}")
    records = []
    for length, count in sorted(Counter(map(len, pieces)).items()):
        examples = [piece for piece in pieces if len(piece) == length][: max(1, 48 // (length + 1))]
        share = f"{count / len(pieces):.1%}"
        records.append({"bases": str(length), "pieces": f"{count:,}", "share": share, "examples, by id": " ".join(examples)})
    print_table(records)
