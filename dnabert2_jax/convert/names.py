"""The conversion table: every tensor of the original DNABERT-2 and its path in this project's parameter tree.

torch keeps the weight of a linear map as [out, in], this project as [in, out]; torch keeps each layer's tensors apart, this
project stacks them along a leading axis. Nothing else differs: no number is changed on the way. The MLM decoder is tied
to the word embeddings: it has no path of its own here, and a copy in the file must equal them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.model import ModelKind
from dnabert2_jax.artifacts.tensors import flatten_tree, unflatten_tree
from dnabert2_jax.config.model import EncoderConfig
from dnabert2_jax.convert.tensors import Tensors
from dnabert2_jax.errors import UserError
from dnabert2_jax.modeling.models import masked_lm, sequence_classifier
from dnabert2_jax.types import Tree


class Row(NamedTuple):
    """One tensor under both names.

    Attributes:
        theirs: the original's name; ``{n}`` is the number of the layer.
        ours: path in the parameter tree; a row with ``{n}`` is one slice of the stacked array.
        transposed: whether theirs is [out, in] and ours [in, out].
    """

    theirs: str
    ours: str
    transposed: bool = False


def _dense(theirs: str, ours: str, *, bias: bool = True) -> tuple[Row, ...]:
    kernel = Row(f"{theirs}.weight", f"{ours}.kernel", transposed=True)
    return (kernel, Row(f"{theirs}.bias", f"{ours}.bias")) if bias else (kernel,)


def _norm(theirs: str, ours: str) -> tuple[Row, ...]:
    return Row(f"{theirs}.weight", f"{ours}.scale"), Row(f"{theirs}.bias", f"{ours}.bias")


_LAYER, _HEAD = "bert.encoder.layer.{n}", "cls.predictions"

ENCODER = (
    Row("bert.embeddings.word_embeddings.weight", "encoder.embeddings.word"),
    Row("bert.embeddings.token_type_embeddings.weight", "encoder.embeddings.token_type"),
    *_norm("bert.embeddings.LayerNorm", "encoder.embeddings.norm"),
    *_dense(f"{_LAYER}.attention.self.Wqkv", "encoder.layers.Wqkv"),
    *_dense(f"{_LAYER}.attention.output.dense", "encoder.layers.out"),
    *_norm(f"{_LAYER}.attention.output.LayerNorm", "encoder.layers.attention_norm"),
    *_dense(f"{_LAYER}.mlp.gated_layers", "encoder.layers.gated_layers", bias=False),
    *_dense(f"{_LAYER}.mlp.wo", "encoder.layers.wo"),
    *_norm(f"{_LAYER}.mlp.layernorm", "encoder.layers.feed_forward_norm"),
)
MLM_HEAD = (
    *_dense(f"{_HEAD}.transform.dense", "mlm.dense"),
    *_norm(f"{_HEAD}.transform.LayerNorm", "mlm.norm"),
    Row(f"{_HEAD}.decoder.bias", "mlm.bias"),
)
CLASSIFIER = (*_dense("bert.pooler.dense", "pooler.dense"), *_dense("classifier", "classifier"))

TABLE: dict[ModelKind, tuple[Row, ...]] = {"masked_lm": ENCODER + MLM_HEAD, "classifier": ENCODER + CLASSIFIER}
"""The rows of each kind of model that the original has."""

WORD, DECODER = ENCODER[0].theirs, f"{_HEAD}.decoder.weight"

IGNORED = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids", "bert.encoder.alibi")
"""Buffers that some versions saved: positions, zeros, and the ALiBi bias, which follows from the number of heads."""

_WRAPPERS = ("module.", "model.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What DataParallel, Composer and Lightning, torch.compile and FSDP prepend to every name."""

_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_LAYER_NUMBER = re.compile(re.escape(_LAYER).replace(r"\{n\}", r"(\d+)") + r"\.")


def plain_names(names: Iterable[str], source: Path) -> dict[str, str]:
    """The original's names of tensors that training code may have saved with other prefixes.

    Args:
        names: as in the file.
        source: the file, for messages.

    Returns:
        The original's name to the one in the file; unrecognized tensors keep their names. Ignored buffers are left out.

    Raises:
        UserError: two tensors end up with the same name.
    """
    plain = {name: name for name in names}
    for _ in _WRAPPERS:  # they come in any order, one around the other
        common = next((wrapper for wrapper in _WRAPPERS if all(name.startswith(wrapper) for name in plain)), "")
        plain = {name.removeprefix(common): given for name, given in plain.items()}
    found: dict[str, str] = {}
    for name, given in plain.items():
        full = re.sub(r"^(bert\.)*(?=(embeddings|encoder|pooler)\.)", "bert.", name)
        if full in found:
            raise UserError(f"{source}: tensors {found[full]} and {given} both mean {full}; keep one of them")
        found[full] = given
    return {name: given for name, given in found.items() if name not in IGNORED}


def kind_of(names: Iterable[str], source: Path) -> ModelKind:
    """Which model the tensors belong to, by its head.

    Raises:
        UserError: there is neither of the two heads.
    """
    names = list(names)
    if any(name.startswith("classifier.") for name in names):
        return "classifier"
    if any(name.startswith(f"{_HEAD}.") for name in names):
        return "masked_lm"
    advice = _advice(names) or (
        "an encoder alone is not a complete model: save it as BertForMaskedLM or BertForSequenceClassification"
    )
    raise UserError(f"{source}: holds neither the tensors of an MLM head (cls.predictions.*) nor classifier.*; {advice}")


