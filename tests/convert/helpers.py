"""Directories in the Hugging Face layout, and tensors that need no file."""

from dataclasses import dataclass

import numpy as np


@dataclass
class InMemory:
    """A reader of tensors that are there already."""

    tensors: dict[str, np.ndarray]

    @property
    def shapes(self):
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name):
        return self.tensors[name]
