"""A fine-tuning run with labels at every base of a genome: ``data.task = "per_base"``."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from dnabert2_jax.config.inference import BadRecordPolicy
from dnabert2_jax.config.model import STRICT
from dnabert2_jax.config.runs import AnyFinetuneRun
from dnabert2_jax.storage.paths import Location


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PerBaseData:
    """A genome and what is annotated on it; contigs that are for neither dev nor test are for training.

    Attributes:
        task: ``per_base``.
        fasta: the genome, plain or compressed by bgzip.
        annotation: a BED file, whose column 4 holds labels and column 6 strands; or a GFF3 or GTF file. Plain or gzip.
        features: types of features (column 3 of GFF3 and GTF) that are the labels; of a BED file, the labels to read, by
            default all.
        dev_contigs: contigs whose windows select the best evaluation.
        test_contigs: contigs for the final scores.
        window: bases of a row; windows lie side by side.
        overlaps: features of different labels that overlap: ``error`` refuses them, and a base has one label or none;
            ``several`` lets a base have any number of labels.
        stranded: features are on a strand, and both strands of every window are read: each has the labels of its own strand.
            Otherwise the plus strand is read, and the strands of features are ignored.
        bad_records: lines of the annotation that cannot be used: ``error`` names them all, ``skip`` leaves them out and
            counts them.
        reverse_complement: reverse-complement a random half of the training windows, redrawn each epoch.
    """

    task: Literal["per_base"] = "per_base"
    fasta: Location
    annotation: Location
    features: tuple[str, ...] = ()
    dev_contigs: tuple[str, ...] = Field(min_length=1)
    test_contigs: tuple[str, ...] = Field(min_length=1)
    window: int = Field(default=2048, ge=64)
    overlaps: Literal["error", "several"] = "error"
    stranded: bool = False
    bad_records: BadRecordPolicy = "error"
    reverse_complement: bool = False

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        if both := [name for name in self.dev_contigs if name in self.test_contigs]:
            raise ValueError(f"{both[0]} is in dev_contigs and in test_contigs; leave it in one of them")
        if self.stranded and self.reverse_complement:
            raise ValueError("reverse_complement has no effect with stranded, which reads both strands; leave it out")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PerBaseRun(AnyFinetuneRun):
    """A run of ``dnabert2 finetune`` with labels at every base; see :class:`~dnabert2_jax.config.runs.FinetuneRun`."""

    data: PerBaseData

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        plan = self.training
        for name, default in (("label_smoothing", 0.0), ("batching", "by_length"), ("pooling", "auto")):
            if getattr(plan, name) != default:
                raise ValueError(f"training.{name} {getattr(plan, name)} is not for data.task per_base; leave it out")
        if plan.selection == "spearman":
            raise ValueError("training.selection spearman is for data.task regression; leave it at auto, or choose loss")
        return self
