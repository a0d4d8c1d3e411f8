"""Splice sites of one chromosome's genes, as `benchmarks/per_base.py` reads them: each gene a contig, on its own strand.

    python benchmarks/splice_genes.py --fasta chr22.fa.gz --genes genes.tsv --longest 20000 --out runs/splice
    python benchmarks/per_base.py --fasta runs/splice/genes.fa --annotation runs/splice/sites.bed --features acceptor donor
        --dev $(cat runs/splice/dev.txt) --test $(cat runs/splice/test.txt) --model small --workdir runs/splice/run

The table has a line for each gene in the layout of SpliceAI's annotation: NAME, CHROM, STRAND, TX_START, TX_END, EXON_START,
EXON_END, where starts count from 0. An acceptor is the first base of an exon, a donor the last one. Genes that are too long,
have no intron, or have many unknown letters are left out. From left to right, the genes are for training (70% of the bases),
dev, and test (15% each); one that overlaps the genes before it is never in another split than they are.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dnabert2_jax.data.sequences import reverse_complement
from dnabert2_jax.genome.reference import Reference

UNKNOWN = 0.3
SHARES = {"train": 0.7, "dev": 0.85, "test": 1.0}


class Gene(NamedTuple):
    """A gene as it is read: its letters, and its sites by label, both on its own strand."""

    name: str
    start: int
    end: int
    letters: str
    sites: dict[str, list[int]]


def genes(table: Path, reference: Reference, longest: int) -> Iterator[Gene]:
    """The genes that are of use."""
    with table.open() as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            contig, start, end = reference.contig(row["CHROM"]), int(row["TX_START"]), int(row["TX_END"])
            firsts, lasts = ([int(n) for n in row[key].strip(",").split(",")] for key in ("EXON_START", "EXON_END"))
            if contig is None or len(firsts) < 2 or end - start > longest:
                continue
            letters = reference.fetch(contig, start, end).upper()
            if letters.count("N") > UNKNOWN * len(letters):
                continue
            acceptors, donors = [first - start for first in firsts[1:]], [last - 1 - start for last in lasts[:-1]]
            if row["STRAND"] == "-":
                letters = reverse_complement(letters)
                acceptors, donors = ([len(letters) - 1 - at for at in sites] for sites in (donors, acceptors))
            yield Gene(row["#NAME"], start, end, letters, {"acceptor": acceptors, "donor": donors})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--genes", type=Path, required=True)
    parser.add_argument("--longest", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with Reference(options.fasta) as reference:
        found = sorted(genes(options.genes, reference, options.longest), key=lambda gene: gene.start)
    total, before, reach = sum(len(gene.letters) for gene in found), 0, 0
    splits: dict[str, list[Gene]] = {split: [] for split in SHARES}
    split = "train"
    for gene in found:
        if gene.start >= reach:  # otherwise it overlaps a gene before it, and goes with it
            split = next(name for name, share in SHARES.items() if before < share * total)
        splits[split].append(gene)
        before, reach = before + len(gene.letters), max(reach, gene.end)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "genes.fa.fai").unlink(missing_ok=True)  # of an earlier call
    with (options.out / "genes.fa").open("w") as fasta, (options.out / "sites.bed").open("w") as bed:
        for gene in found:
            fasta.write(f">{gene.name}\n{gene.letters}\n")
            for label, sites in gene.sites.items():
                bed.writelines(f"{gene.name}\t{at}\t{at + 1}\t{label}\n" for at in sites)
    for split, own in splits.items():
        (options.out / f"{split}.txt").write_text(" ".join(gene.name for gene in own) + "\n")
        bases, acceptors = sum(len(gene.letters) for gene in own), sum(len(gene.sites["acceptor"]) for gene in own)
        print(f"{split}: {len(own)} genes, {bases:,} bases, {acceptors} introns")


if __name__ == "__main__":
    main()
