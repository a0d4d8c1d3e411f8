"""``python -m dnabert2_jax`` is the ``dnabert2`` command."""

from dnabert2_jax.cli import main

main()
