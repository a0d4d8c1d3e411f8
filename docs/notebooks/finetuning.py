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
# # Fine-tuning on a table of your own
#
# One table with a column of sequences and a column of labels becomes a classifier with scores that can be trusted. It
# takes about a minute on two cores.

# %%
import os
import tempfile
from pathlib import Path

import pandas as pd

from dnabert2_jax import DNABERT2, FinetuneRun, finetune, load_run, sample_data

os.chdir(tempfile.mkdtemp())  # for the files of this notebook

# %% [markdown]
# ## The table
#
# Yours may come from a spreadsheet: other names of columns, `;` between them, and more columns than are needed are all
# fine. This one is made of the sample data, and written as a spreadsheet with German settings would write it.

# %%
parts = [pd.read_csv(sample_data.table(split)) for split in ("train", "dev")]
table = (
    pd.concat(parts).groupby("label").sample(400, random_state=0).rename(columns={"sequence": "Sequence", "label": "Label"})
)
table["Comment"] = "from chromosome I"
table.to_csv("windows.csv", sep=";", index=False, encoding="utf-8-sig")
table.head(3)

# %% [markdown]
# ## Three tables
#
# One to learn from, one to choose the best moment by, one for the score. Near copies in different tables would make
# every score look better than it is, and neighboring windows of this table overlap, so the table is split by
# similarity.

# %% language="bash"
# dnabert2 split windows.csv --out tables --by similarity --seed 1

# %% [markdown]
# ## The run
#
# The same keys as in a TOML file of `configs/`; everything else has its default. `small` is the pretrained model of the
# package. It learns at a higher rate than the 117M, for which the published 3e-5 is right.

# %%
run = load_run(
    FinetuneRun,
    None,
    [
        "model.path=small",
        *(f"data.{split}=tables/{split}.csv" for split in ("train", "dev", "test")),
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup_steps=0.1",
        "training.epochs=3",
        "training.padded_lengths=1",  # these rows are about equally long: one program to compile instead of up to three
    ],
)
result = finetune(run, "run")

# %% [markdown]
# A run that is stopped or killed resumes when the same line is run again. Its directory has the model, the settings,
# the scores, and a report: one HTML page with the curves and warnings.

# %%
low, high = result.intervals["scores"]["mcc"]
print(f"test MCC {result.test['mcc']:.3f} ({low:.3f} to {high:.3f}), accuracy {result.test['accuracy']:.3f}")
print(*sorted(path.name for path in Path("run").iterdir()))

# %% [markdown]
# The test table here has about a hundred rows, and the interval says how little that is. The report also has the score
# of a logistic regression on k-mer counts on the same rows: a model that does not beat it has learned composition and
# nothing else.
#
# ## Using it

# %%
model = DNABERT2.load(result.model)
new = pd.read_csv(sample_data.table("test")).sample(8, random_state=0)
predictions = model.predict(new.sequence)
predictions.to_pandas().assign(truth=new.label.to_numpy())

# %% [markdown]
# `dnabert2 predict --model RUN/model --data windows.xlsx --out predictions.csv` does the same for files, and `dnabert2
# evaluate` scores any other labeled table. More in the [guide to fine-tuning](../guides/finetuning.md): LoRA, several
# labels per row, measurements, long sequences.
