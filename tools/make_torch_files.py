"""Write tests/convert/torch_files: small state dicts saved by torch itself, in both of its formats.

    PYTHON-WITH-TORCH tools/make_torch_files.py

The values are computed from the index, so that tests/convert/test_torch_pickle.py can reproduce them without torch.
"""

from collections import OrderedDict
from pathlib import Path

import torch

FILES = Path(__file__).parents[1] / "tests" / "convert" / "torch_files"


def main() -> None:
    """Write every file."""
    numbers = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    flat = torch.arange(20, dtype=torch.float32)
    state = OrderedDict(
        numbers=numbers,
        tied=numbers,
        half=numbers.half(),
        brain=numbers.bfloat16(),
        counts=numbers.long(),
        transposed=numbers.t(),
        part=flat[3:15].view(4, 3),
        every_other=flat[1::2],
        scalar=torch.tensor(1.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(numbers + 1),
    )
    state._metadata = OrderedDict([("", {"version": 1})])  # as set by Module.state_dict()
    FILES.mkdir(exist_ok=True)
    torch.save(state, FILES / "archive.bin")
    torch.save(state, FILES / "archive_protocol_4.bin", pickle_protocol=4)
    torch.save(state, FILES / "legacy.bin", _use_new_zipfile_serialization=False)
    for file in sorted(FILES.iterdir()):
        print(f"saved {file}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
