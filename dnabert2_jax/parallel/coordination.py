"""Notes that the processes of a run leave for each other: short texts by key, in jax's coordination service.

The service of ``jax.distributed`` runs in process 0 on threads of its own, which need neither the devices nor Python's lock:
a note can be left and read while every main thread waits in a collective. jax has no public function for it; this module
takes the client from where Orbax takes it, and is the only one to do so.
"""

from typing import Any

import jax
from jax._src import distributed

_WAIT_SECONDS = 10  # at a time: Ctrl-C is answered between two waits


def leave_note(key: str, text: str, *, replace: bool = False) -> bool:
    """Leave a note for all processes.

    Args:
        key: names separated by slashes.
        text: the note.
        replace: overwrite an earlier note with this key.

    Returns:
        False if there already was one and it was not replaced.
    """
    try:
        _client().key_value_set(key, text, allow_overwrite=replace)
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" not in str(error):
            raise
        return False
    return True


def read_notes(folder: str) -> dict[str, str]:
    """The notes whose keys are ``folder/name``, by name."""
    return {key.rpartition("/")[2]: text for key, text in _client().key_value_dir_get(folder)}


def wait_for_note(key: str) -> str:
    """The note with this key, as soon as there is one, however long that takes.

    Raises:
        RuntimeError: the service is gone, and process 0 with it.
    """
    while True:
        try:
            return str(_client().blocking_key_value_get(key, _WAIT_SECONDS * 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _client() -> Any:
    client = distributed.global_state.client
    if client is None:
        raise RuntimeError("the processes of this run were not joined by jax.distributed.initialize")
    return client
