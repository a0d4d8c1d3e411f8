"""Models on the Hugging Face Hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` wherever a model is named.

huggingface_hub downloads them into its cache, or finds them there; its environment variables apply (``HF_HOME``,
``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``). Only configuration, tokenizer and weights are fetched, never code.
:func:`push` uploads a model.
"""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from dnabert2_jax.convert.settings import CONFIG
from dnabert2_jax.convert.weights import PICKLE, SAFETENSORS
from dnabert2_jax.errors import UserError, first_line
from dnabert2_jax.extras import optional_package

PREFIX = "hf:"

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_FIRST = (CONFIG, "tokenizer.json", SAFETENSORS, f"{SAFETENSORS}.index.json", "model-*-of-*.safetensors")
_OTHERWISE = (PICKLE, f"{PICKLE}.index.json", "pytorch_model-*-of-*.bin")
"""Weights of repositories without safetensors; they are read without running anything in them."""


class Snapshot(NamedTuple):
    """A model of the Hub on this machine.

    Attributes:
        directory: in the Hugging Face layout; part of huggingface_hub's cache.
        repository: ``OWNER/NAME``.
        commit: the commit that was fetched, 40 hexadecimal digits.
    """

    directory: Path
    repository: str
    commit: str

    @property
    def pinned(self) -> str:
        """``OWNER/NAME@COMMIT``, which always means the same files."""
        return f"{self.repository}@{self.commit}"


def is_hub_name(path: str | os.PathLike[str]) -> bool:
    """Whether a path to a model is the name of one on the Hub."""
    return os.fspath(path).startswith(PREFIX)


def looks_like_repository(path: str | os.PathLike[str]) -> bool:
    """Whether a path that is not on this machine could be ``OWNER/NAME`` or ``OWNER/NAME@REVISION``."""
    return not Path(path).exists() and _NAME.fullmatch(os.fspath(path)) is not None


def fetch(name: str | os.PathLike[str]) -> Snapshot:
    """Download a model of the Hub, or find it in the cache.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``, where a revision is a branch, a tag or a commit; by default
            the main branch.

    Raises:
        UserError: the name has another form; huggingface_hub is not installed; there is no such repository or revision, it
            requires permission, or it is neither reachable nor in the cache.
    """
    name = os.fspath(name)
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise UserError(
            f"{name}: accepted is {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION, as in {PREFIX}zhihan1996/DNABERT-2-117M"
        )
    repository, revision = match[1], match[2]
    hub = optional_package("huggingface_hub", f"{name}: downloading needs", "dnabert2_jax[hub]")
    errors = import_module("huggingface_hub.errors")
    try:
        directory = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FIRST)))
        if not list(directory.glob("model*.safetensors")):
            patterns = list(_OTHERWISE)
            directory = Path(hub.snapshot_download(repository, revision=directory.name, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name}: its owner gives access on request; ask for it on the model's page, and log in with `hf auth login` "
            "(or set HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{name}: the repository has no revision {revision!r}; leave @{revision} out, or correct it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: there is no such repository on the Hub; check owner and name, and for a private one log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{name} is not in the cache, and the Hub cannot be reached ({_reason(error)}); connect to it once, or copy "
            "the directory here and name that"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(f"{name} could not be downloaded ({_reason(error)}); try again") from error
    return Snapshot(directory, repository, directory.name)


def checked_repository(name: str) -> str:
    """``OWNER/NAME`` of a repository to push to, before any work.

    Raises:
        UserError: the name has another form, or huggingface_hub is not installed.
    """
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None or match[2]:
        raise UserError(f"{name}: accepted is OWNER/NAME, as in zhihan1996/DNABERT-2-117M")
    optional_package("huggingface_hub", f"pushing to {match[1]} needs", "dnabert2_jax[hub]")
    return match[1]


def push(directory: Path, repository: str) -> str:
    """Upload a directory in the Hugging Face layout as one commit; a new repository is private.

    Other files of an existing repository stay as they are, and its history keeps what is replaced.

    Args:
        directory: the files.
        repository: ``OWNER/NAME``.

    Returns:
        ``OWNER/NAME@COMMIT``.

    Raises:
        UserError: nobody is logged in or permission is lacking, or the Hub cannot be reached or refuses.
    """
    hub = optional_package("huggingface_hub", f"pushing to {repository} needs", "dnabert2_jax[hub]")
    errors = import_module("huggingface_hub.errors")
    # If the Hub does not answer, the error comes from the HTTP library of huggingface_hub: a base class of its own errors.
    failures = tuple(kind for kind in errors.HfHubHTTPError.__mro__ if kind not in (Exception, BaseException, object))
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository, folder_path=directory, commit_message="Model in Hugging Face's format, from dnabert2_jax"
        )
    except (*failures, errors.HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            remedy = "log in with `hf auth login` (or set HF_TOKEN) as someone who may write there"
        else:
            remedy = "try again"
        raise UserError(
            f"{directory} is written, but was not pushed to {repository} ({_reason(error)}); {remedy}: "
            f"`hf upload {repository} {directory}` pushes what is there"
        ) from error
    return f"{repository}@{commit.oid}"


def _reason(error: Exception) -> str:
    """The first line of the library's message, or of what caused it."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    return first_line(error.__cause__ or error).rstrip(".")
