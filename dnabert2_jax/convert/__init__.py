"""Models to and from the layout in which DNABERT-2 is shared on Hugging Face, without torch or transformers.

``names`` is the table of tensor names, ``weights`` and ``torch_pickle`` read the files, ``settings`` the configuration, and
``hugging_face`` puts them together.
"""
