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
# # Tracks
#
# What a model says at every base of a region, as files that IGV and the UCSC browser open, and as a picture. It takes
# about a minute on two cores.

# %%
import gzip
import json
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dnabert2_jax import sample_data

os.chdir(tempfile.mkdtemp())  # for the files of this notebook
genome = Path("chromosome_I.fa")
genome.write_bytes(gzip.decompress(sample_data.fasta_files()["saccharomyces_cerevisiae"].read_bytes()))
contig = genome.read_text().partition(" ")[0].removeprefix(">")
contig

# %% [markdown]
# ## Values at each base
#
# Of a masked language model there are two: the logarithm of the probability that it gives to the base of the genome,
# and the entropy of its four probabilities. The region has CDC19 (71,786 to 73,288) and what is on either side.
# Positions in `--region` count from 1, the end included.

# %% language="bash"
# dnabert2 track --model small --fasta chromosome_I.fa --region NC_001133.9:70,501-74,500 --out tracks
# dnabert2 track --model small --fasta chromosome_I.fa --region NC_001133.9:70,501-74,500 --out text --format bedgraph

# %%
print(*sorted(path.name for path in Path("tracks").iterdir()))
record = json.loads(Path("tracks/track.json").read_text())
print(*record)

# %% [markdown]
# The `.bw` files go to a genome browser as they are. The same values as text are easy to read here: contig, start from
# 0, end, value.

# %%
[file] = Path("text").glob("logp*.bedgraph")
track = pd.read_csv(file, sep="\t", comment="#", names=["contig", "start", "end", "logp"])
track = track[track.contig == contig].astype({"start": int, "end": int})
track.describe().loc[["count", "min", "max"]]

# %%
values = np.full(int(track.end.max()), np.nan)
for row in track.itertuples():
    values[row.start : row.end] = row.logp
begin = int(track.start.min())
smooth = pd.Series(values[begin:]).rolling(101, center=True, min_periods=20).mean()

figure, axes = plt.subplots(figsize=(8, 3))
axes.plot(np.arange(begin, len(values)), smooth, linewidth=1)
axes.axvspan(71_785, 73_288, color="C1", alpha=0.2, label="CDC19")
axes.axhline(np.log(1 / 4), color="gray", linewidth=0.8, label="four equal probabilities")
axes.set(xlabel=f"position on {contig}", ylabel="mean log probability, 101 bases")
_ = axes.legend(frameon=False)

# %% [markdown]
# The gray line is what a model without any idea would have. Where the track is below it, the model expects another
# base: it was surprised, which an error in the assembly would do, but also a gene whose use of codons is unusual.
#
# With a classifier in place of `small`, the same command gives the probability of each class in bins, and `--format
# bed` the bins above a threshold. See the [guide to tracks](../guides/tracks.md).
