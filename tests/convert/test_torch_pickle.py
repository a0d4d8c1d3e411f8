"""State dicts as torch saves them, and what people hide in such files."""

import pickle
import stat
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dnabert2_jax.convert.torch_pickle import open_pickled_tensors
from dnabert2_jax.errors import UserError
from tests.convert.helpers import (
    TORCH_FILES,
    Payload,
    mutations,
    program_of,
    with_program,
    write_archive,
    write_legacy,
)

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
FLAT = np.arange(20, dtype=np.float32)
EXPECTED = {
    "numbers": NUMBERS,
    "tied": NUMBERS,
    "half": NUMBERS,
    "brain": NUMBERS,
    "counts": NUMBERS.astype(np.int64),
    "transposed": NUMBERS.T,
    "part": FLAT[3:15].reshape(4, 3),
    "every_other": FLAT[1::2],
    "scalar": np.float32(1.5),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": NUMBERS + 1,
}
ARCHIVE, LEGACY = TORCH_FILES / "archive.bin", TORCH_FILES / "legacy.bin"
FILES = [ARCHIVE, TORCH_FILES / "archive_protocol_4.bin", LEGACY]


def read_all(path):
    opened = open_pickled_tensors(path)
    return {name: opened.read(name) for name in opened.shapes}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_torch_wrote(file):
    found = read_all(file)
    assert list(found) == list(EXPECTED)
    types = {"half": "float16", "brain": "bfloat16", "counts": "int64"}
    for name, expected in EXPECTED.items():
        assert found[name].dtype == types.get(name, "float32")
        assert found[name].shape == expected.shape
        np.testing.assert_array_equal(found[name].astype(expected.dtype), expected)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("heads", ["heads8", "heads12"])
def test_what_the_original_code_saved(heads, shared_dir):
    from safetensors.numpy import load_file

    directory = shared_dir / "fixtures" / heads
    found, expected = read_all(directory / "pytorch_model.bin"), load_file(directory / "model.safetensors")
    decoder = found.pop("cls.predictions.decoder.weight")
    np.testing.assert_array_equal(decoder, expected["bert.embeddings.word_embeddings.weight"])
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def hostile_programs(directory):
    """Pickles that would make ``directory``, by name; the ones of protocol 2 and 4, bare and deep in a state dict."""
    payload = Payload(directory)
    return {
        "bare": pickle.dumps(payload, 2),
        "protocol_4": pickle.dumps(payload, 4),
        "nested": pickle.dumps({"weight": [({"a": payload},)]}, 2),
        "key": pickle.dumps({("a", payload): 1}, 2),
        "text_protocol": pickle.dumps({"weight": payload}, 0),
    }


@pytest.mark.parametrize("write", [write_archive, write_legacy], ids=["archive", "legacy"])
@pytest.mark.parametrize("kind", hostile_programs(None))
def test_code_is_refused_and_not_run(tmp_path, write, kind):
    target = tmp_path / "made"
    program = hostile_programs(target)[kind]
    pickle.loads(program)
    assert target.is_dir(), "the payload is alive"
    target.rmdir()
    if kind == "text_protocol" and write is write_legacy:
        program = b"\x80\x02" + program
    with pytest.raises(UserError, match=r"asks for (posix\.mkdir|opcode \w+), .*could run code; nothing was run"):
        open_pickled_tensors(write(tmp_path / "pytorch_model.bin", program))
    assert not target.exists()


