# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Variants
#
# What does a pretrained model think of every substitution in a stretch of a gene? Scores without any training on
# variants, compared with what the substitutions do to the protein. It takes about a minute on two cores.

# %%
import gzip
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dnabert2_jax import DNABERT2, sample_data

folder = Path(tempfile.mkdtemp())
model = DNABERT2.load("small")

# %% [markdown]
# ## A genome and its variants
#
# The genome is a FASTA file, plain or compressed by bgzip. The sample data is compressed by plain gzip, which allows no
# random access, so it is unpacked first.

# %%
genome = folder / "chromosome_I.fa"
genome.write_bytes(gzip.decompress(sample_data.fasta_files()["saccharomyces_cerevisiae"].read_bytes()))
header, *lines = genome.read_text().splitlines()
contig, letters = header[1:].split()[0], "".join(lines).upper()

# CDC19, pyruvate kinase: chromosome I from 71,786 to 73,288, on the plus strand.
start, end = 71_786, 73_288
gene = letters[start - 1 : end]
codons = [gene[at : at + 3] for at in range(0, len(gene), 3)]
assert codons[0] == "ATG"
assert [number for number, codon in enumerate(codons, start=1) if codon in ("TAA", "TAG", "TGA")] == [len(codons)]

# %% [markdown]
# All substitutions in forty codons, and what each does:

# %%
acids = dict(
    zip(
        (a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
)
rows = []
for number in range(100, 140):
    for at in range(3):
        for base in "ACGT".replace(codons[number][at], ""):
            before, after = codons[number], codons[number][:at] + base + codons[number][at + 1 :]
            effect = "synonymous" if acids[before] == acids[after] else "nonsense" if acids[after] == "*" else "missense"
            rows.append((contig, start + 3 * number + at, before[at], base, effect))
variants = pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt", "effect"])
variants.effect.value_counts()

# %% [markdown]
# ## Scores
#
# `llr` is the logarithm of P(ALT) / P(REF), summed over all ways to cut the sequence into tokens, as the mean of both
# strands: negative where the model expects the reference. The same with files: `dnabert2 variants --model small --fasta
# genome.fa --variants calls.vcf.gz --out scored.vcf.gz`.

# %%
scores = model.score_variants(
    genome, variants[["chrom", "pos", "ref", "alt"]].itertuples(index=False, name=None), scores=["llr"]
)
scores

# %%
variants["llr"] = scores["llr"]
variants.groupby("effect").llr.describe()[["count", "mean", "25%", "50%", "75%"]].round(3)

# %%
effects = ["synonymous", "missense", "nonsense"]
figure, axes = plt.subplots(figsize=(5, 3.5))
axes.boxplot([variants.llr[variants.effect == effect] for effect in effects], tick_labels=effects)
axes.axhline(0, color="gray", linewidth=0.8)
_ = axes.set(title="CDC19, codons 101 to 140", ylabel="log P(ALT) / P(REF)")
# %% [markdown]
# Is a difference between the boxes more than the kind of base that is exchanged? Transitions and transversions, and G
# or C against A or T, differ in effect on the protein and in frequency in any genome. So compare within an exchange
# before you believe a score:

# %%
exchange = variants.ref + ">" + variants.alt
within = variants.llr - variants.groupby(exchange).llr.transform("mean")
pd.DataFrame(
    {"llr": variants.groupby("effect").llr.mean(), "llr, exchange taken out": within.groupby(variants.effect).mean()}
).round(3)

# %% [markdown]
# A model this small knows little about proteins, and the table shows it as it is. What the scores mean, which statuses
# there are, and how a larger model does on measured effects is in the [guide to variants](../guides/variants.md).
