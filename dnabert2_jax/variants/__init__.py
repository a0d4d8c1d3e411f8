"""Scores of genetic variants: what a model says about an alternative allele beside the reference's.

``records`` reads VCF, BCF and tables, ``alleles`` puts an allele into its window, ``windows`` encodes it, ``spans`` finds
the tokens that it changes, ``llr`` sums over segmentations, ``emb`` compares embeddings, ``splice`` splice sites,
``scoring`` runs the model, ``output`` knows what is written, ``annotation`` is the whole job from file to file, and
``scored`` reads back what was written.
"""
