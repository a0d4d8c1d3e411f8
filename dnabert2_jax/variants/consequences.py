"""Consequences that an annotator such as VEP (``CSQ``) or SnpEff (``ANN``) wrote into a VCF."""

import re
from collections.abc import Iterable, Sequence

KEYS = ("CSQ", "ANN")

_BY_SEVERITY = (
    *("transcript_ablation", "splice_acceptor_variant", "splice_donor_variant", "stop_gained", "frameshift_variant"),
    *("stop_lost", "start_lost", "transcript_amplification", "feature_elongation", "feature_truncation"),
    *("inframe_insertion", "inframe_deletion", "missense_variant", "protein_altering_variant"),
    *("splice_donor_5th_base_variant", "splice_region_variant", "splice_donor_region_variant"),
    *("splice_polypyrimidine_tract_variant", "incomplete_terminal_codon_variant", "start_retained_variant"),
    *("stop_retained_variant", "synonymous_variant", "coding_sequence_variant", "mature_miRNA_variant"),
    *("5_prime_UTR_variant", "3_prime_UTR_variant", "non_coding_transcript_exon_variant", "intron_variant"),
    *("NMD_transcript_variant", "non_coding_transcript_variant", "coding_transcript_variant", "upstream_gene_variant"),
    *("downstream_gene_variant", "TFBS_ablation", "TFBS_amplification", "TF_binding_site_variant"),
    *("regulatory_region_ablation", "regulatory_region_amplification", "regulatory_region_variant"),
    *("intergenic_variant", "sequence_variant"),
)
"""Terms of the Sequence Ontology in Ensembl's order of severity."""

_SEVERITY = {term: rank for rank, term in enumerate(_BY_SEVERITY)}


def severity(term: str) -> int:
    """The rank of a term, from 0 for the most severe; unranked terms come last."""
    return _SEVERITY.get(term, len(_SEVERITY))


class Consequences:
    """Reads the most severe consequence of each ALT.

    Args:
        key: the INFO key.
        parts: names of the ``|``-separated parts of its entries.
    """

    def __init__(self, key: str, parts: Sequence[str]) -> None:
        lower = [part.lower() for part in parts]
        self._key, self._allele = f"{key}=", lower.index("allele")
        self._term = lower.index("consequence") if "consequence" in lower else lower.index("annotation")

    @classmethod
    def of_header(cls, lines: Iterable[str]) -> "Consequences | None":
        """A reader for the key that a header defines; None if it defines none, or does not name the parts."""
        for line in lines:
            found = re.match(f'##INFO=<ID=({"|".join(KEYS)}),.*Description="([^"]*)"', line)
            if found and "|" in found[2]:
                parts = [part.strip(" '\"") for part in re.sub("^.*?:", "", found[2]).split("|")]
                if {"allele"} < {part.lower() for part in parts} & {"allele", "consequence", "annotation"}:
                    return cls(found[1], parts)
        return None

    def of(self, info: str, ref: str, alts: Sequence[str]) -> list[str]:
        """The most severe consequence of each ALT; empty if none is given.

        Args:
            info: the INFO column.
            ref: REF.
            alts: the ALT alleles.
        """
        value = next((entry[len(self._key) :] for entry in info.split(";") if entry.startswith(self._key)), "")
        entries = [entry.split("|") for entry in value.split(",")] if value else []
        entries = [entry for entry in entries if len(entry) > max(self._allele, self._term)]
        found = []
        for alt in alts:
            # VEP omits the first base shared by the alleles of an indel.
            names = {alt, (alt[1:] or "-") if alt[:1] == ref[:1] else alt}
            own = [entry for entry in entries if len(alts) == 1 or entry[self._allele] in names]
            terms = [term for entry in own for term in entry[self._term].split("&") if term]
            found.append(min(terms, key=severity, default=""))
        return found
