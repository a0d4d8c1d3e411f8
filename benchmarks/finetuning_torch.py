"""The PyTorch side of benchmarks/finetuning.py: multimolecule's DnaBert2 with torch's AdamW on padded batches.

Runs under an interpreter with torch and multimolecule, on a GPU if torch has one. It reads the batches from an npz file and
takes one optimizer step on each for every line on standard input, answering with the seconds taken, so that the programs can
alternate.
"""

import json
import sys
import time

import numpy as np
import torch
from multimolecule.models.dnabert2 import DnaBert2Config, DnaBert2ForSequencePrediction

PAD = 3


def main() -> None:
    file, sizes, precision = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(file) as stored:
        steps = len(stored.files) // 2
        batches = [
            tuple(torch.from_numpy(stored[f"{name}_{n}"]).long().to(device) for name in ("ids", "labels"))
            for n in range(steps)
        ]
    classes = 1 + max(int(labels.max()) for _, labels in batches)
    model = DnaBert2ForSequencePrediction(DnaBert2Config(**sizes, pad_token_id=PAD, num_labels=max(2, classes)))
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5, weight_decay=0.01)

    def step(ids: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(input_ids=ids, attention_mask=ids != PAD).logits
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in sys.stdin:
        start = time.perf_counter()
        for ids, labels in batches:
            step(ids, labels)
        if device == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
