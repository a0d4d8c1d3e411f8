"""The ``dnabert2`` command, which is ``python -m dnabert2_jax``, too."""

from typing import NoReturn

from dnabert2_jax.huge_pages import start_with_huge_pages


def main() -> NoReturn:
    """Run the command line in a process whose memory suits it."""
    start_with_huge_pages()  # before anything else is imported, for that would be done twice
    from dnabert2_jax.cli import main

    main()


if __name__ == "__main__":
    main()
