"""``dnabert2 split``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.options import Force, SequenceColumn, path
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.config.inference import DivideBy
from dnabert2_jax.errors import UserError
from dnabert2_jax.progress import console, remark
from dnabert2_jax.storage.overwriting import refuse_overwriting


@app.command(epilog="Example: dnabert2 split promoters.csv --out runs/promoters --by similarity")
def split(
    table: Annotated[
        Path, Argument(metavar="TABLE", parser=path, help="Table with a column of sequences: .csv, .tsv or .xlsx.")
    ],
    out: Annotated[Path, Option(parser=path, help="Directory for train.csv, dev.csv and test.csv.")],
    by: Annotated[DivideBy, Option(help="What else to keep together.")] = "random",
    group_column: Annotated[
        str | None, Option(help="Column of --by group, or of the contigs.", show_default="contig, chrom, ...")
    ] = None,
    fractions: Annotated[str, Option(metavar="TRAIN,DEV,TEST", help="Fractions of the rows.")] = "0.8,0.1,0.1",
    similarity: Annotated[
        float, Option(min=0.01, max=1, help="Common 12-mers (Jaccard index) that make near copies.")
    ] = 0.25,
    seed: Annotated[int, Option(min=0, help="Seed of the random assignment.")] = 0,
    sequence_column: SequenceColumn = "sequence",
    force: Force = False,
) -> None:
    """Split a table into train, dev and test.

    Rows of the same sequence always stay together. With --by group, so do rows of the same value in a column; with contig,
    of the same contig; with similarity, near copies on either strand.
    """
    from dnabert2_jax.data.dividing import divide_table

    refuse_overwriting(out, force=force)
    try:
        train, dev, test = map(float, fractions.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {fractions}: accepted are three numbers, as in 0.8,0.1,0.1") from error
    division = divide_table(
        table,
        out,
        by=by,
        group_column=group_column,
        fractions=(train, dev, test),
        similarity=similarity,
        seed=seed,
        sequence_column=sequence_column,
        force=force,
    )
    for note in division.notes:
        remark(note)
    total = sum(division.rows.values())
    print_table(
        [
            {
                "table": name,
                "rows": f"{rows:,}",
                "share": f"{rows / total:.1%}",
                "groups": f"{division.groups[name]:,}",
                **{f"label {label}": f"{count:,}" for label, count in division.labels.get(name, {}).items()},
            }
            for name, rows in division.rows.items()
        ],
        console,
    )
    for name, counts in division.labels.items():
        if missing := [label for label in division.labels["train"] if not counts.get(label)]:
            remark(f"warning: {name} has no row of {', '.join(missing)}; try another --seed, --fractions or --by")
    print(f"saved {out}")
