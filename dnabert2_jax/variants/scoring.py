"""Scores of alleles: the model's inputs for each, run in batches, and what is made of the outputs."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np
from numpy.typing import NDArray

from dnabert2_jax.artifacts.model import ModelKind
from dnabert2_jax.config.inference import Strands, VariantScore
from dnabert2_jax.data.batches import Batches, EncodedBatch
from dnabert2_jax.data.encoding import EncodedRows
from dnabert2_jax.data.packing import one_per_row
from dnabert2_jax.data.sequences import Sequences
from dnabert2_jax.errors import UserError, nearest
from dnabert2_jax.genome.letters import LetterCounts
from dnabert2_jax.inference.masked_rows import log_probabilities_at_masks
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.predictor import default_batch_tokens, run_batches
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import MASK, UNK, with_template
from dnabert2_jax.variants.alleles import Allele, Genome, Status, View, Window, place, view
from dnabert2_jax.variants.fields import AlleleScores, Field, fields_of
from dnabert2_jax.variants.llr import DnaPieces
from dnabert2_jax.variants.span_probabilities import span_log_probabilities
from dnabert2_jax.variants.spans import Ids, Span, find_span
from dnabert2_jax.variants.splice import SpliceLabels, splice_scores

EMBEDDED_BASES = 64
"""Bases on either side of a variant whose states are averaged."""

_MOST_THREADS = 8
_SMALLEST_P = 2.0**-24
"""A float32 probability says nothing about what is nearer than this to 0 or 1."""


@dataclass(frozen=True)
class ScoringOptions:
    """How to score.

    Attributes:
        scores: which; empty for those that suit the model.
        flank: bases of the window on either side of the variant.
        strands: ``both`` or ``+``.
        max_span: longest span between shared tokens that is scored, in bases.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        splice: the labels of splice sites, whose changes are told; then ``scores`` are only those that are named.
    """

    scores: tuple[VariantScore, ...] = ()
    flank: int = 256
    strands: Strands = "both"
    max_span: int = 64
    batch_tokens: int | None = None
    splice: SpliceLabels | None = None


@dataclass(frozen=True, slots=True)
class _OneStrand:
    """An allele on one strand: its alleles' windows as tokens."""

    view: View
    ids: tuple[Ids, ...]
    span: Span


