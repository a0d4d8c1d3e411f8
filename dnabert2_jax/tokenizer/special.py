"""The five special tokens. Their ids are those of the released DNABERT-2 tokenizer, and every tokenizer here keeps them."""

UNK, CLS, SEP, PAD, MASK = range(5)
SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
NUM_SPECIAL = len(SPECIAL_TOKENS)
BASES = "ACGT"
