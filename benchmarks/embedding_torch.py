"""The PyTorch side of benchmarks/embedding.py: multimolecule's DnaBert2 on batches padded in file order.

Runs under an interpreter with torch and multimolecule. It reads the batches from an npz file and embeds all of them once for
every line on standard input, answering with the seconds taken, so that the two programs can alternate.
"""

import json
import sys
import time

import numpy as np
import torch
from multimolecule import DnaBert2Config, DnaBert2Model

PAD, LAST_SPECIAL = 3, 4


def trimmed(ids: torch.Tensor) -> torch.Tensor:
    """Drop empty rows and columns that are padding in every row: PyTorch needs no shared shapes."""
    lengths = (ids != PAD).sum(1)
    return ids[lengths > 0, : lengths.max()]


def main() -> None:
    batches_file, sizes = sys.argv[1], json.loads(sys.argv[2])
    config = DnaBert2Config(**sizes)
    torch.manual_seed(0)
    model = DnaBert2Model(config, add_pooling_layer=False).eval()
    with np.load(batches_file) as stored:
        batches = [trimmed(torch.from_numpy(stored[name]).long()) for name in stored.files]

    @torch.inference_mode()
    def embed(ids: torch.Tensor) -> np.ndarray:
        mask = ids != PAD
        hidden = model(ids, attention_mask=mask).last_hidden_state
        own = (ids == 0) | (ids > LAST_SPECIAL)  # [UNK] and pieces
        return ((hidden * own[..., None]).sum(1) / own.sum(1, keepdim=True)).numpy()

    for _ in sys.stdin:
        start = time.perf_counter()
        for batch in batches:
            embed(batch)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
