"""Objects in a bucket: written whole by one request each, and directories of them that replace each other safely.

A bucket cannot rename. One object is written completely or not at all, but a directory of several is not, so it counts only
with its manifest, which is written last. It is first written beside its place, as ``.NAME.next``, sealed there, and then
copied over by the store itself: from that moment on, readers of ``NAME`` read ``.NAME.next`` until the copy is complete
(:func:`whole`). A kill at any moment therefore leaves the old directory or the new one.
"""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnabert2_jax.storage.paths import asking

MANIFEST = "manifest.json"
"""Written last: a directory counts from then on."""

for _library in ("gcsfs", "s3fs"):  # they print a traceback of what they raise, and it is raised as one line
    logging.getLogger(_library).setLevel(logging.CRITICAL)


def read(path: Path) -> bytes | None:
    """The content of an object, or None if there is none.

    Raises:
        BucketError: the bucket cannot be read.
    """
    with asking(path) as store:
        try:
            content: bytes = store.cat_file(os.fspath(path))
        except FileNotFoundError:
            return None
        return content


def write(path: Path, content: bytes) -> None:
    """Write an object.

    Raises:
        BucketError: it cannot be written.
    """
    with asking(path) as store:
        store.pipe_file(os.fspath(path), content)


def create(path: Path, content: bytes) -> bool:
    """Write an object if there is none; whether there was none.

    Stores (and emulators) that ignore the condition are found out by reading the object back.

    Raises:
        BucketError: it cannot be written.
    """
    with asking(path) as store:
        if read(path) is not None:
            return False
        try:
            store.pipe_file(os.fspath(path), content, mode="create")
        except FileExistsError:
            return False
        return read(path) == content


def names(path: Path) -> dict[str, Any]:
    """What the store says of each object below a directory, by name relative to it.

    Raises:
        BucketError: the bucket cannot be read.
    """
    with asking(path) as store:
        prefix = os.fspath(path).partition("://")[2].rstrip("/") + "/"
        found = store.find(os.fspath(path), detail=True)
        return {name.removeprefix(prefix): about for name, about in found.items() if name.startswith(prefix)}


def about(path: Path) -> dict[str, Any] | None:
    """What the store says of an object (size, entity tag), or None if there is none.

    Raises:
        BucketError: the bucket cannot be read.
    """
    with asking(path) as store:
        try:
            found: dict[str, Any] = store.info(os.fspath(path))
        except FileNotFoundError:
            return None
        return found if found["type"] == "file" else None


def upload(files: Mapping[str, Path], directory: Path) -> None:
    """Write local files as objects of a directory, several at a time.

    Raises:
        BucketError: one cannot be written.
    """
    with asking(directory) as store:
        store.put([str(file) for file in files.values()], [f"{directory}/{name}" for name in files])


def download(directory: Path, files: Iterable[str], folder: Path) -> None:
    """Copy objects of a directory into a local folder, several at a time.

    Raises:
        BucketError: one cannot be read.
        OSError: one cannot be written.
    """
    files = list(files)
    for parent in {(folder / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    with asking(directory) as store:
        store.get([f"{directory}/{name}" for name in files], [str(folder / name) for name in files])


def remove(directory: Path) -> None:
    """Delete all objects of a directory, its manifest first, so that a half-deleted one is unfinished rather than damaged.

    Raises:
        BucketError: one cannot be deleted.
    """
    _remove(directory, names(directory))


def remove_file(path: Path) -> None:
    """Delete an object.

    Raises:
        BucketError: it cannot be deleted.
    """
    with asking(path) as store:
        store.rm([os.fspath(path)])


def move(source: Path, target: Path) -> None:
    """Move all objects of a directory, its manifest first.

    Raises:
        BucketError: one cannot be copied or deleted.
    """
    for name in sorted(names(source), key=lambda name: name != MANIFEST):
        with asking(source) as store:
            store.cp_file(f"{source}/{name}", f"{target}/{name}")
            store.rm([f"{source}/{name}"])


def _remove(directory: Path, files: Iterable[str]) -> None:
    files = list(files)
    with asking(directory) as store:
        if MANIFEST in files:
            store.rm([f"{directory}/{MANIFEST}"])
            files.remove(MANIFEST)
        if files:
            store.rm([f"{directory}/{name}" for name in files])


def _next(path: Path) -> Path:
    return path.with_name(f".{path.name}.next")


def whole(path: Path) -> Path:
    """Where the directory ``path`` is to be read: beside it while its replacement is being copied.

    Raises:
        BucketError: the bucket cannot be read.
    """
    beside = _next(path)
    return path if read(beside / MANIFEST) is None else beside


def replace_directory(folder: Path, path: Path) -> None:
    """Put the content of a local folder in the place of a directory; what was there stays whole until the new one is.

    Without a manifest in the folder there is nothing to tell whole from half, and the objects are simply replaced.

    Raises:
        BucketError: it cannot be written.
    """
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    sealed = MANIFEST in files
    beside = _next(path)
    if whole(path) == beside:  # a replacement that was killed after its seal
        _take_over(beside, path)
    if sealed:  # beside it even if nothing is there yet: half a directory under its own name would look like a user's
        remove(beside)
        _upload_sealed(files, beside)
        _take_over(beside, path)
        return
    _remove(path, names(path).keys() - files.keys())
    _upload_sealed(files, path)


def _upload_sealed(files: Mapping[str, Path], path: Path) -> None:
    upload({name: file for name, file in files.items() if name != MANIFEST}, path)
    if MANIFEST in files:
        upload({MANIFEST: files[MANIFEST]}, path)


def _take_over(beside: Path, path: Path) -> None:
    """Copy a sealed directory from beside ``path`` into its place."""
    new = names(beside)
    _remove(path, {MANIFEST, *(names(path).keys() - new.keys())} & names(path).keys())
    for name in sorted(new, key=lambda name: name == MANIFEST):
        with asking(path) as store:
            store.cp_file(f"{beside}/{name}", f"{path}/{name}")
    remove(beside)


@contextmanager
def uploaded_file(path: Path) -> Iterator[Path]:
    """A local file to write to; it becomes the object ``path`` when the block ends without an error.

    Raises:
        BucketError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="dnabert2-") as folder:
        file = Path(folder) / path.name
        yield file
        upload({path.name: file}, path.parent)


@contextmanager
def uploaded_directory(path: Path) -> Iterator[Path]:
    """A local folder to write to; it takes the place of the directory ``path`` when the block ends without an error.

    Raises:
        BucketError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="dnabert2-") as temporary:
        folder = Path(temporary) / path.name
        folder.mkdir()
        yield folder
        replace_directory(folder, path)
