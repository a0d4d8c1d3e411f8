"""Cases for the comparison with PyTorch: weights under the original's names, and inputs, as pure functions of a seed.

Nothing is stored but what PyTorch made of them: ``tools/make_parity_cases.py`` writes that to ``tests/parity_cases``. Only
numpy is needed here, because that script runs where torch is and jax is not.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.draws import hash64, uniform

CASES = Path(__file__).parent / "parity_cases"
LABELS = ("first", "second", "third")
LONG_POSITIONS = (0, 1, 7, 99, 350, 511, 512, 698, 699)
"""Tokens of the long row whose outputs are kept."""

_VOCABULARY, _SPECIAL, _CLS, _SEP, _PAD = 64, 5, 1, 2, 3
_WIDTHS = {8: (32, 48), 12: (48, 32)}


def settings(heads: int) -> dict[str, Any]:
    """The ``config.json`` of a case; 12 heads have slopes that are no powers of two."""
    hidden, inner = _WIDTHS[heads]
    return {
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": _PAD,
    }


def weights(config: dict[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Every tensor of both models; the numbers are the same on every machine, bit for bit."""
    return {name: _draw(name, shape, hash64(seed, number)) for number, (name, shape) in enumerate(_shapes(config).items())}


def of_kind(tensors: dict[str, NDArray[np.float32]], kind: str) -> dict[str, NDArray[np.float32]]:
    """Those of the masked language model, or of the classifier."""
    others = ("bert.pooler.", "classifier.") if kind == "masked_lm" else ("cls.",)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(others)}


def inputs(heads: int) -> dict[str, dict[str, NDArray[np.int32]]]:
    """Ids and masks of each batch: rows of 20, 13 and 1 tokens, with labels for the MLM, and one row of 700 by itself."""
    batches = {"rows": _batch((20, 13, 1), heads)}
    labels = np.full(batches["rows"]["input_ids"].shape, -100, np.int32)
    labels[0, [2, 5, 11]], labels[1, [1, 12]] = (17, 0, 63), (0, 40)  # 0, the id of [UNK], is a label like any other
    batches["rows"]["labels"] = labels
    return batches if heads == 8 else batches | {"long": _batch((700,), heads)}


def _batch(lengths: tuple[int, ...], seed: int) -> dict[str, NDArray[np.int32]]:
    ids = np.full((len(lengths), max(lengths)), _PAD, np.int32)
    for row, length in enumerate(lengths):
        tokens = _SPECIAL + uniform(seed, length, np.arange(length)) * (_VOCABULARY - _SPECIAL)
        tokens[-1], tokens[0] = _SEP, _CLS
        ids[row, :length] = tokens
    return {"input_ids": ids, "attention_mask": (ids != _PAD).astype(np.int32)}


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (v, d),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        "bert.embeddings.LayerNorm.weight": (d,),
        "bert.embeddings.LayerNorm.bias": (d,),
    }
    for n in range(config["num_hidden_layers"]):
        layer = {
            "attention.self.Wqkv.weight": (3 * d, d),
            "attention.self.Wqkv.bias": (3 * d,),
            "attention.output.dense.weight": (d, d),
            "attention.output.dense.bias": (d,),
            "attention.output.LayerNorm.weight": (d,),
            "attention.output.LayerNorm.bias": (d,),
            "mlp.gated_layers.weight": (2 * f, d),
            "mlp.wo.weight": (d, f),
            "mlp.wo.bias": (d,),
            "mlp.layernorm.weight": (d,),
            "mlp.layernorm.bias": (d,),
        }
        shapes |= {f"bert.encoder.layer.{n}.{name}": shape for name, shape in layer.items()}
    return shapes | {
        "cls.predictions.transform.dense.weight": (d, d),
        "cls.predictions.transform.dense.bias": (d,),
        "cls.predictions.transform.LayerNorm.weight": (d,),
        "cls.predictions.transform.LayerNorm.bias": (d,),
        "cls.predictions.decoder.bias": (v,),
        "bert.pooler.dense.weight": (d, d),
        "bert.pooler.dense.bias": (d,),
        "classifier.weight": (len(LABELS), d),
        "classifier.bias": (len(LABELS),),
    }


def _draw(name: str, shape: tuple[int, ...], key: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Uniform numbers large enough that attention is sharp and no layer is near the identity."""
    numbers = 2 * uniform(int(key[0]), np.arange(np.prod(shape))) - 1
    if len(shape) == 1:
        numbers = numbers / 4 + (name.lower().endswith("layernorm.weight"))
    else:
        numbers /= 2 if "Wqkv" in name or "embeddings" in name else 4
    return numbers.reshape(shape).astype(np.float32)
