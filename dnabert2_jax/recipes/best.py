"""The best evaluation so far, in memory and on disk."""

import math
from pathlib import Path
from typing import Any

import jax

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter, save_adapter
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.recipes.finetuning_job import FinetuningJob
from dnabert2_jax.types import Tree


class Best:
    """The best evaluation of a fine-tuning run so far.

    A run writes the model directory when an evaluation is better than all before it (or the adapter directory; its merged
    model is written at the end), and reads it only when it resumes.

    Args:
        job: the run.
        frozen: parameters that are not trained, by top-level name: the base's encoder under an adapter or a probe.

    Attributes:
        score: its selection score (higher is better); minus infinity before the first evaluation.
        step: its step.
        waited: evaluations since then.
        trainable: its trained parameters, on the host.
        metrics: its scores and its step, as the model's provenance has them.
    """

    def __init__(self, job: FinetuningJob, frozen: Tree) -> None:
        self._job, self._frozen = job, frozen
        self.adapter_path = job.directory.path / "adapter" if job.lora else None
        self.score, self.step, self.waited = -math.inf, 0, 0
        self.trainable: Tree = {}
        self._provenance: dict[str, Any] = {}

    @property
    def metrics(self) -> dict[str, Any]:
        """What the provenance says of it: ``dev``, the scores on the dev table, ``step``, and more for a probe."""
        metrics: dict[str, Any] = self._provenance["metrics"]
        return metrics

    def consider(self, step: int, scores: Scores, trainable: Tree, **about: float) -> None:
        """Keep an evaluation if it is better than all before it.

        Args:
            step: its step.
            scores: on the dev table.
            trainable: the trained parameters, on the devices or the host.
            about: further values for the provenance.
        """
        chosen = scores[self._job.selection]
        score = math.nan if chosen is None else float(chosen)
        if self._job.selection == "loss":
            score = -score
        if not score > self.score:  # nor if it is not a number
            self.waited += 1
            return
        self.score, self.step, self.waited = score, step, 0
        self.trainable = jax.device_get(trainable)
        self._provenance = self._job.provenance({"dev": scores, "step": step, **about})
        if self.adapter_path:
            self._save_adapter(self.adapter_path)
        else:
            self._save_model(self._parameters(), self._provenance)

    def resume(self, score: float | None, step: int, waited: int) -> None:
        """Continue from what a checkpoint noted, with the parameters that were written.

        Raises:
            UserError: they are missing or damaged.
        """
        if score is None:  # the run was stopped before its first evaluation
            return
        self.score, self.step, self.waited = score, step, waited
        if self.adapter_path:
            adapter = load_adapter(self.adapter_path, self._job.base)
            self.trainable, self._provenance = adapter.params, adapter.provenance
        else:
            model = load_model(self._job.directory.model)
            self.trainable, self._provenance = model.params, model.provenance

    def notes(self) -> dict[str, float | None]:
        """What a checkpoint notes for :meth:`resume`."""
        return {"score": self.score if self.step else None, "step": self.step, "waited": self.waited}

    def finish(self, test: Scores) -> None:
        """Write the model with its test scores; an adapter is merged into its base."""
        params = self._parameters()
        if self._job.lora:
            matrices = jax.device_put(params.pop("adapter"))
            params["encoder"] = jax.device_get(merge_adapter(self._frozen["encoder"], matrices, self._job.lora))
        self._save_model(params, {**self._provenance, "metrics": {**self.metrics, "test": test}})

    def _parameters(self) -> Tree:
        return {**self.trainable, **jax.device_get(self._frozen)}

    def _save_adapter(self, path: Path) -> None:
        job = self._job
        assert job.base is not None
        assert job.lora is not None
        adapter = SavedAdapter(
            base=job.base,
            params=self.trainable,
            lora=job.lora,
            labels=job.labels.names,
            head=job.head,
            provenance=self._provenance,
        )
        save_adapter(path, adapter)

    def _save_model(self, params: Tree, provenance: dict[str, Any]) -> None:
        job = self._job
        model = SavedModel(
            kind=job.kind,
            config=job.config,
            params=params,
            tokenizer=job.tokenizer,
            labels=job.labels.names,
            head=job.head,
            provenance=provenance,
        )
        save_model(job.directory.model, model)
