"""Fine-tuning in PyTorch: multimolecule's DnaBert2, PEFT's LoRA and torch's AdamW, for comparisons with this package.

    python tools/reference_finetuning.py DIRECTORY INPUTS.npz LOSSES.npy

reads a classifier written by `dnabert2 convert to-hf`, and arrays: input_ids, attention_mask [steps, B, T], labels
[steps, B], learning_rates [steps], settings (weight_decay, beta1, beta2, epsilon, clip_norm), and for an adapter lora_scale,
lora.TARGET.A [N, in, r] and lora.TARGET.B [N, r, out]. It writes the loss of every step in float32, without dropout.

The original has a single projection for query, key and value, and its adapter a single A for all three. multimolecule has
three projections: their adapters share one A module here, so that both are the same function with the same gradients.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from reference_model import build
from safetensors.numpy import load_file

_TARGETS = {
    "Wqkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "gated_layers": ("mlp.up_proj",),
    "wo": ("mlp.down_proj",),
}


def add_adapter(model: torch.nn.Module, inputs: Any) -> torch.nn.Module:
    """The model under PEFT with the given matrices; these and the heads are trainable."""
    targets = sorted({name.split(".")[1] for name in inputs if name.startswith("lora.")})
    rank = inputs[f"lora.{targets[0]}.A"].shape[-1]
    modules = [module for target in targets for module in _TARGETS[target]]
    pattern = rf".*\.layer\.\d+\.({'|'.join(modules)})"
    alpha = float(inputs["lora_scale"]) * rank
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=pattern, bias="none")
    wrapped = peft.get_peft_model(model, config)
    for target in targets:
        matrices = zip(inputs[f"lora.{target}.A"], inputs[f"lora.{target}.B"], strict=True)
        for n, (a, b) in enumerate(matrices):
            parts = [model.get_submodule(f"model.encoder.layer.{n}.{name}") for name in _TARGETS[target]]
            for part, columns in zip(parts, np.split(b, len(parts), axis=1), strict=True):
                part.lora_A = parts[0].lora_A
                part.lora_B["default"].weight.data = torch.from_numpy(np.ascontiguousarray(columns.T))
            parts[0].lora_A["default"].weight.data = torch.from_numpy(np.ascontiguousarray(a.T))
    for head in (model.model.pooler, model.sequence_head):
        head.requires_grad_(True)
    return wrapped


def optimizer_of(model: torch.nn.Module, settings: dict[str, float]) -> torch.optim.AdamW:
    """AdamW as in the Hugging Face trainer: no weight decay on biases and LayerNorm."""
    learn = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    plain = [p for name, p in learn.items() if name.endswith("bias") or "layer_norm" in name]
    decayed = [p for name, p in learn.items() if not (name.endswith("bias") or "layer_norm" in name)]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    betas = (settings["beta1"], settings["beta2"])
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=settings["epsilon"])


def main() -> None:
    """Train the model in a directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("losses", type=Path)
    args = parser.parse_args()
    config = json.loads((args.directory / "config.json").read_text())
    model = build(config, load_file(args.directory / "model.safetensors"), len(config["id2label"])).float()
    inputs = dict(np.load(args.inputs))
    settings = dict(
        zip(("weight_decay", "beta1", "beta2", "epsilon", "clip_norm"), inputs["settings"].tolist(), strict=True)
    )
    called = add_adapter(model, inputs) if "lora_scale" in inputs else model
    optimizer = optimizer_of(model, settings)
    losses = []
    for step, rate in enumerate(inputs["learning_rates"].tolist()):
        ids, mask, labels = (
            torch.from_numpy(inputs[name][step]).long() for name in ("input_ids", "attention_mask", "labels")
        )
        loss = torch.nn.functional.cross_entropy(called(input_ids=ids, attention_mask=mask).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], settings["clip_norm"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    np.save(args.losses, np.array(losses))


if __name__ == "__main__":
    main()
