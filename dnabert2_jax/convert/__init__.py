"""Models to and from the Hugging Face layout of DNABERT-2, without torch or transformers.

``names`` is the table of tensor names; ``weights``, ``torch_pickle`` and ``safe_pickle`` read the files,
``settings`` the configuration, ``peft`` adapters, and ``hugging_face`` puts them together.
"""
