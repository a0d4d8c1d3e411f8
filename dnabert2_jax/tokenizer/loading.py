"""``Tokenizer`` with every kind of tokenizer registered, so that ``Tokenizer.load`` reads any of them.

The kinds import the base class, which therefore cannot import them: import the class from here to load a tokenizer.
"""

from dnabert2_jax.tokenizer.base import Tokenizer as Tokenizer
from dnabert2_jax.tokenizer.base import readers
from dnabert2_jax.tokenizer.bpe import BpeTokenizer
from dnabert2_jax.tokenizer.hugging_face import read_tokenizer_json
from dnabert2_jax.tokenizer.kmer import KmerTokenizer
from dnabert2_jax.tokenizer.tokenizer_json import TOKENIZER_JSON

# In the order a directory is searched.
readers[BpeTokenizer.file_name] = BpeTokenizer
readers[TOKENIZER_JSON] = read_tokenizer_json
readers[KmerTokenizer.file_name] = KmerTokenizer.from_json
