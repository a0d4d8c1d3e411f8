"""Scores of alleles: build the model's inputs, run them in batches, and compute scores from the outputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
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
from dnabert2_jax.inference.masked_rows import log_probabilities_at_masks, log_probabilities_of_groups
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import predict
from dnabert2_jax.inference.predictor import default_batch_tokens, run_batches
from dnabert2_jax.inference.views import other_segmentation
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.special import MASK, UNK
from dnabert2_jax.variants.alleles import Allele, Genome, Status, Window, place, view
from dnabert2_jax.variants.emb import embedding_distances
from dnabert2_jax.variants.fields import AlleleScores, Field, fields_of
from dnabert2_jax.variants.llr import DnaPieces
from dnabert2_jax.variants.span_probabilities import span_log_probabilities
from dnabert2_jax.variants.spans import Ids
from dnabert2_jax.variants.splice import SpliceLabels, splice_scores
from dnabert2_jax.variants.windows import OneStrand, spans_of_views

_LN_4 = float(np.log(4))

_SMALLEST_P = 2.0**-24
"""Probabilities are clipped to this distance from 0 and 1, the resolution of float32."""


@dataclass(frozen=True)
class ScoringOptions:
    """How to score.

    Attributes:
        scores: the scores to compute; empty for those that suit the model.
        flank: bases of the window on either side of the variant.
        strands: ``both`` or ``+``.
        max_span: maximum length in bases of a span between shared tokens; longer ones are not scored.
        batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
        splice: the labels of splice sites, to report their changes; empty ``scores`` then means no other scores.
        shifts: number of shifted windows on either side, in equal steps up to half a flank, to average over as well.
        tokenization_noise: other segmentations of the same bases over which the spread of ``delta`` is taken; 0 for none.
    """

    scores: tuple[VariantScore, ...] = ()
    flank: int = 256
    strands: Strands = "both"
    max_span: int = 64
    batch_tokens: int | None = None
    splice: SpliceLabels | None = None
    shifts: int = 0
    tokenization_noise: int = 0


_Strands = tuple[OneStrand, ...]


class VariantScorer:
    """Scores alleles with a model.

    Args:
        model: any model; what it can score depends on its kind.
        genome: the reference.
        options: how to score.

    Attributes:
        fields: the fields of each scored allele.

    Raises:
        UserError: a score that the model cannot compute, or an option out of range.
    """

    fields: tuple[Field, ...]

    def __init__(self, model: InferenceModel, genome: Genome, options: ScoringOptions) -> None:
        if options.flank < 1 or options.max_span < 1:
            raise UserError(
                f"flank {options.flank} and max_span {options.max_span} are numbers of bases; accepted are 1 and more"
            )
        if not 0 <= options.shifts <= options.flank // 2:
            raise UserError(
                f"shifts {options.shifts}: windows are moved by up to half a flank of {options.flank}; accepted are 0 to "
                f"{options.flank // 2}"
            )
        self._model, self._genome, self._options = model, genome, options
        self._scores = checked_scores(model, options.scores) if options.scores or not options.splice else ()
        if options.splice:
            options.splice.columns(model, options.flank)
        self._segmentations = self._other_segmentations()
        steps = range(1, options.shifts + 1)
        self._offsets = (0, *(sign * (options.flank // 2 * n // options.shifts) for n in steps for sign in (-1, 1)))
        self._signs: tuple[Literal["+", "-"], ...] = ("+", "-") if options.strands == "both" else ("+",)
        self._batch_tokens = options.batch_tokens or default_batch_tokens()
        self._pieces = DnaPieces(model.tokenizer) if "llr" in self._scores else None
        self.fields = fields_of(
            self._scores,
            model.labels,
            options.strands,
            regression=model.head.task == "regression",
            splice=options.splice is not None,
            windows=len(self._offsets),
            segmentations=options.tokenization_noise,
        )

    @property
    def alleles_at_once(self) -> int:
        """The number of alleles that fills the batches well."""
        return max(256, self._batch_tokens // 16)

    def score(self, alleles: Sequence[Allele]) -> list[AlleleScores]:
        """The scores of some alleles, in their order.

        Raises:
            UserError: out of memory.
        """
        flank = self._options.flank
        windows = [place(self._genome, allele, flank + max(self._offsets), self._options.max_span) for allele in alleles]
        moved = (window.moved(flank, n) for window in windows if isinstance(window, Window) for n in self._offsets)
        placed = iter(self._encode(list(moved)))
        found = [list(islice(placed, len(self._offsets))) if isinstance(window, Window) else [window] for window in windows]
        # The unshifted window decides whether an allele is scored; shifted windows are used only if they can be scored.
        good = [[own for own in each if isinstance(own, tuple)] for each in found if isinstance(each[0], tuple)]
        flat = [strands for each in good for strands in each]
        values: list[dict[str, float | int | str]] = [
            {"span": len(forward.span.strings[forward.view.ref]), "tokens": _token_counts(forward)}
            for (forward, *_), *_ in good
        ]
        computed: dict[VariantScore, Callable[[list[_Strands]], list[dict[str, float]]]] = {
            **{"llr": self._llr, "pll": self._pll, "emb": self._emb, "delta": self._delta}
        }
        for score in self._scores if good else ():
            for own, more in zip(values, _means(computed[score](flat), good), strict=True):
                own.update(more)
        if self._segmentations and good:
            readings = [_means(self._delta(flat, reader), good) for reader in self._segmentations]
            for own, *each in zip(values, *readings, strict=True):
                for label in self._model.labels:
                    own[f"noise_{label}"] = float(np.std([deltas[f"delta_{label}"] for deltas in each], ddof=1))
        if good and (splice := self._options.splice):
            changes = [
                (allele, window.moved(flank, 0))
                for allele, window, (usual, *_) in zip(alleles, windows, found, strict=True)
                if isinstance(usual, tuple) and isinstance(window, Window)
            ]
            told = splice_scores(self._model, splice, flank, changes, self._signs, self._batch_tokens)
            for own, fields in zip(values, told, strict=True):
                own.update(fields)
        ok = iter(values)
        return [AlleleScores("ok", next(ok)) if isinstance(usual, tuple) else AlleleScores(usual, {}) for usual, *_ in found]

    def _other_segmentations(self) -> list[InferenceModel]:
        """The model with tokenizers that segment the same bases differently."""
        count = self._options.tokenization_noise
        if count and "delta" not in self._scores:
            raise UserError("tokenization noise is the spread of delta, which is not among the scores; leave it out")
        if count < 0 or count == 1:
            raise UserError(
                f"tokenization noise of {count} segmentations: a spread needs 2 or more; accepted are 0, 2, 3, ..."
            )
        tokenizers = (other_segmentation(self._model.tokenizer, number) for number in range(1, count + 1))
        return [replace(self._model, tokenizer=tokenizer) for tokenizer in tokenizers]

    def _encode(self, windows: list[Window]) -> list["_Strands | Status"]:
        """The tokenized strands of each window, or the status of a window that cannot be scored."""
        views = [view(window, sign) for window in windows for sign in self._signs]
        spans = iter(zip(views, spans_of_views(views, self._model.tokenizer), strict=True))
        results: list[_Strands | Status] = []
        for _ in windows:
            strands, status = [], "ok"
            for one, span in islice(spans, len(self._signs)):
                if span is None or max(map(len, span.strings)) > self._options.max_span:
                    status = "too_long"
                elif "N" in "".join(span.strings):
                    status = "n_in_span"
                else:
                    strands.append(OneStrand(one, span))
            results.append(tuple(strands) if status == "ok" else status)  # type: ignore[arg-type]
        return results

    def _llr(self, variants: list[_Strands]) -> list[dict[str, float]]:
        assert self._pieces is not None
        strands = [one for both in variants for one in both]
        log_p = span_log_probabilities([one.span for one in strands], self._pieces, self._masked_groups)
        ratios = np.array(list(map(_log_ratio, strands, log_p))).reshape(len(variants), -1)
        named = {"llr": ratios.mean(1)}
        if ratios.shape[1] == 2:
            named |= {"llr_fwd": ratios[:, 0], "llr_rev": ratios[:, 1]}
        return [dict(zip(named, own, strict=True)) for own in np.stack(list(named.values()), axis=1).tolist()]

    def _pll(self, variants: list[_Strands]) -> list[dict[str, float]]:
        likelihood: dict[bytes, float] = {}
        windows = {}
        for one in (one for strands in variants for one in strands):
            windows.update({ids.tobytes(): ids for ids in one.ref_and_alt})
        for key, ids in windows.items():
            # One row for each token; only the rows of one window are in memory.
            known = [at for at in range(1, len(ids) - 1) if ids[at] != UNK]  # between [CLS] and [SEP]
            masked = [np.where(np.arange(len(ids)) == at, np.int32(MASK), ids) for at in known]
            likelihood[key] = float(sum(log_p[0, ids[known[row]]] for row, log_p in self._masked(masked)))
        results = []
        for strands in variants:
            pairs = [[likelihood[ids.tobytes()] for ids in one.ref_and_alt] for one in strands]
            results.append({"pll": float(np.mean([alt - ref for ref, alt in pairs]))})
        return results

    def _emb(self, variants: list[_Strands]) -> list[dict[str, float]]:
        strands = [one for strands in variants for one in strands]
        distances = embedding_distances(strands, self._model.tokenizer, self._weighted_means)
        means = distances.reshape(len(variants), -1).mean(1)
        return [{} if np.isnan(distance) else {"emb": distance} for distance in means.tolist()]

    def _delta(self, variants: list[_Strands], reader: InferenceModel | None = None) -> list[dict[str, float]]:
        views = [strands[0].view for strands in variants]
        pairs = [(one.windows()[one.ref], one.windows()[one.alt]) for one in views]
        distinct = {text: number for number, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        names = [str(number) for number in range(len(distinct))]
        predictions = predict(
            reader or self._model,
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

    def _masked(self, inputs: list[Ids]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The index of each input, and log-probabilities at its masked positions, [masks, V]."""
        return log_probabilities_at_masks(self._model, self._batches(inputs))

    def _masked_groups(self, inputs: list[Ids]) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Groups of inputs with equal numbers of masks: indices, [R], and log-probabilities, [R, masks, V]."""
        return log_probabilities_of_groups(self._model, self._batches(inputs))

    def _weighted_means(self, inputs: list[Ids], weights: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        """The weighted mean state of each input, [inputs, D]."""
        forward, params = self._model.predictor.forward, self._model.predictor.params

        def means(batch: EncodedBatch) -> jax.Array:
            own = np.zeros(batch.tokens.input_ids.shape, np.float32)
            for row, number in enumerate(batch.rows[:, 0]):
                if number >= 0:
                    own[row, : len(weights[number])] = weights[number]
            return forward.weighted_means(params, batch.tokens, own)

        results = np.empty((len(inputs), self._model.config.hidden_size))
        for batch, values in run_batches(means, self._batches(inputs), None):
            used = batch.rows[:, 0] >= 0
            results[batch.rows[used, 0]] = values[used]
        return results

    def _batches(self, inputs: list[Ids]) -> Batches:
        return one_per_row(EncodedRows.of(inputs), self._batch_tokens)


def _means(values: list[dict[str, float]], groups: Sequence[Sequence[_Strands]]) -> list[dict[str, float]]:
    """The mean of each value over the windows of an allele; the values are those of its first window."""
    if all(len(group) == 1 for group in groups):
        return values
    of_window = iter(values)
    means = []
    for group in groups:
        own = list(islice(of_window, len(group)))
        means.append({name: float(np.mean([one[name] for one in own if name in one])) for name in own[0]})
    return means


def checked_scores(model: InferenceModel, wanted: Sequence[VariantScore]) -> tuple[VariantScore, ...]:
    """The scores to compute, in their usual order; by default those that suit the model.

    Raises:
        UserError: the model cannot compute one of them.
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


def _log_ratio(one: OneStrand, log_p: NDArray[np.float64]) -> float:
    """The length-corrected log-likelihood ratio of ALT and REF, from the ln P of all alleles, [alleles]."""
    alt, ref = one.view.alt, one.view.ref
    more_bases = len(one.span.strings[alt]) - len(one.span.strings[ref])
    return float(log_p[alt] - log_p[ref] + more_bases * _LN_4)


def _token_counts(one: OneStrand) -> str:
    return f"{one.span.counts[one.view.ref]}>{one.span.counts[one.view.alt]}"