def our_shapes(config: EncoderConfig, kind: ModelKind, num_labels: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its path."""
    network = masked_lm(config) if kind == "masked_lm" else sequence_classifier(config, num_labels)
    leaves = jax.tree_util.tree_leaves_with_path(network.abstract())
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def from_theirs(tensors: Tensors, config: EncoderConfig, kind: ModelKind, num_labels: int, source: Path) -> Tree:
    """The parameter tree of the original's tensors, read one at a time into float32 arrays.

    Args:
        tensors: the file's; float16 and bfloat16 become float32, which holds them exactly.
        config: sizes of the encoder.
        kind: ``masked_lm`` or ``classifier``.
        num_labels: classes of a classifier.
        source: the file, for messages.

    Raises:
        UserError: a tensor is missing, unknown, of another shape or type, or holds NaN or infinity; the message lists all
            of them.
    """
    given = plain_names(tensors.shapes, source)
    layers = len({match[1] for name in given if (match := _LAYER_NUMBER.match(name))})
    if layers != config.num_hidden_layers:
        raise UserError(
            f"{source}: holds {layers} layers, but config.json has num_hidden_layers {config.num_hidden_layers}; weights "
            f"and configuration belong to different models{_hint(given)}"
        )
    shapes = our_shapes(config, kind, num_labels)
    expected = their_shapes(TABLE[kind], shapes, layers)
    optional = {DECODER: expected[WORD]} if kind == "masked_lm" else {}
    wanted = expected | {name: shape for name, shape in optional.items() if name in given}
    problems = differences(wanted, {name: tensors.shapes[stored] for name, stored in given.items()})
    if problems:
        raise UserError(
            f"{source}: not the tensors of a {kind} of the sizes in config.json: {'; '.join(problems)}{_hint(given)}"
        )

    flat, problems = read_rows(TABLE[kind], shapes, layers, lambda name: tensors.read(given[name]))
    if DECODER in given and not problems and not np.array_equal(tensors.read(given[DECODER]), flat[ENCODER[0].ours]):
        problems.append(f"{DECODER} differs from {WORD}, to which DNABERT-2 ties it")
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}; go back to an intact checkpoint")
    return unflatten_tree(flat)


def differences(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with the names and shapes of some tensors, in words."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    problems += [
        f"{name} has the shape {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    return problems


def to_theirs(params: Tree, kind: ModelKind) -> dict[str, NDArray[Any]]:
    """The original's tensors of a parameter tree (or of gradients): contiguous arrays by name, the tied decoder once."""
    return write_rows(TABLE[kind], flatten_tree(params))


def read_rows(
    rows: Iterable[Row], shapes: Mapping[str, tuple[int, ...]], layers: int, read: Callable[[str], NDArray[Any]]
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Our arrays of some rows, and what is wrong with the values of theirs, in words.

    Args:
        rows: the rows.
        shapes: shapes of our arrays, by path.
        layers: N.
        read: reads a tensor by their name; its shape has been checked.
    """
    flat: dict[str, NDArray[np.float32]] = {}
    problems = []
    for row in rows:
        flat[row.ours] = np.empty(shapes[row.ours], np.float32)
        targets = flat[row.ours] if "{n}" in row.theirs else flat[row.ours][None]
        for name, target in zip(_their_names(row, layers), targets, strict=True):
            tensor = read(name)
            if tensor.dtype not in _DTYPES:
                problems.append(f"{name} is {tensor.dtype}, accepted are {', '.join(map(str, _DTYPES))}")
                continue
            target[...] = tensor.T if row.transposed else tensor
            if bad := target.size - np.count_nonzero(np.isfinite(target)):
                problems.append(f"{name} holds {bad} values of {target.size} that are NaN or infinite")
    return flat, problems


def write_rows(rows: Iterable[Row], flat: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Their tensors of some rows, contiguous, by name; the inverse of :func:`read_rows`."""
    theirs: dict[str, NDArray[Any]] = {}
    for row in rows:
        ours = flat[row.ours]
        slices = ours if "{n}" in row.theirs else ours[None]
        for name, tensor in zip(_their_names(row, len(slices)), slices, strict=True):
            theirs[name] = np.ascontiguousarray(tensor.T if row.transposed else tensor)
    return theirs


def _their_names(row: Row, layers: int) -> list[str]:
    return [row.theirs.format(n=n) for n in range(layers)] if "{n}" in row.theirs else [row.theirs]


def their_shapes(rows: Iterable[Row], ours: Mapping[str, tuple[int, ...]], layers: int) -> dict[str, tuple[int, ...]]:
    """Shape of each of their tensors by name, from the shapes of our arrays by path."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        one = ours[row.ours][1:] if "{n}" in row.theirs else ours[row.ours]
        shapes |= dict.fromkeys(_their_names(row, layers), one[::-1] if row.transposed else one)
    return shapes


def _hint(names: Iterable[str]) -> str:
    return f"; {advice}" if (advice := _advice(names)) else ""


def _advice(names: Iterable[str]) -> str | None:
    """What to do about names that other programs write; None if they are not known."""
    names = list(names)
    if any(".lora_" in name for name in names):
        return (
            "this holds a LoRA adapter: save it with PEFT's save_pretrained, and read it with `dnabert2 convert from-peft`"
        )
    if any(".self.query." in name for name in names):
        return (
            "separate query, key and value are the layout of BERT or multimolecule: save the model with the original's code"
        )
    stem = next((name for name in names if name.endswith("embeddings.word_embeddings.weight")), WORD)
    if stem != WORD:
        return (
            f"remove the prefix {stem.removesuffix(WORD).removesuffix('embeddings.word_embeddings.weight')!r} from the names"
        )
    return None
