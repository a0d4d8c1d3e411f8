"""The Python interface: a trained model as one object.

from dnabert2_jax import DNABERT2

model = DNABERT2.load("runs/pretrain/model")
vectors = model.embed(["ACGTTTGACA", "GGGTTACGGA"])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnabert2_jax.artifacts.model import ModelKind, save_model
from dnabert2_jax.config.inference import (
    PER_TOKEN,
    ExplainMethod,
    LongSequences,
    Pooling,
    Resolution,
    Strands,
    TrackStrand,
    TrackValues,
    VariantScore,
)
from dnabert2_jax.config.model import EncoderConfig, PrecisionOption
from dnabert2_jax.convert.hub import PREFIX, looks_like_repository
from dnabert2_jax.convert.opening import open_hugging_face, pinned_path
from dnabert2_jax.data.labeled_intervals import read_labeled_intervals
from dnabert2_jax.data.reading import read_table
from dnabert2_jax.data.sequences import GivenSequences, given_sequences
from dnabert2_jax.data.streaming import checked_file, given_in_chunks
from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.calibration import calibrate
from dnabert2_jax.inference.embedding import Embeddings, embed
from dnabert2_jax.inference.evaluation import evaluate
from dnabert2_jax.inference.fill_mask import MaskedToken, fill_mask
from dnabert2_jax.inference.model import InferenceModel
from dnabert2_jax.inference.prediction import Predictions, predict
from dnabert2_jax.inference.scan import Chunk, WholeSequences, bases_of_a_chunk, embed_chunks, predict_chunks
from dnabert2_jax.inference.token_ids import Output, TokenIdOutputs, token_batch
from dnabert2_jax.inference.tracks.values import TrackScores, iterate_track, joined
from dnabert2_jax.interpretation.attention import AttentionMaps
from dnabert2_jax.interpretation.dependency import DependencyMap
from dnabert2_jax.interpretation.explain import explain
from dnabert2_jax.interpretation.gradients import Attributions
from dnabert2_jax.interpretation.ism import MutationScores
from dnabert2_jax.interpretation.results import Explanations
from dnabert2_jax.metrics.scores import Scores
from dnabert2_jax.modeling.compute import resolve_compute
from dnabert2_jax.storage.overwriting import refuse_overwriting
from dnabert2_jax.storage.paths import as_path
from dnabert2_jax.tokenizer.base import Tokenizer
from dnabert2_jax.variants.results import GivenVariant, VariantScores, iterate_scores, score_variants
from dnabert2_jax.variants.scoring import ScoringOptions
from dnabert2_jax.variants.splice import SpliceLabels


class DNABERT2:
    """A masked language model or a classifier, loaded from its directory with :meth:`load`.

    Sequences are text in either case; N and the other IUPAC codes become [UNK], and anything else is an error. Compiled
    functions belong to the object, so reuse it.
    """

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        self._outputs = TokenIdOutputs(model)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        base: str | Path | None = None,
        precision: PrecisionOption = "auto",
        attention: str = "auto",
    ) -> "DNABERT2":
        """Read a model, or an adapter, which is merged into its base.

        Args:
            path: what ``dnabert2 pretrain`` or ``dnabert2 finetune`` saved, or a directory in the Hugging Face layout,
                such as the released DNABERT-2; ``hf:OWNER/NAME`` is one on the Hugging Face Hub.
            base: the adapter's base, if it is not where the adapter says.
            precision: ``auto`` is bfloat16 on GPU and TPU, float32 on a CPU.
            attention: ``auto`` or the name of an attention backend.

        Raises:
            UserError: the directory is missing, damaged or of another kind; the base is not the adapter's; no such backend.
        """
        compute = resolve_compute(precision, attention)
        return cls(InferenceModel.load(as_path(path), compute, None if base is None else as_path(base)))

    @classmethod
    def from_hf(
        cls, directory: str | Path, *, precision: PrecisionOption = "float32", attention: str = "auto"
    ) -> "DNABERT2":
        """Read the released DNABERT-2, or a model that was fine-tuned from it with PyTorch, as published on Hugging Face.

        As :meth:`load`, with the original's precision. Needs neither torch nor transformers, and runs no code from the
        directory.

        Args:
            directory: with ``config.json``, ``tokenizer.json``, and ``model.safetensors`` or ``pytorch_model.bin``; or a
                model of the Hub, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, if there is no such directory here.
            precision: float32 gives the original's numbers; ``auto`` is bfloat16 on GPU and TPU, float32 on a CPU.
            attention: ``auto`` or the name of an attention backend.

        Raises:
            UserError: a file is missing, damaged or could run code; the files do not belong together; it is another kind of
                model; it cannot be downloaded; no such backend.
        """
        path = f"{PREFIX}{directory}" if looks_like_repository(directory) else directory
        compute = resolve_compute(precision, attention)
        opened = open_hugging_face(path)
        return cls(InferenceModel.of_saved(pinned_path(path, opened), opened, compute))

    def __repr__(self) -> str:
        return f"DNABERT2({str(self._model.path)!r}, kind={self.kind!r}, hidden_size={self.config.hidden_size})"

    @property
    def kind(self) -> ModelKind:
        """``masked_lm``, ``classifier``, or ``base_classifier``, which labels every base."""
        return self._model.kind

    @property
    def config(self) -> EncoderConfig:
        """Sizes of the encoder."""
        return self._model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return self._model.tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """A classifier's classes by class number, ``("value",)`` for a regression; empty for a masked language model."""
        return self._model.labels

    @overload
    def embed(
        self,
        sequences: GivenSequences,
        pooling: Literal["mean", "cls", "max"] = "mean",
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32]: ...
    @overload
    def embed(
        self,
        sequences: GivenSequences,
        pooling: Literal["token", "base"],
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[NDArray[np.float32]]: ...
    def embed(
        self,
        sequences: GivenSequences,
        pooling: Pooling = "mean",
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Embeddings: hidden states of the last block, in the order of the sequences.

        Args:
            sequences: DNA of any lengths: a list, generator, array, pandas Series or dict. [n].
            pooling: ``mean`` or ``max`` over the sequence's own tokens ([CLS], [SEP] and padding left out), ``cls`` for the
                state of [CLS], ``token`` for all tokens, ``base`` for all bases (each has the vector of its token).
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
            progress: show a bar on a terminal, or lines elsewhere, on standard error.

        Returns:
            [n, hidden_size]; for ``token`` and ``base`` a list of n arrays [tokens, hidden_size] or [bases, hidden_size].

        Raises:
            UserError: no sequences, an empty one, a letter that is not DNA, an unknown pooling, or out of memory.
        """
        embeddings = embed(
            self._model,
            given_sequences(sequences),
            pooling,
            batch_tokens=batch_tokens,
            title="embedding" if progress else None,
        )
        return embeddings.split() if pooling in ("token", "base") else embeddings.vectors

    def predict(
        self,
        sequences: GivenSequences,
        pairs: Iterable[str] | None = None,
        *,
        ensemble: Iterable["DNABERT2"] = (),
        max_tokens: int | None = None,
        long: LongSequences = "windows",
        overlap: float = 0.5,
        reverse_complement: bool = False,
        views: int = 1,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> Predictions:
        """Classes and their probabilities, or measurements, in the order of the sequences.

        Args:
            sequences: DNA of any lengths: a list, generator, array, pandas Series or dict. [n].
            pairs: the second sequence of each row, for a classifier of pairs. [n].
            ensemble: further models of the same classes: predictions are the mean over all, and ``spread`` [n, classes] is
                their standard deviation.
            max_tokens: longest input of the classifier, in tokens, special tokens included; by default the
                limit that it was trained with.
            long: a longer sequence is read in overlapping ``windows``, whose predictions are averaged, or ``cut``.
            overlap: minimum window overlap as a fraction of a window, in [0, 1).
            reverse_complement: average over both strands; the same as two views.
            views: average over this many views of each sequence: as given, the other strand, and then other tokenizations
                of either strand, which are the same in every call.
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
            progress: show a bar on a terminal, or lines elsewhere, on standard error.

        Returns:
            ``labels`` [n] and ``probabilities`` [n, classes], or ``values`` [n] for a regression; ``windows`` [n],
            ``cut_bases`` [n], and ``notes`` [n] on doubtful ones. Names are the keys of a dict or the index of a Series.

        Raises:
            UserError: not a classifier, models that do not predict the same, a sequence or option that is not accepted, a
                long pair that may not be cut, or out of memory.
        """
        return predict(
            self._model,
            given_sequences(sequences, pairs),
            ensemble=[other._model for other in ensemble],
            max_tokens=max_tokens,
            long=long,
            overlap=overlap,
            reverse_complement=reverse_complement,
            views=views,
            batch_tokens=batch_tokens,
            title="predicting" if progress else None,
        )

    def iter_predict(
        self,
        sequences: GivenSequences | str | Path,
        *,
        ensemble: Iterable["DNABERT2"] = (),
        max_tokens: int | None = None,
        long: LongSequences = "windows",
        overlap: float = 0.5,
        reverse_complement: bool = False,
        views: int = 1,
        batch_tokens: int | None = None,
    ) -> Iterator[Predictions]:
        """As :meth:`predict`, some sequences at a time, for what does not fit into memory.

        Args:
            sequences: as for :meth:`predict` (a generator is consumed only as needed); or the path of a FASTA or FASTQ file
                or a table, which is read once to check it and then again.
            ensemble: as for :meth:`predict`, like all that follow.
            max_tokens: longest input.
            long: what to do with longer ones.
            overlap: minimum window overlap.
            reverse_complement: average over both strands.
            views: views of each sequence.
            batch_tokens: tokens of a batch.

        Yields:
            The predictions of the next sequences, in their order.

        Raises:
            UserError: as :meth:`predict`.
        """
        with self._chunks(sequences, bases_of_a_chunk(batch_tokens)) as chunks:
            for _, predictions in predict_chunks(
                self._model,
                chunks,
                ensemble=[other._model for other in ensemble],
                max_tokens=max_tokens,
                long=long,
                overlap=overlap,
                reverse_complement=reverse_complement,
                views=views,
                batch_tokens=batch_tokens,
            ):
                yield predictions

    def iter_embed(
        self, sequences: GivenSequences | str | Path, pooling: Pooling = "mean", *, batch_tokens: int | None = None
    ) -> Iterator[Embeddings]:
        """As :meth:`embed`, some sequences at a time, for what does not fit into memory.

        Args:
            sequences: as for :meth:`iter_predict`.
            pooling: as for :meth:`embed`.
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.

        Yields:
            The ``names`` and ``vectors`` of the next sequences, in their order; ``split()`` gives those of each.

        Raises:
            UserError: as :meth:`embed`.
        """
        numbers = self.config.hidden_size if pooling in PER_TOKEN else 0
        with self._chunks(sequences, bases_of_a_chunk(batch_tokens, numbers)) as chunks:
            for _, embeddings in embed_chunks(self._model, chunks, pooling, batch_tokens=batch_tokens):
                yield embeddings

    @contextmanager
    def _chunks(self, sequences: GivenSequences | str | Path, bases: int) -> Iterator[Iterator[Chunk]]:
        if isinstance(sequences, str | Path):
            with checked_file(sequences) as file:
                yield WholeSequences(file).chunks(bases)
        else:
            yield map(Chunk, given_in_chunks(sequences, bases))

    def evaluate(
        self,
        table: str | Path,
        *,
        ensemble: Iterable["DNABERT2"] = (),
        sequence_column: str = "sequence",
        label_column: str = "label",
        label_map: Mapping[str, str] | None = None,
        fasta: str | Path | None = None,
        max_tokens: int | None = None,
        reverse_complement: bool = False,
        views: int = 1,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> Scores:
        """Scores on a labeled table, as ``dnabert2 evaluate`` writes them.

        Args:
            table: a CSV, TSV or Excel file; with ``fasta`` a BED file, whose column 4 holds the labels.
            ensemble: further models of the same classes; what is scored is the mean over all.
            sequence_column: its column with the sequences; pairs are in two of that name with 1 and 2.
            label_column: its column with the labels.
            label_map: the model's names for the labels as the table writes them.
            fasta: the genome of a BED file's intervals.
            max_tokens: longer rows are truncated; by default the limit of training.
            reverse_complement: average the predictions over both strands.
            views: average them over this many views, as :meth:`predict` does.
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.
            progress: show a bar on a terminal, or lines elsewhere, on standard error.

        Raises:
            UserError: not a classifier, the table cannot be read or has labels that the model lacks, or out of memory.
        """
        if fasta is None:
            read = read_table(table, sequence_column=sequence_column, label_column=label_column, label_map=label_map)
        else:
            with Reference(fasta) as reference:
                read = read_labeled_intervals(reference, Path(table), label_map=label_map)
        return evaluate(
            self._model,
            read,
            ensemble=[other._model for other in ensemble],
            max_tokens=max_tokens,
            reverse_complement=reverse_complement,
            views=views,
            batch_tokens=batch_tokens,
            title="predicting" if progress else None,
        ).scores

    def calibrate(
        self, table: str | Path, *, sequence_column: str = "sequence", label_column: str = "label", progress: bool = False
    ) -> "DNABERT2":
        """The classifier with its logits divided by the temperature that fits a table, as ``dnabert2 calibrate`` writes it.

        Args:
            table: a CSV, TSV or Excel file that the model was not trained on.
            sequence_column: its column with the sequences; pairs are in two of that name with 1 and 2.
            label_column: its column with the labels.
            progress: show a bar on a terminal, or lines elsewhere, on standard error.

        Raises:
            UserError: not a classifier of classes, the table cannot be read or has labels that the model lacks, no
                temperature fits, or out of memory.
        """
        read = read_table(table, sequence_column=sequence_column, label_column=label_column)
        return DNABERT2(calibrate(self._model, read, title="predicting" if progress else None).model)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a model directory, which :meth:`load` and every command read; an adapter is merged into its base.

        Args:
            path: the directory.
            force: replace the model that is there.

        Returns:
            The directory.

        Raises:
            UserError: it exists, or cannot be written.
        """
        refuse_overwriting(path, force=force)
        save_model(path, self._model.saved())
        return as_path(path)

    def fill_mask(self, sequence: str, ranges: Sequence[tuple[int, int]] = (), *, top_k: int = 5) -> list[MaskedToken]:
        """The model's predictions for masked tokens, all at once.

        Args:
            sequence: DNA in which each ``[MASK]`` stands for one token of unknown length; or without any, and ranges.
            ranges: ranges of bases (start, end), from 0, end not included; every token that shares a base is masked.
            top_k: candidates of each masked token.

        Returns:
            One item for each masked token, in the order of the sequence, with its candidates and their probabilities.

        Raises:
            UserError: not a masked language model, a letter that is not DNA, nothing to mask, both ways at once, a range
                outside the sequence, or ``top_k`` out of range.
        """
        return fill_mask(self._model, sequence, ranges, top_k=top_k)

    def score_variants(
        self,
        fasta: str | Path,
        variants: str | Path | Iterable[GivenVariant],
        *,
        scores: Sequence[VariantScore] = (),
        flank: int = 256,
        strand: Strands = "both",
        max_span: int = 64,
        shifts: int = 0,
        tokenization_noise: int = 0,
        splice: SpliceLabels | None = None,
        batch_tokens: int | None = None,
    ) -> VariantScores:
        """Scores of genetic variants, as ``dnabert2 variants`` writes them; see ``docs/guides/variants.md``.

        All results are in memory: for a whole genome use the command, which writes as it goes.

        Args:
            fasta: the reference genome, plain or bgzip.
            variants: a VCF, BCF or table, or tuples of contig, position (from 1), REF and ALT.
            scores: some of ``llr``, ``emb``, ``pll`` and ``delta``; by default those that suit the model.
            flank: bases read on either side of a variant.
            strand: the mean of ``both`` strands, or ``+``.
            max_span: maximum length of a changed stretch to score, in bases.
            shifts: average over this many windows moved to either side as well.
            tokenization_noise: other segmentations of the same bases over which the spread of ``delta`` is taken.
            splice: for a model that labels bases, which labels are splice sites, to score their gains and losses.
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.

        Returns:
            One row for each allele, with a status.

        Raises:
            UserError: pysam is not installed, the model cannot give a score, a file cannot be read, no contig is in common,
                or out of memory.
        """
        options = ScoringOptions(tuple(scores), flank, strand, max_span, batch_tokens, splice, shifts, tokenization_noise)
        return score_variants(self._model, fasta, variants, options)

    def iter_score_variants(
        self,
        fasta: str | Path,
        variants: str | Path | Iterable[GivenVariant],
        *,
        scores: Sequence[VariantScore] = (),
        flank: int = 256,
        strand: Strands = "both",
        max_span: int = 64,
        shifts: int = 0,
        tokenization_noise: int = 0,
        splice: SpliceLabels | None = None,
        batch_tokens: int | None = None,
    ) -> Iterator[VariantScores]:
        """As :meth:`score_variants`, some variants of a file at a time, for what does not fit into memory.

        Arguments and errors are those of :meth:`score_variants`.
        """
        options = ScoringOptions(tuple(scores), flank, strand, max_span, batch_tokens, splice, shifts, tokenization_noise)
        return (part for part in iterate_scores(self._model, fasta, variants, options) if len(part))

    def track(
        self,
        fasta: str | Path,
        regions: Sequence[str] = (),
        bed: str | Path | None = None,
        *,
        window: int | None = None,
        step: int = 128,
        strand: TrackStrand = "+",
        values: TrackValues = "auto",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> TrackScores:
        """Values along a genome, as ``dnabert2 track`` writes them; see ``docs/guides/tracks.md``.

        All of them are in memory: for a whole genome use the command, which writes as it goes, or :meth:`iter_track`.

        Args:
            fasta: the genome, plain or bgzip.
            regions: stretches as written in genome browsers, ``chr22:19,700,000-19,720,000`` (from 1, the end included).
            bed: or a BED file of intervals. If neither is given, the whole genome is covered.
            window: bases per window; by default 512, or for a model that labels every base, as in its training.
            step: for a classifier, bases per bin; the window must be a multiple of it.
            strand: ``+``, ``-``, ``both``, or ``bed`` for that of each interval.
            values: for a masked language model: ``logp``, ``entropy``, ``logo``, or ``auto`` for the first two.
            max_tokens: for a classifier, its longest input in tokens; by default as in training.
            batch_tokens: tokens of a batch; by default 4,096 on a CPU, 65,536 for each device elsewhere.

        Returns:
            A row for each scored bin or base, where ``track["promoter"]`` is a channel; ``starts`` and ``ends`` are from 0.

        Raises:
            UserError: pysam is not installed, an interval or option that cannot be used, nothing was scored, or out of
                memory.
        """
        return joined(
            list(
                self.iter_track(
                    fasta,
                    regions,
                    bed,
                    window=window,
                    step=step,
                    strand=strand,
                    values=values,
                    max_tokens=max_tokens,
                    batch_tokens=batch_tokens,
                )
            )
        )

    def iter_track(
        self,
        fasta: str | Path,
        regions: Sequence[str] = (),
        bed: str | Path | None = None,
        *,
        window: int | None = None,
        step: int = 128,
        strand: TrackStrand = "+",
        values: TrackValues = "auto",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
    ) -> Iterator[TrackScores]:
        """As :meth:`track`, a part at a time: one interval for a classifier, one window for a masked language model.

        Arguments and errors are those of :meth:`track`.
        """
        return iterate_track(
            self._model,
            fasta,
            regions,
            bed,
            window=window,
            step=step,
            strand=strand,
            values=values,
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
        )

    @overload
    def explain(
        self,
        sequences: GivenSequences,
        method: Literal["ism"] = "ism",
        *,
        target: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[MutationScores]: ...
    @overload
    def explain(
        self,
        sequences: GivenSequences,
        method: Literal["ig", "saliency"],
        *,
        target: str | None = None,
        points: int = 64,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[Attributions]: ...
    @overload
    def explain(
        self,
        sequences: GivenSequences,
        method: Literal["attention"],
        *,
        layers: Sequence[int] = (),
        heads: Sequence[int] = (),
        resolution: Resolution = "token",
        progress: bool = False,
    ) -> list[AttentionMaps]: ...
    @overload
    def explain(
        self,
        sequences: GivenSequences,
        method: Literal["dependency"],
        *,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[DependencyMap]: ...
    def explain(
        self, sequences: GivenSequences, method: ExplainMethod = "ism", *, progress: bool = False, **options: Any
    ) -> Explanations:
        """What the model's output depends on, base by base; see ``docs/guides/interpretation.md``.

        Args:
            sequences: DNA: a list, generator, array, pandas Series or dict, as for :meth:`predict`; each is read whole. [n].
            method: ``ism`` substitutes every base; ``ig`` (integrated gradients) and ``saliency`` are for classifiers;
                ``attention`` gives the weights of layers and heads; ``dependency``, for masked language models, which bases
                depend on which.
            progress: show a bar on a terminal, or lines elsewhere, on standard error.
            **options: ``target``, the class that ``ism``, ``ig`` and ``saliency`` explain, which a regression does not need;
                ``max_tokens``, the longest sequence, special tokens included, by default that of the classifier's
                training; ``batch_tokens``, tokens of a batch, by default 4,096 on a CPU, 65,536 for each device elsewhere.
                For ``ig``: ``points`` of the integral, by default 64. For ``attention``: ``layers`` and ``heads``, numbers
                from 0, by default all; ``resolution``, ``token`` or ``base``.

        Returns:
            One result for each sequence, each a :class:`~dnabert2_jax.interpretation.ism.MutationScores`,
            :class:`~dnabert2_jax.interpretation.gradients.Attributions`,
            :class:`~dnabert2_jax.interpretation.attention.AttentionMaps` or
            :class:`~dnabert2_jax.interpretation.dependency.DependencyMap`.

        Raises:
            UserError: an unknown method or an option that it does not have, another kind of model than it needs, no such
                class, layer or head, a sequence that is not DNA, has no known base or is too long, more than 2 GiB of
                attention, or out of memory.
        """
        return explain(self._model, given_sequences(sequences), method, "explaining" if progress else None, **options)

    def hidden_states(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, token_type_ids: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Hidden states of the last block for token ids, as the original's ``BertModel`` returns them.

        The rows are computed together, without dropout, and each new shape [batch, tokens] is compiled first: for many
        sequences of many lengths use :meth:`embed`.

        Args:
            input_ids: token ids, for example of ``model.tokenizer.encode``. [batch, tokens].
            attention_mask: 1 at tokens, 0 at padding, [batch, tokens]; no padding if left out.
            token_type_ids: 0 for the first sequence of a pair, 1 for the second, [batch, tokens]; zeros if left out.

        Returns:
            [batch, tokens, hidden_size]; zeros at padding.

        Raises:
            UserError: arrays of other shapes, ids out of range, or out of memory.
        """
        return self._of_token_ids("hidden_states", input_ids, attention_mask, token_type_ids)

    def mlm_logits(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, token_type_ids: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Logits of the MLM head at every position; the arguments are those of :meth:`hidden_states`.

        Returns:
            [batch, tokens, vocab_size]; at padding, what the head makes of a hidden state of zeros, as in the original.

        Raises:
            UserError: not a masked language model, arrays of other shapes, ids out of range, or out of memory.
        """
        return self._of_token_ids("mlm_logits", input_ids, attention_mask, token_type_ids)

    def pooled(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, token_type_ids: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """The pooler's output, tanh(dense(hidden state of [CLS])); the arguments are those of :meth:`hidden_states`.

        The released masked language model has no pooler: the original fills one in with random numbers.

        Returns:
            [batch, hidden_size].

        Raises:
            UserError: not a classifier, arrays of other shapes, ids out of range, or out of memory.
        """
        return self._of_token_ids("pooled", input_ids, attention_mask, token_type_ids)

    def class_logits(
        self, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, token_type_ids: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Logits of the classes, in the order of :attr:`labels`; the arguments are those of :meth:`hidden_states`.

        Returns:
            [batch, classes].

        Raises:
            UserError: not a classifier, arrays of other shapes, ids out of range, or out of memory.
        """
        return self._of_token_ids("class_logits", input_ids, attention_mask, token_type_ids)

    def _of_token_ids(
        self, output: Output, input_ids: ArrayLike, attention_mask: ArrayLike | None, token_type_ids: ArrayLike | None
    ) -> NDArray[np.float32]:
        return self._outputs(output, token_batch(self.config, input_ids, attention_mask, token_type_ids))
