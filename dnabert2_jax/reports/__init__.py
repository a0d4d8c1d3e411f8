"""The report of a run: one self-contained HTML page, and its pictures as files."""

from dnabert2_jax.reports.run import report_finetuning, report_per_base, report_pretraining, write_report

__all__ = ["report_finetuning", "report_per_base", "report_pretraining", "write_report"]
