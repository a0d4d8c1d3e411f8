"""``python -m dnabert2_jax``, the same as the ``dnabert2`` command."""

from dnabert2_jax.cli import main

if __name__ == "__main__":
    main()
