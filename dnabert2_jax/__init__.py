"""DNABERT-2 in JAX: pretrain, fine-tune and use a DNA language model."""