REFUSED = {
    "builtin": (b"\x80\x02cbuiltins\neval\n.", "asks for builtins.eval"),
    "attribute": (
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
        "asks for collections.OrderedDict.fromkeys",
    ),
    "escape": (b"\x80\x02cos\\q\nsystem\n.", r"asks for os\\q\.system"),
    "line_break": (b"\x80\x04\x8c\x02os\x8c\x03a\nb\x93.", r"asks for 'os\.a\\nb'"),
    "unfinished_name": (b"\x80\x02cos", "damaged state dict .it ends too early"),
    "loader": (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "asks for torch.storage._load_from_bytes"),
    "new_object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "asks for opcode NEWOBJ"),
    "extension": (b"\x80\x02\x82\x01.", "asks for opcode EXT1"),
    "instance": (b"\x80\x02(iposix\nsystem\n.", "asks for opcode INST"),
    "storage_called": (b"\x80\x02ctorch\nFloatStorage\n)R.", "asks for a call of torch.FloatStorage"),
    "text_called": (b"\x80\x02X\x01\x00\x00\x00a)R.", "asks for a call of a str"),
    "attributes_of_a_function": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.", "asks for attributes of a name"),
    "no_opcode": (b"\x80\x02\xff.", r"asks for opcode b'\\xff'"),
    "stack": (b"\x80\x02t.", "damaged state dict"),
    "memo": (b"\x80\x02h\x05.", "damaged state dict"),
    "length": (b"\x80\x02X\xff\xff\xff\xffabc.", "damaged state dict"),
    "length_of_8_bytes": (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "damaged state dict"),
    "slot_of_the_memo": (b"\x80\x02}r\xff\xff\xff\xff.", None),
    "deep_key": (b"\x80\x02})" + b"\x85" * 900_000 + b"Ns.", "damaged state dict .a tuple as key"),
    "doubling_key": (b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns.", "damaged state dict .a tuple as key"),
    "duplicate": (b"\x80\x02}2.", "asks for opcode DUP"),
    "list": (b"\x80\x02].", "holds a list, not a state dict"),
    "checkpoint": (
        b"\x80\x02}X\x05\x00\x00\x00epochK\x01s.",
        r"found 'epoch' \(int\); from a training checkpoint, save only the model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("write", [write_archive, write_legacy], ids=["archive", "legacy"])
def test_refused_programs(tmp_path, write, name):
    program, message = REFUSED[name]
    path = write(tmp_path / "pytorch_model.bin", program)
    if message is None:  # the slot's number is a key like any other: nothing is made for the ones before it
        assert read_all(path) == {}
        return
    with pytest.raises(UserError, match=message):
        read_all(path)


def tensor_program(offset=0, shape=(2, 3), strides=(3, 1), elements=6, key="0"):
    """A state dict of one tensor."""
    kind, rebuild = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
    value = lambda x: pickle.dumps(x, 2)[2:-1]  # noqa: E731
    identity = b"(" + value("storage") + kind + value(key) + value("cpu") + value(elements) + b"tQ"
    return (
        b"\x80\x02}"
        + value("weight")
        + rebuild
        + b"("
        + identity
        + value(offset)
        + value(shape)
        + value(strides)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "in a storage of 6 elements"),
        ({"strides": (4, 1)}, "in a storage of 6 elements"),
        ({"shape": (10**9, 10**9), "strides": (0, 0)}, "in a storage of 6 elements"),
        ({"shape": (2,), "strides": (3, 1)}, "offset, shape and strides"),
        ({"shape": (2, -3)}, "offset, shape and strides"),
        ({"strides": (-3, 1)}, "offset, shape and strides"),
        ({"offset": "0"}, "offset, shape and strides"),
        ({"offset": 10**40, "shape": (0,), "strides": (1,)}, "in a storage of 6 elements"),
        ({"elements": -6}, "without type, key or size"),
        ({"elements": 7}, "' has 24 bytes instead of 28"),
        ({"elements": 10**15}, "' has 24 bytes instead of 4000000000000000"),
        ({"key": "../0"}, r"archive/data/\.\./0' is missing"),
    ],
    ids=str,
)
def test_tensors_stay_within_their_storage(tmp_path, changes, message):
    members = [("archive/data/0", NUMBERS.tobytes())]
    sound = write_archive(tmp_path / "sound.bin", tensor_program(), members)
    np.testing.assert_array_equal(read_all(sound)["weight"], NUMBERS)
    with pytest.raises(UserError, match=message):
        read_all(write_archive(tmp_path / "pytorch_model.bin", tensor_program(**changes), members))


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../evil", b"x")], r"member '\.\./evil' of the archive has a name that leads out of the archive"),
        ([("archive/data/../../../evil", b"x")], "leads out of the archive"),
        ([("/etc/evil", b"x")], "leads out of the archive"),
        ([("..\\evil", b"x")], "leads out of the archive"),
        ([("C:\\evil", b"x")], "leads out of the archive"),
        ([(link("archive/data/0"), b"/etc/passwd")], "is a symbolic link"),
        ([("archive/constants.pkl", b"x")], "a TorchScript program"),
    ],
    ids=str,
)
def test_refused_archives(tmp_path, members, message):
    path = write_archive(tmp_path / "pytorch_model.bin", pickle.dumps({}, 2), members)
    with pytest.raises(UserError, match=message):
        open_pickled_tensors(path)
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_members_are_refused(tmp_path):
    path = write_archive(tmp_path / "bomb.bin", b"\x80\x02" + b"0" * 10**6, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 5000
    with pytest.raises(UserError, match="is compressed"):
        open_pickled_tensors(path)


def test_a_member_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_archive(tmp_path / "twice.bin", pickle.dumps({}, 2), [("archive/data.pkl", pickle.dumps({}, 2))])
    with pytest.raises(UserError, match="occurs twice"):
        open_pickled_tensors(path)


def test_a_flipped_byte_of_a_tensor_is_found(tmp_path):
    content = bytearray(ARCHIVE.read_bytes())
    content[content.index(NUMBERS.tobytes())] ^= 1
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    opened = open_pickled_tensors(path)
    with pytest.raises(UserError, match="archive/data/0' is damaged"):
        opened.read("numbers")


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"<html>", b"\x80\x02N."], ids=str)
def test_files_of_other_kinds(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        open_pickled_tensors(path)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_truncated_files(file, tmp_path):
    content = file.read_bytes()
    path = tmp_path / "pytorch_model.bin"
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(UserError):
            read_all(path)


def loads_or_explains(path):
    """The reader returns, or says what is wrong; it never needs much more memory than the file has bytes."""
    message = str(path)
    tracemalloc.start()
    try:
        read_all(path)
    except UserError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert str(path) in message
    assert "\n" not in message
    assert peak < 2_000_000


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(mutations(ARCHIVE.read_bytes()))
def test_fuzzed_archives(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    loads_or_explains(path)


@FUZZ
@given(mutations(program_of(ARCHIVE)))
def test_fuzzed_programs(tmp_path, program):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(with_program(ARCHIVE, program))
    loads_or_explains(path)


@FUZZ
@given(mutations(LEGACY.read_bytes()))
def test_fuzzed_legacy_files(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    loads_or_explains(path)


@FUZZ
@given(st.binary(max_size=60))
@example(b"(" * 50 + b"t.")
@example(b"}" + b"\x85" * 40 + b"}s.")
def test_random_programs(tmp_path, program):
    loads_or_explains(write_archive(tmp_path / "pytorch_model.bin", b"\x80\x02" + program))
