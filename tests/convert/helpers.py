"""Directories in the Hugging Face layout, files as torch and its attackers write them, and tensors that need no file."""

import io
import json
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests import parity
from tests.helpers import tiny_tokenizer

TORCH_FILES = Path(__file__).parent / "torch_files"
HEADS = 8


@dataclass
class InMemory:
    """A reader of tensors that are there already."""

    tensors: dict[str, np.ndarray]

    @property
    def shapes(self):
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name):
        return self.tensors[name]


def tensors(kind="masked_lm"):
    return parity.of_kind(parity.weights(parity.settings(HEADS), HEADS), kind)


def hf_directory(path: Path, kind="masked_lm", *, weights=None, **settings) -> Path:
    """A directory as people have it; ``None`` takes a setting out."""
    path.mkdir(parents=True)
    tiny_tokenizer().save_hugging_face(path)
    merged = parity.settings(HEADS) | settings
    (path / "config.json").write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    save_file(tensors(kind) if weights is None else weights, path / "model.safetensors")
    return path


@dataclass(frozen=True)
class Payload:
    """Unpickled by Python, this makes a directory by a call of os.mkdir."""

    directory: Path

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


def write_archive(path: Path, program: bytes, members=(), compression=zipfile.ZIP_STORED) -> Path:
    """A zip archive in torch's form around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
        for info, content in members:
            archive.writestr(info, content)
    return path


def write_legacy(path: Path, program: bytes) -> Path:
    """torch's older format around a pickle, without storages."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps([], 2))
    return path


def program_of(archive: Path) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        [name] = [name for name in opened.namelist() if name.endswith("data.pkl")]
        return opened.read(name)


def with_program(archive: Path, program: bytes) -> bytes:
    """The bytes of an archive whose pickle is another one; all checksums hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            target.writestr(info.filename, program if info.filename.endswith("data.pkl") else source.read(info))
    return buffer.getvalue()


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes changed, put in or taken out, and the end cut off now and then."""
    place, byte = st.integers(0, len(content)), st.binary(min_size=0, max_size=4)
    edits = st.lists(st.tuples(place, st.integers(0, 4), byte), max_size=4)

    def mutate(edits, end):
        changed = bytearray(content)
        for at, removed, put in sorted(edits, reverse=True):
            changed[at : at + removed] = put
        return bytes(changed[:end])

    return st.builds(mutate, edits, st.just(len(content) + 16) | place)
