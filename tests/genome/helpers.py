from pathlib import Path

import numpy as np


def random_dna(bases: int, seed: int, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), bases))


def write_fasta(path: Path, contigs: dict[str, str], width: int = 60) -> Path:
    lines = [f">{name}\n" + "".join(s[i : i + width] + "\n" for i in range(0, len(s), width)) for name, s in contigs.items()]
    path.write_text("".join(lines))
    return path
