"""What a model's output depends on, base by base: one module per method, each from sequences to a list of results.

``ism`` substitutes every base; ``ig`` and ``saliency`` follow gradients (``gradients`` is what they share), ``attention``
shows where the encoder looks, and ``dependency`` which bases of a masked language model depend on which. ``target`` is the
number that is explained, ``inputs`` what all methods require of sequences, ``results`` the file that is written, and
``modisco`` the input of TF-MoDISco.
"""
