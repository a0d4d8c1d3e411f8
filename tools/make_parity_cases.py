"""Write tests/parity_cases: the outputs of DNABERT-2 in PyTorch (multimolecule, float64) for the cases of tests/parity.py.

    PYTHONPATH=. PYTHON-WITH-TORCH tools/make_parity_cases.py

It uses the environment of tools/reference_model.py. Rerun it only when the cases change.
"""

import numpy as np
import torch
from reference_model import build, forward, gradients

from tests import parity


def make(heads: int) -> dict[str, np.ndarray]:
    """The arrays of one case."""
    config, weights = parity.settings(heads), parity.weights(parity.settings(heads), heads)
    masked_lm = build(config, parity.of_kind(weights, "masked_lm"), None)
    classifier = build(config, parity.of_kind(weights, "classifier"), len(parity.LABELS))
    arrays = {}
    for name, batch in parity.inputs(heads).items():
        with torch.no_grad():
            outputs = {
                **forward(classifier, batch["input_ids"], batch["attention_mask"]),
                **forward(masked_lm, batch["input_ids"], batch["attention_mask"]),
            }
        for output, tensor in outputs.items():
            array = tensor.float().numpy()
            if name == "long" and array.ndim == 3:
                array = array[:, list(parity.LONG_POSITIONS)]
            arrays[f"{name}/{output}"] = array
    rows = parity.inputs(heads)["rows"]
    logits = forward(masked_lm, rows["input_ids"], rows["attention_mask"])["mlm_logits"]
    labels = torch.from_numpy(rows["labels"]).long()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss.backward()
    arrays["loss"] = loss.detach().numpy()
    grads = gradients(masked_lm, list(parity.of_kind(weights, "masked_lm")))
    return arrays | {f"gradient/{name}": gradient for name, gradient in grads.items()}


def main() -> None:
    """Write every case."""
    parity.CASES.mkdir(exist_ok=True)
    for heads in (8, 12):
        file = parity.CASES / f"heads{heads}.npz"
        np.savez_compressed(file, **make(heads))
        print(f"saved {file}, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
