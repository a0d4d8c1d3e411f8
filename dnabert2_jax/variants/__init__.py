"""Scores of genetic variants: a model's output for the alternative allele compared with the reference allele.

``records`` reads VCF, BCF and tables, ``alleles`` cuts the window around an allele, ``windows`` tokenizes it, ``spans``
finds the tokens that differ, ``llr`` sums over segmentations, ``emb`` compares embeddings, ``splice`` splice sites,
``scoring`` runs the model, ``output`` formats the results, ``annotation`` runs the job from file to file, and ``scored``
reads written scores back.
"""
