import pytest

from dnabert2_jax.variants.consequences import Consequences, severity

VEP = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Consequences from Ensembl VEP. Format: Allele|Consequence|IMPACT">'
SNPEFF = "##INFO=<ID=ANN,Number=.,Type=String,Description=\"Annotations: 'Allele | Annotation | Annotation_Impact' \">"


@pytest.mark.parametrize(("header", "key"), [(VEP, "CSQ"), (SNPEFF, "ANN")])
def test_the_most_severe_term_of_each_allele(header, key):
    reader = Consequences.of_header(["##fileformat=VCFv4.2", header, "#CHROM"])
    info = f"AF=0.1;{key}=G|intron_variant|X,G|missense_variant&splice_region_variant|X,T|synonymous_variant|X;DB2_LLR=1"
    assert reader.of(info, "A", ("G", "T", "C")) == ["missense_variant", "synonymous_variant", ""]
    assert reader.of("AF=0.1", "A", ("G",)) == [""]
    assert reader.of(f"{key}=", "A", ("G",)) == [""]
    assert reader.of(f"{key}=G", "A", ("G",)) == [""]  # an entry that lacks its parts


def test_indels_are_named_without_the_base_that_they_share():
    reader = Consequences.of_header([VEP])
    info = "CSQ=-|frameshift_variant|X,TT|inframe_insertion|X"
    assert reader.of(info, "AC", ("A", "ATT")) == ["frameshift_variant", "inframe_insertion"]
    assert reader.of("CSQ=whatever|stop_gained|X", "AC", ("A",)) == ["stop_gained"]  # of the only ALT


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ['##INFO=<ID=CSQ,Number=.,Type=String,Description="who knows">'],
        ['##INFO=<ID=CSQ,Number=.,Type=String,Description="Format: Gene|Impact">'],
        ['##INFO=<ID=CSQX,Number=.,Type=String,Description="Format: Allele|Consequence">'],
    ],
)
def test_headers_that_do_not_say(lines):
    assert Consequences.of_header(lines) is None


def test_severity():
    assert severity("stop_gained") < severity("missense_variant") < severity("intron_variant") < severity("unheard_of")
