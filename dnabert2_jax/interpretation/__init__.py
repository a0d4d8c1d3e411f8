"""Explanations of a model's output, base by base: one module per method, each mapping sequences to a list of results.

``ism`` substitutes every base, ``ig`` and ``saliency`` use gradients (their shared code is in ``gradients``), ``attention``
returns attention weights, and ``dependency`` returns dependencies between bases of a masked language model. ``target``
defines the output to explain, ``inputs`` checks sequences, ``results`` writes files, and ``modisco`` writes input for
TF-MoDISco.
"""