class VariantScorer:
    """Scores alleles with a model.

    Args:
        model: any model; what it can score depends on its kind.
        genome: the reference.
        options: how.

    Attributes:
        fields: the values that each scored allele has.

    Raises:
        UserError: a score that the model cannot give, or an option out of range.
    """

    fields: tuple[Field, ...]

    def __init__(self, model: InferenceModel, genome: Genome, options: ScoringOptions) -> None:
        if options.flank < 1 or options.max_span < 1:
            raise UserError(
                f"flank {options.flank} and max_span {options.max_span} are numbers of bases; accepted are 1 and more"
            )
        self._model, self._genome, self._options = model, genome, options
        self._scores = checked_scores(model, options.scores) if options.scores or not options.splice else ()
        if options.splice:
            options.splice.columns(model, options.flank)
        self._signs: tuple[Literal["+", "-"], ...] = ("+", "-") if options.strands == "both" else ("+",)
        self._batch_tokens = options.batch_tokens or default_batch_tokens()
        self._pieces = DnaPieces(model.tokenizer) if "llr" in self._scores else None
        regression = model.head.task == "regression"
        self.fields = fields_of(self._scores, model.labels, options.strands, regression, options.splice is not None)

    @property
    def alleles_at_once(self) -> int:
        """How many alleles fill the batches well."""
        return max(256, self._batch_tokens // 16)

    def score(self, alleles: Sequence[Allele]) -> list[AlleleScores]:
        """The scores of some alleles, in their order.

        Raises:
            UserError: out of memory.
        """
        windows = [place(self._genome, allele, self._options.flank, self._options.max_span) for allele in alleles]
        encoded = self._encode([window for window in windows if isinstance(window, Window)])
        placed = iter(encoded)
        found = [next(placed) if isinstance(window, Window) else window for window in windows]
        good = [strands for strands in found if isinstance(strands, tuple)]
        values: list[dict[str, float | int | str]] = [
            {"span": len(forward.span.strings[forward.view.ref]), "tokens": _token_counts(forward)} for forward, *_ in good
        ]
        computed: dict[VariantScore, Callable[[list[tuple[_OneStrand, ...]]], list[dict[str, float]]]] = {
            **{"llr": self._llr, "pll": self._pll, "emb": self._emb, "delta": self._delta}
        }
        for score in self._scores if good else ():
            for own, more in zip(values, computed[score](good), strict=True):
                own.update(more)
        if good and (splice := self._options.splice):
            tuples = zip(alleles, windows, found, strict=True)
            changes = [
                (allele, window) for allele, window, it in tuples if isinstance(it, tuple) and isinstance(window, Window)
            ]
            told = splice_scores(self._model, splice, self._options.flank, changes, self._signs, self._batch_tokens)
            for own, fields in zip(values, told, strict=True):
                own.update(fields)
        ok = iter(values)
        return [AlleleScores("ok", next(ok)) if isinstance(it, tuple) else AlleleScores(it, {}) for it in found]

    def _encode(self, windows: list[Window]) -> list["tuple[_OneStrand, ...] | Status"]:
        """The strands of each window as tokens, or why they are not scored."""
        views = [[view(window, sign) for sign in self._signs] for window in windows]
        texts = [[one.windows() for one in both] for both in views]
        distinct = list(dict.fromkeys(text for both in texts for one in both for text in one))
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        encoded = dict(zip(distinct, self._model.tokenizer.encode_raw_batch(distinct, num_threads=threads), strict=True))
        results: list[tuple[_OneStrand, ...] | Status] = []
        for both, texts_of_both in zip(views, texts, strict=True):
            strands, status = [], "ok"
            for one, alleles in zip(both, texts_of_both, strict=True):
                ids = tuple(encoded[text] for text in alleles)
                span = find_span(alleles, ids, self._model.tokenizer)
                if span is None or max(map(len, span.strings)) > self._options.max_span:
                    status = "too_long"
                elif any("N" in string for string in span.strings):
                    status = "n_in_span"
                else:
                    strands.append(_OneStrand(one, ids, span))
            results.append(tuple(strands) if status == "ok" else status)  # type: ignore[arg-type]
        return results

    def _llr(self, variants: list[tuple[_OneStrand, ...]]) -> list[dict[str, float]]:
        assert self._pieces is not None
        spans = [one.span for strands in variants for one in strands]
        log_p = iter(span_log_probabilities(spans, self._pieces, self._masked))
        results = []
        for strands in variants:
            each = []
            for one in strands:
                alt, ref = one.view.alt, one.view.ref
                own = next(log_p)
                more_bases = len(one.span.strings[alt]) - len(one.span.strings[ref])
                each.append(float(own[alt] - own[ref] + more_bases * np.log(4)))
            by_strand = {"llr_fwd": each[0], "llr_rev": each[1]} if len(each) == 2 else {}
            results.append({"llr": float(np.mean(each)), **by_strand})
        return results

    def _pll(self, variants: list[tuple[_OneStrand, ...]]) -> list[dict[str, float]]:
        likelihood: dict[bytes, float] = {}
        windows = {}
        for one in (one for strands in variants for one in strands):
            windows.update({ids.tobytes(): ids for ids in _ref_and_alt(one)})
        for key, ids in windows.items():
            # One row for each token; only the rows of one window are in memory.
            known = [at for at in range(len(ids)) if ids[at] != UNK]
            masked = []
            for at in known:
                row = ids.copy()
                row[at] = MASK
                masked.append(with_template(row))
            likelihood[key] = float(sum(log_p[0, ids[known[row]]] for row, log_p in self._masked(masked)))
        results = []
        for strands in variants:
            pairs = [[likelihood[ids.tobytes()] for ids in _ref_and_alt(one)] for one in strands]
            results.append({"pll": float(np.mean([alt - ref for ref, alt in pairs]))})
        return results

    def _emb(self, variants: list[tuple[_OneStrand, ...]]) -> list[dict[str, float]]:
        rows: dict[tuple[bytes, bytes], int] = {}
        inputs: list[Ids] = []
        weights: list[NDArray[np.float32]] = []
        needed: list[list[tuple[int, int]]] = []
        for strands in variants:
            needed.append([])
            for one in strands:
                pair = []
                for number, ids in zip((one.view.ref, one.view.alt), _ref_and_alt(one), strict=True):
                    own = self._base_weights(one.view, number, ids)
                    key = (ids.tobytes(), own.tobytes())
                    if key not in rows:
                        rows[key] = len(inputs)
                        inputs.append(with_template(ids))
                        weights.append(own)
                    pair.append(rows[key])
                needed[-1].append((pair[0], pair[1]))
        means = self._weighted_means(inputs, weights)
        results = []
        for pairs in needed:
            refs, alts = means[[ref for ref, _ in pairs]], means[[alt for _, alt in pairs]]
            norms = np.linalg.norm(refs, axis=1) * np.linalg.norm(alts, axis=1)
            if norms.all():
                # Rounding may leave a cosine of 1 + 1e-16.
                results.append({"emb": float(np.mean(np.maximum(0, 1 - np.sum(refs * alts, axis=1) / norms)))})
            else:
                results.append({})
        return results

    def _delta(self, variants: list[tuple[_OneStrand, ...]]) -> list[dict[str, float]]:
        views = [strands[0].view for strands in variants]
        pairs = [(one.windows()[one.ref], one.windows()[one.alt]) for one in views]
        distinct = {text: number for number, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        names = [str(number) for number in range(len(distinct))]
        predictions = predict(
            self._model,
            Sequences("windows of variants", names, list(distinct), None, LetterCounts()),
            reverse_complement=self._options.strands == "both",
            batch_tokens=self._batch_tokens,
        )
        outputs = predictions.outputs.astype(np.float64)
        scale = outputs
        if predictions.task != "regression":
            clipped = np.clip(outputs, _SMALLEST_P, 1 - _SMALLEST_P)
            scale = np.log(clipped) - np.log1p(-clipped)
        results = []
        for pair in pairs:
            ref, alt = (distinct[text] for text in pair)
            own = {}
            for number, label in enumerate(self._model.labels):
                own[f"ref_{label}"] = float(outputs[ref, number])
                own[f"alt_{label}"] = float(outputs[alt, number])
                own[f"delta_{label}"] = float(scale[alt, number] - scale[ref, number])
            results.append(own)
        return results

    def _base_weights(self, one: View, number: int, ids: Ids) -> NDArray[np.float32]:
        """How many of the bases beside the variant each token has; those of the variant itself are left out. [tokens]."""
        bases = np.zeros(len(one.left) + len(one.alleles[number]) + len(one.right), np.float32)
        bases[max(0, len(one.left) - EMBEDDED_BASES) : len(one.left)] = 1
        after = len(one.left) + len(one.alleles[number])
        bases[after : after + EMBEDDED_BASES] = 1
        lengths = self._model.tokenizer.token_bases(ids)
        return np.add.reduceat(bases, np.cumsum(lengths) - lengths).astype(np.float32)

    def _masked(self, inputs: list[Ids]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Each input's number with the log-probabilities at its masks, [masks, V]."""
        return log_probabilities_at_masks(self._model, self._batches(inputs))

    def _weighted_means(self, inputs: list[Ids], weights: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        """The weighted mean state of each input, [inputs, D]."""
        forward, params = self._model.predictor.forward, self._model.predictor.params

        def means(batch: EncodedBatch) -> jax.Array:
            own = np.zeros(batch.tokens.input_ids.shape, np.float32)
            for row, number in enumerate(batch.rows[:, 0]):
                if number >= 0:
                    own[row, 1 : 1 + len(weights[number])] = weights[number]  # after [CLS]
            return forward.weighted_means(params, batch.tokens, own)

        results = np.empty((len(inputs), self._model.config.hidden_size))
        for batch, values in run_batches(means, self._batches(inputs), None):
            used = batch.rows[:, 0] >= 0
            results[batch.rows[used, 0]] = values[used]
        return results

    def _batches(self, inputs: list[Ids]) -> Batches:
        return one_per_row(EncodedRows.of(inputs), self._batch_tokens)


def checked_scores(model: InferenceModel, wanted: Sequence[VariantScore]) -> tuple[VariantScore, ...]:
    """The scores to compute, in their usual order; those that suit the model where none are wanted.

    Raises:
        UserError: the model cannot give one of them.
    """
    overlapping = isinstance(model.tokenizer, KmerTokenizer) and model.tokenizer.overlapping
    if not wanted:
        likelihood: tuple[VariantScore, ...] = () if overlapping else ("llr",)
        suiting: dict[ModelKind, tuple[VariantScore, ...]] = {
            "masked_lm": (*likelihood, "emb"),
            "classifier": ("delta", "emb"),
            "base_classifier": ("emb",),
        }
        wanted = suiting[model.kind]
    known = get_args(VariantScore)
    for score in wanted:
        if score not in known:
            raise UserError(f"--scores {score}: accepted are auto or some of {','.join(known)}{nearest(score, known)}")
        if score in ("llr", "pll"):
            model.need("masked_lm", f"the score {score}", "use a pretrained model, or --scores delta,emb")
        if score == "delta":
            model.need("classifier", "the score delta", "train one with `dnabert2 finetune`, or use --scores llr,emb")
        if score == "llr" and overlapping:
            raise UserError(
                f"{model.path} reads overlapping k-mers, each of which gives its neighbors away, so its masked "
                "probabilities say nothing about alleles; use --scores emb, or a model of byte pairs for llr"
            )
    return tuple(score for score in known if score in wanted)


def _ref_and_alt(one: _OneStrand) -> tuple[Ids, Ids]:
    return one.ids[one.view.ref], one.ids[one.view.alt]


def _token_counts(one: _OneStrand) -> str:
    return f"{one.span.counts[one.view.ref]}>{one.span.counts[one.view.alt]}"
