"""The best parameters of a fine-tuning run on disk: a model directory, or an adapter directory and its merged model."""

from typing import Any

import jax

from dnabert2_jax.artifacts.adapter import SavedAdapter, load_adapter, save_adapter
from dnabert2_jax.artifacts.model import SavedModel, load_model, save_model
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.modeling.lora import merge_adapter
from dnabert2_jax.recipes.finetuning_task import Task
from dnabert2_jax.types import Tree


class Keeper:
    """Writes and reads the parameters that a run keeps.

    Args:
        task: the run.
        frozen: parameters that do not learn, by top-level name: the base's encoder under an adapter or a probe.
    """

    def __init__(self, task: Task, frozen: Tree) -> None:
        self._task, self._frozen = task, frozen
        self.adapter_path = task.directory.path / "adapter" if task.lora else None

    def save(self, trainable: Tree, metrics: dict[str, Any]) -> None:
        """Keep these parameters instead of the ones before."""
        task = self._task
        params, provenance = jax.device_get(trainable), task.provenance(metrics)
        if task.lora and task.base and self.adapter_path:
            adapter = SavedAdapter(
                base=task.base,
                params=params,
                lora=task.lora,
                labels=task.labels.names,
                head=task.head,
                provenance=provenance,
            )
            save_adapter(self.adapter_path, adapter)
        else:
            self._save_model({**params, **jax.device_get(self._frozen)}, provenance)

    def load(self) -> tuple[Tree, dict[str, Any]]:
        """The parameters that were kept, whole, and the metrics they were kept for."""
        if self.adapter_path:
            adapter = load_adapter(self.adapter_path, self._task.base)
            return {**adapter.params, **self._frozen}, adapter.provenance["metrics"]
        model = load_model(self._task.directory.model)
        return model.params, model.provenance["metrics"]

    def finish(self, test: Scores) -> None:
        """Write the model with its test scores; an adapter is merged into its base."""
        if self.adapter_path and self._task.lora:
            adapter = load_adapter(self.adapter_path, self._task.base)
            params = {name: part for name, part in adapter.params.items() if name != "adapter"}
            matrices = jax.device_put(adapter.params["adapter"])
            params["encoder"] = jax.device_get(merge_adapter(self._frozen["encoder"], matrices, self._task.lora))
            provenance = adapter.provenance
        else:
            model = load_model(self._task.directory.model)
            params, provenance = model.params, model.provenance
        self._save_model(params, {**provenance, "metrics": {**provenance["metrics"], "test": test}})

    def _save_model(self, params: Tree, provenance: dict[str, Any]) -> None:
        task = self._task
        model = SavedModel(
            kind="classifier",
            config=task.config,
            params=params,
            tokenizer=task.tokenizer,
            labels=task.labels.names,
            head=task.head,
            provenance=provenance,
        )
        save_model(task.directory.model, model)
