"""A hub for the UCSC Genome Browser that stacks four bigWig files, of A, C, G and T, as letters: a sequence logo.

The settings are those of UCSC's Hub Track Database Definition (``container multiWig``, ``aggregate stacked``, ``logo on``).
"""

from collections.abc import Sequence
from pathlib import Path

from dnabert2_jax.genome.letters import BASES
from dnabert2_jax.storage.atomic import write_bytes

HUB = "hub.txt"

_COLORS = {"A": "0,128,0", "C": "0,0,255", "G": "255,166,0", "T": "255,0,0"}
_MOST_BITS = 2


def write_hub(folder: Path, files: Sequence[str], genome: str) -> Path:
    """Write ``hub.txt``, a whole hub in one file, next to the bigWig files that it lists.

    Args:
        folder: where the files are.
        files: names of the bigWig files: ``A.plus.bw``, ... of one or both strands.
        genome: the assembly's name at UCSC, such as ``hg38``.

    Returns:
        The path of the hub's file.
    """
    stanzas = [
        {
            "hub": "dnabert2_logo",
            "shortLabel": "DNABERT-2 logo",
            "longLabel": "DNABERT-2: predicted bases, in bits",
            "useOneFile": "on",
            "email": "nobody@example.org",
        },
        {"genome": genome},
    ]
    for strand in ("plus", "minus"):
        if f"A.{strand}.bw" not in files:
            continue
        parent = f"logo_{strand}"
        stanzas.append(
            {
                "track": parent,
                "container": "multiWig",
                "noInherit": "on",
                "type": f"bigWig 0 {_MOST_BITS}",
                "shortLabel": f"Logo, {strand}",
                "longLabel": f"Probability of each base times its information, {strand} strand",
                "aggregate": "stacked",
                "logo": "on",
                "visibility": "full",
                "viewLimits": f"0:{_MOST_BITS}",
            }
        )
        stanzas += [
            {
                "track": f"{parent}_{base}",
                "parent": parent,
                "type": f"bigWig 0 {_MOST_BITS}",
                "shortLabel": base,
                "longLabel": f"{base}, {strand} strand",
                "priority": str(number),
                "color": _COLORS[base],
                "bigDataUrl": f"{base}.{strand}.bw",
            }
            for number, base in enumerate(BASES, start=1)
        ]
    text = "\n".join("".join(f"{key} {value}\n" for key, value in stanza.items()) for stanza in stanzas)
    return write_bytes(folder / HUB, text.encode())
