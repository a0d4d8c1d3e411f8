"""DNABERT-2 in PyTorch from multimolecule, an independent implementation that the tests compare with.

    python tools/reference_model.py DIRECTORY INPUTS.npz OUTPUTS.npz

reads a directory written by `dnabert2 convert to-hf` and the arrays input_ids and attention_mask, and writes the hidden
states and the logits of its head. Runs in its own virtual environment, with `pip install multimolecule==0.2.2 safetensors`;
it supports only token type 0. multimolecule is licensed under the AGPL: it is a test tool and not part of this package.
"""

import argparse
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from multimolecule.models.dnabert2 import DnaBert2Config, DnaBert2ForMaskedLM, DnaBert2ForSequencePrediction

_NAMES = (
    (r"^bert\.", "model."),
    (r"^cls\.predictions\.", "lm_head."),
    (r"^classifier\.", "sequence_head.decoder."),
    (r"\.(LayerNorm|layernorm)\.", ".layer_norm."),
    (r"\.mlp\.gated_layers\.", ".mlp.up_proj."),
    (r"\.mlp\.wo\.", ".mlp.down_proj."),
)


def build(config: dict[str, Any], weights: dict[str, NDArray[Any]], num_labels: int | None) -> torch.nn.Module:
    """The model in float64 and in evaluation mode; a classifier if ``num_labels`` is given. All tensors must match."""
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    settings = DnaBert2Config(
        **{key: config[key] for key in (*same, "type_vocab_size", "layer_norm_eps", "pad_token_id")},
        hidden_dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        num_labels=num_labels or 1,
    )
    model = DnaBert2ForMaskedLM(settings) if num_labels is None else DnaBert2ForSequencePrediction(settings)
    state = to_reference(weights)
    if num_labels is None:  # multimolecule also lists its tied tensors
        state["lm_head.decoder.weight"] = state["model.embeddings.word_embeddings.weight"]
        state["lm_head.bias"] = state["lm_head.decoder.bias"]
    model.load_state_dict(state, strict=True)
    return model.double().eval()


def to_reference(weights: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The original's tensors under multimolecule's names, with separate query, key and value."""
    state = {}
    for name, value in weights.items():
        renamed = name
        for pattern, replacement in _NAMES:
            renamed = re.sub(pattern, replacement, renamed)
        tensor = torch.from_numpy(np.array(value))
        if ".Wqkv." in renamed:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[renamed.replace("Wqkv", part)] = third
        else:
            state[renamed] = tensor
    return state


def gradients(model: torch.nn.Module, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """Gradients under the original's names, after a backward pass."""
    grads = {name: parameter.grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    parts = {name: list(to_reference({name: np.zeros(3)})) for name in names}
    return {name: torch.cat([grads[part] for part in parts[name]]).float().numpy() for name in names}


def forward(model: torch.nn.Module, input_ids: NDArray[Any], attention_mask: NDArray[Any]) -> dict[str, torch.Tensor]:
    """Hidden states and the outputs of the heads."""
    batch = {"input_ids": torch.from_numpy(input_ids).long(), "attention_mask": torch.from_numpy(attention_mask).long()}
    outputs = model.model(**batch)
    found = {"hidden": outputs.last_hidden_state}
    logits = model(**batch).logits
    if isinstance(model, DnaBert2ForMaskedLM):
        return found | {"mlm_logits": logits}
    return found | {"pooled": outputs.pooler_output, "class_logits": logits}


def main() -> None:
    """Run the model in a directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    args = parser.parse_args()
    config = json.loads((args.directory / "config.json").read_text())
    labels = len(config["id2label"]) if "id2label" in config else None
    model = build(config, load_file(args.directory / "model.safetensors"), labels)
    inputs = np.load(args.inputs)
    with torch.no_grad():
        found = forward(model, inputs["input_ids"], inputs["attention_mask"])
    np.savez(args.outputs, **{name: tensor.float().numpy() for name, tensor in found.items()})


if __name__ == "__main__":
    main()
