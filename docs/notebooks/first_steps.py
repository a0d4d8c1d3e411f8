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
# # First steps
#
# From DNA to tokens, vectors, and a first classifier, with what ships with the package: a small pretrained model and a
# table of windows of yeast chromosomes. It takes about half a minute on two cores.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnabert2_jax import DNABERT2, sample_data

model = DNABERT2.load("small")
model

# %% [markdown]
# `"small"` is the name of the model in the package. A directory that `dnabert2 pretrain` or `dnabert2 finetune` wrote
# goes in the same place, as does the released model: `DNABERT2.load("hf:zhihan1996/DNABERT-2-117M")`.
#
# ## Tokens
#
# The model reads byte pairs: frequent stretches of a few bases, learned from genomes. The same bases can fall into
# different tokens depending on what surrounds them.

# %%
sequence = "ATGGCCAAGTTTGGCACCTTAGGCATTACG"
pieces = [model.tokenizer.pieces[token] for token in model.tokenizer.encode_raw(sequence)]
assert "".join(pieces) == sequence
" ".join(pieces)

# %% [markdown]
# What does the pretrained model expect at a place? Masking the bases from 9 to 12 (counted from 0) hides the tokens
# that cover them, and `fill_mask` lists what the model would put there. A small model is unsure, as it should be: most
# of DNA is hard to predict from its neighborhood.

# %%
masked = model.fill_mask(sequence, [(9, 12)], top_k=4)
pd.DataFrame(
    {
        "bases": f"{token.start}-{token.end}",
        "original": token.original,
        **{f"candidate {rank}": f"{piece} ({p:.0%})" for rank, (piece, p) in enumerate(token.candidates, start=1)},
    }
    for token in masked
)

# %% [markdown]
# ## Vectors
#
# `embed` gives one vector per sequence: the mean over its tokens. Sequences may be a list, a generator, or, as here, a
# column of a table. The windows are 150 bases long; the label says whether they code on the plus strand, on the minus
# strand, or not at all.

# %%
train = pd.read_csv(sample_data.table("train")).groupby("label").sample(300, random_state=0)
test = pd.read_csv(sample_data.table("test")).groupby("label").sample(150, random_state=0)
train_vectors, test_vectors = model.embed(train.sequence), model.embed(test.sequence)
train_vectors.shape, test_vectors.shape

# %%
places = PCA(2).fit_transform(StandardScaler().fit_transform(train_vectors))
figure, axes = plt.subplots(figsize=(5, 4))
for label in sorted(train.label.unique()):
    axes.scatter(*places[train.label == label].T, s=8, label=label)
axes.set(title="Windows of yeast, first two components", xlabel="component 1", ylabel="component 2")
_ = axes.legend(frameon=False)

# %% [markdown]
# ## A first classifier
#
# A logistic regression on the vectors, without training the model itself, is called a probe. Always compare it with
# something that knows nothing of neural networks; here, a logistic regression on counts of words of three bases. The
# test windows are of another species than the training windows.


# %%
def word_counts(sequences, length=3):
    words = ["".join(letters) for letters in itertools.product("ACGT", repeat=length)]
    return np.array([[sequence.count(word) for word in words] for sequence in sequences])


def score(train_features, test_features):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return matthews_corrcoef(test.label, classifier.fit(train_features, train.label).predict(test_features))


pd.Series(
    {
        "vectors of the model": score(train_vectors, test_vectors),
        "counts of words of three bases": score(word_counts(train.sequence), word_counts(test.sequence)),
    },
    name="MCC on another species",
).round(3).to_frame()

# %% [markdown]
# Take the comparison as it comes out. For a small model, counts are hard to beat on short windows, where composition
# says most of what there is to say; [the benchmarks](../benchmarks.md) have the numbers on many tasks. Vectors pay off
# with a larger model and with fine-tuning, which is [the next notebook](finetuning.py).
