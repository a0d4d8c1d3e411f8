"""Scores of genetic variants: what a model says about an alternative allele beside the reference's.

``records`` reads VCF, BCF and tables, ``reference`` the FASTA file, ``alleles`` puts an allele into its window, ``spans``
finds the tokens that it changes, ``llr`` sums over segmentations, ``scoring`` runs the model, ``output`` knows what is
written, and ``annotation`` is the whole job from file to file.
"""
