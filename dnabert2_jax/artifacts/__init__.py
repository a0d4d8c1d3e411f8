"""Model and adapter directories: what every command writes and reads.

A model directory::

    config.json         format, kind of model, encoder sizes, labels
    model.safetensors   weights by parameter path, joined with "."
    tokenizer.model     and whatever else ``Tokenizer.save`` writes
    provenance.json     how it was made
    manifest.json       size and SHA-256 of every file above, written last

An adapter directory holds ``adapter.json``, ``adapter.safetensors``, ``provenance.json`` and ``manifest.json``: the LoRA
tree and the trained heads alone. It names its base by path and by the hash of the base encoder's tensors.

``model`` and ``adapter`` read and write them, ``directory`` has what both share, ``provenance`` is the record of how
something was made, and ``tensors`` turns parameter trees into named tensors and back. Nothing here depends on the versions
of Python, jax or numpy that wrote a directory.
"""
