"""``dnabert2 flops``."""

from typing import Annotated

import typer

from dnabert2_jax.cli.app import app
from dnabert2_jax.cli.output import print_table
from dnabert2_jax.gue.efficiency import BASES_PER_TOKEN


@app.command(epilog="Example: dnabert2 flops --bases 500")
def flops(
    bases: Annotated[
        int, typer.Option(min=8, max=512, help="Sequence length, 8 to 512; the published figures are for 500.")
    ] = 500,
    bases_per_token: Annotated[float, typer.Option(min=1, help="Average of DNABERT-2's byte pairs.")] = BASES_PER_TOKEN,
) -> None:
    """Compare the parameters and FLOPs of published models.

    DNABERT-2, DNABERT and the Nucleotide Transformer, derived from their configurations, beside the published figures.
    """
    from dnabert2_jax.gue.efficiency import costs, explanations

    rows = costs(bases, bases_per_token)
    print(
        f"Assumptions for a sequence of {bases} bases: DNABERT reads one token per base and 2 special ones; NT one per 6 "
        f"bases, one for each remaining base, and [CLS]; DNABERT-2 one per {bases_per_token:g} bases and 2 special ones. "
        "Only the encoder's matrix products are counted, 2 operations per multiply-add; no padding, no head."
    )
    print_table(
        [
            {
                "model": row.model.name,
                "parameters": f"{row.model.parameters:,}",
                "published, millions": f"{row.published_parameters:,}",
                "tokens": f"{row.tokens:,}",
                "forward GFLOP": f"{row.flops / 1e9:.2f}",
                "relative": f"{row.relative:.2f}",
                "published relative": f"{row.published_relative:.2f}",
            }
            for row in rows
        ]
    )
    if bases == 500:
        for text in explanations(rows):
            print(text)
