"""PyTorch in a process of its own, which takes turns with the benchmark that started it."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dnabert2_jax.config.model import EncoderConfig

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@contextmanager
def torch_worker(
    python: Path,
    script: str,
    config: EncoderConfig,
    stored: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Callable[[], float]]:
    """A function that has a script do its work once and returns the seconds; the script waits in between.

    Args:
        python: an interpreter with torch and multimolecule.
        script: name of a script beside this module.
        config: sizes of its encoder.
        stored: the npz file of its batches.
        options: further arguments of the script.
        environment: its environment variables; by default those of this process.
    """
    sizes = {name: getattr(config, name) for name in _SIZES}
    command: list[str | Path] = [python, Path(__file__).with_name(script), stored, json.dumps(sizes), *options]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said, heard = process.stdin, process.stdout
        assert said is not None
        assert heard is not None

        def seconds() -> float:
            print("go", file=said, flush=True)
            return float(heard.readline())

        yield seconds
        said.close()
