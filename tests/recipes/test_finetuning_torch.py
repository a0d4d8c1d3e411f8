"""Training beside PyTorch: the same weights, batches and settings must give the same losses, step for step."""

import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnabert2_jax.artifacts.model import SavedModel
from dnabert2_jax.config.model import LoraConfig
from dnabert2_jax.config.sections import OptimizerConfig
from dnabert2_jax.convert.hugging_face import save_hugging_face
from dnabert2_jax.modeling.lora import init_adapter
from dnabert2_jax.modeling.models import sequence_classifier
from dnabert2_jax.training.objectives import classification_loss
from dnabert2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from dnabert2_jax.training.step import init_state, make_train_step
from tests.helpers import classification_batch, one_device, tiny_config, tiny_tokenizer

STEPS, DIFFERENT_BATCHES = 50, 5
TOOL = Path(__file__).parents[2] / "tools" / "reference_finetuning.py"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_losses_of_fifty_steps_are_those_of_pytorch(tmp_path, torch_python, method):
    """12 heads, weights large enough that the first losses are far from log 2, and a gradient that gets clipped."""
    config = tiny_config(hidden_size=48, num_attention_heads=12, initializer_range=0.2, hidden_dropout_prob=0.0)
    network = sequence_classifier(config, 2)
    params = network.init(0)
    saved = SavedModel(
        kind="classifier", config=config, params=jax.device_get(params), tokenizer=tiny_tokenizer(), labels=("no", "yes")
    )
    save_hugging_face(tmp_path / "hf", saved)

    settings = OptimizerConfig(learning_rate=1e-3, warmup_steps=5, weight_decay=0.01, beta2=0.999, epsilon=1e-8)
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0) if method == "lora" else None
    batches = [classification_batch([16, 12, 16, 7, 16, 9, 11, 5], seed=n) for n in range(DIFFERENT_BATCHES)]
    order = [batches[step % DIFFERENT_BATCHES] for step in range(STEPS)]
    schedule = learning_rate_schedule(settings, STEPS)
    arrays = {
        "input_ids": np.stack([batch.tokens.input_ids for batch in order]),
        "attention_mask": np.stack([batch.tokens.segment_ids for batch in order]),
        "labels": np.stack([batch.labels for batch in order]),
        "learning_rates": np.array([float(schedule(step)) for step in range(STEPS)]),
        "settings": np.array([settings.weight_decay, settings.beta1, settings.beta2, settings.epsilon, settings.clip_norm]),
    }
    trainable, frozen = params, {}
    if lora:
        # B is not zero: the products matter from the first step.
        adapter = init_adapter(config, lora, 1)
        adapter = {t: {"A": m["A"], "B": m["B"] + 0.1 * m["A"].mean() + 0.05} for t, m in adapter.items()}
        trainable = {"adapter": adapter, "pooler": params["pooler"], "classifier": params["classifier"]}
        frozen = {"encoder": params["encoder"]}
        arrays["lora_scale"] = np.array(lora.scale)
        arrays |= {f"lora.{t}.{name}": np.asarray(m) for t, pair in adapter.items() for name, m in pair.items()}
    np.savez(tmp_path / "inputs.npz", **arrays)
    command = [torch_python, TOOL, tmp_path / "hf", tmp_path / "inputs.npz", tmp_path / "losses.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr

    with jax.numpy_dtype_promotion("standard"):
        optimizer = make_optimizer(settings, STEPS)
        layout = one_device(trainable)
        step = make_train_step(classification_loss(network, lora), optimizer, layout)
        state = init_state(jax.tree.map(jnp.array, trainable), optimizer, layout)
        losses = []
        for batch in order:
            state, metrics = step(state, frozen, batch)
            losses.append(float(metrics.sums.loss / metrics.sums.weight))
    theirs = np.load(tmp_path / "losses.npy")
    difference = np.abs(np.array(losses) - theirs).max()
    print(f"{method}: loss {theirs[0]:.4f} to {theirs[-1]:.4f}, largest difference {difference:.1e}")
    assert theirs[-1] < 0.5 * theirs[0]  # it learned: the comparison is of a path, not of a standstill
    assert difference < 1e-3
