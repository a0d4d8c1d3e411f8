"""Models to and from the layout in which DNABERT-2 is shared on Hugging Face, without torch or transformers.

``names`` is the table of tensor names; ``weights``, ``torch_pickle`` and ``safe_pickle`` read the files,
``settings`` the configuration, ``peft`` adapters, and ``hugging_face`` puts them together.
"""
