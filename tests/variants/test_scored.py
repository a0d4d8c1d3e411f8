"""Scores as they were written, read back."""

import numpy as np
import pytest

from dnabert2_jax.genome.reference import Reference
from dnabert2_jax.inference.record import make_record
from dnabert2_jax.variants.annotation import plan_annotation
from dnabert2_jax.variants.records import open_variants
from dnabert2_jax.variants.scored import read_back
from dnabert2_jax.variants.scoring import ScoringOptions
from tests.genome.helpers import random_dna, write_fasta
from tests.variants.helpers import FLANK, other_base, random_classifier

GENOME = random_dna(120, 7)
CSQ = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Format: Allele|Consequence">\n'


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A VCF and tables with the scores of two sites, at each of which one ALT of two cannot be scored."""
    path = tmp_path_factory.mktemp("scored")
    model = random_classifier()
    write_fasta(path / "ref.fa", {"1": GENOME})
    alts = {at: other_base(GENOME[at - 1]) for at in (50, 60)}
    lines = [
        f"1\t{at}\t.\t{GENOME[at - 1]}\t<DEL>,{alt}\t.\t.\tCSQ=deletion|intron_variant,{alt}|stop_gained\n"
        for at, alt in alts.items()
    ]
    (path / "in.vcf").write_text(
        f"##fileformat=VCFv4.2\n{CSQ}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n{''.join(lines)}"
    )
    with Reference(path / "ref.fa") as reference:
        options = ScoringOptions(("delta", "emb"), FLANK, "+", batch_tokens=1)
        job = plan_annotation(model, reference, open_variants(path / "in.vcf"), options)
        record = make_record(model, "variants", variants="in.vcf")
        job.run(path / "out.vcf", path / "out.tsv", record)
    return path, job.scorer.fields, record


def test_from_vcf_and_table(written):
    path, fields, _ = written
    wanted = [field for field in fields if field.column in ("emb", "delta_none")]
    vcf, table = read_back(path / "out.vcf", wanted), read_back(path / "out.tsv", wanted)
    assert vcf.statuses == table.statuses == {"symbolic": 2, "ok": 2}
    assert vcf.consequences == ["stop_gained", "stop_gained"]
    assert table.consequences is None
    for name in ("emb", "delta_none"):
        assert vcf.scores[name].shape == (2,)
        assert len(set(vcf.scores[name].tolist())) == 2
        np.testing.assert_array_equal(vcf.scores[name], table.scores[name])
    lines = [line.split("\t") for line in (path / "out.tsv").read_text().splitlines()]
    expected = [row[lines[0].index("emb")] for row in lines if row[lines[0].index("status")] == "ok"]
    np.testing.assert_array_equal(vcf.scores["emb"], np.array(expected, np.float32))
