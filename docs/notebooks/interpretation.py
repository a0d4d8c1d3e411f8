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
# # Interpretation
#
# Which bases does a model look at, and what does it expect in their place? Three ways to ask, on a stretch of a yeast
# chromosome. It takes about a minute on two cores.

# %%
import gzip
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from dnabert2_jax import DNABERT2, sample_data

os.chdir(tempfile.mkdtemp())  # for the files of this notebook
genome = Path("chromosome_I.fa")
genome.write_bytes(gzip.decompress(sample_data.fasta_files()["saccharomyces_cerevisiae"].read_bytes()))
letters = "".join(genome.read_text().splitlines()[1:]).upper()

# The start of CDC19: position 71,786, counted from 1, is the A of its ATG.
sequence = letters[71_745:71_845]
assert sequence[40:43] == "ATG"
model = DNABERT2.load("small")

# %% [markdown]
# ## Every base replaced by every other
#
# In-silico mutagenesis, `ism`. For a classifier it is the change of the prediction; for a masked language model, as
# here, the logarithm of the probability of each of the four bases given all others, summed over tokenizations.

# %%
(result,) = model.explain([sequence], "ism")
result.values.shape

# %%
figure, axes = plt.subplots(figsize=(9, 2))
image = axes.imshow(np.exp(result.values.T), aspect="auto", cmap="viridis", vmin=0)
axes.set_yticks(range(4), "ACGT")
axes.scatter(range(len(sequence)), ["ACGT".index(letter) for letter in sequence], s=4, color="white")
axes.axvline(39.5, color="white", linewidth=0.8)
_ = axes.set(xlabel="position; the gene begins at the line", title="probability of each base; dots: the sequence itself")
_ = figure.colorbar(image)

# %%
expected = np.array(["ACGT".index(letter) for letter in sequence]) == result.values.argmax(axis=1)
print(f"the most probable base is the one that is there at {expected.mean():.0%} of the sites")

# %% [markdown]
# Rows of one color say that the model is unsure, which a small one often is.
#
# ## A page to read and to share
#
# The command writes the numbers, pictures with letters as tall as their contributions, and a page with coordinates:

# %% language="bash"
# dnabert2 explain ism --model small --fasta chromosome_I.fa --region NC_001133.9:71,746-71,845 \
#     --out ism.npz --page ism.html

# %%
print(*sorted(path.name for path in Path().iterdir()))

# %% [markdown]
# ## Attention
#
# What each token attends to, layer by layer and head by head. It shows what was combined, not what decided the output.
# ALiBi makes distant tokens matter less, at a rate of each head's own: compare the heads.

# %%
last = model.config.num_hidden_layers - 1
(maps,) = model.explain([sequence], "attention", layers=[last], heads=range(4))
weights = maps.weights[0]  # of the one layer that was asked for: [heads, queries, keys]
figure, axes = plt.subplots(1, len(weights), figsize=(9, 2.6), sharey=True)
for head, (axis, map_of_head) in enumerate(zip(axes, weights, strict=True)):
    axis.imshow(map_of_head, cmap="viridis", vmin=0)
    axis.set(title=f"layer {last}, head {head}", xlabel="attended token")
_ = axes[0].set(ylabel="attending token")
assert np.allclose(weights.sum(axis=-1), 1, atol=1e-5)

# %% [markdown]
# For classifiers there are also integrated gradients (`ig`) and `saliency`, for pretrained models maps of which base
# depends on which (`dependency`), and files for TF-MoDISco: see the [guide to
# interpretation](../guides/interpretation.md).
