"""The cost of a model: its parameters and the FLOPs of a forward pass, derived from its configuration.

A matrix product of [m, k] and [k, n] takes 2 m k n operations. Everything else (LayerNorm, softmax, GELU, biases) is left
out, as usual, and so is the head, which in a classifier works on a single token.
"""

import math
from dataclasses import dataclass

from dnabert2_jax.gue.catalog import read_facts
from dnabert2_jax.modeling.flops import attention_flops, projection_flops

BASES_PER_TOKEN = 4.8
"""For DNABERT-2's tokenizer: 4.82 on 500-base windows of 15 species, 4.5 to 5.0 on tables of GUE."""


@dataclass(frozen=True)
class Architecture:
    """A BERT-like encoder with its masked-language-model head.

    Attributes:
        name: as the paper calls it.
        hidden_size: D.
        num_hidden_layers: N.
        intermediate_size: F.
        vocab_size: V.
        max_positions: learned positions; 0 for ALiBi.
        type_vocab_size: token types; 0 for none.
        gated: a GEGLU feed-forward layer, D -> 2F without bias.
        pre_norm: one more LayerNorm, at the end.
        k: bases per token; 0 for BPE.
        overlapping: whether there is a token at every base.
    """

    name: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    vocab_size: int
    max_positions: int = 0
    type_vocab_size: int = 0
    gated: bool = False
    pre_norm: bool = False
    k: int = 0
    overlapping: bool = False

    @property
    def parameters(self) -> int:
        """Parameters of the masked language model, the decoder tied to the word embeddings counted once."""
        d, f = self.hidden_size, self.intermediate_size
        norm = 2 * d
        embeddings = (self.vocab_size + self.max_positions + self.type_vocab_size) * d
        embeddings += 0 if self.pre_norm else norm
        feed_forward = 2 * f * d if self.gated else f * d + f
        block = 4 * (d * d + d) + feed_forward + f * d + d + 2 * norm
        head = d * d + d + norm + self.vocab_size
        return embeddings + self.num_hidden_layers * block + (norm if self.pre_norm else 0) + head

    def tokens(self, bases: int, bases_per_token: float = BASES_PER_TOKEN) -> int:
        """Tokens in a sequence, including special ones.

        Args:
            bases: its length.
            bases_per_token: average of BPE.
        """
        if not self.k:
            return round(bases / bases_per_token) + 2
        if self.overlapping:
            return bases - self.k + 1 + 2
        return bases // self.k + bases % self.k + 1  # remaining bases one by one, and [CLS]

    def forward_flops(self, tokens: int) -> int:
        """FLOPs of the encoder on one sequence.

        Args:
            tokens: in the sequence, T.
        """
        projections = projection_flops(self.hidden_size, self.intermediate_size, gated=self.gated)
        return self.num_hidden_layers * tokens * (projections + attention_flops(tokens, self.hidden_size))


def _dnabert(k: int) -> Architecture:
    return Architecture(
        f"DNABERT ({k}-mer)", 768, 12, 3072, 4**k + 5, max_positions=512, type_vocab_size=2, k=k, overlapping=True
    )


DNABERT_2 = Architecture("DNABERT-2", 768, 12, 3072, 4096, type_vocab_size=2, gated=True)

ARCHITECTURES = (
    *map(_dnabert, (3, 4, 5, 6)),
    Architecture("NT-500M", 1280, 24, 5120, 4105, max_positions=1002, pre_norm=True, k=6),
    Architecture("NT-2500M", 2560, 32, 10240, 4105, max_positions=1002, pre_norm=True, k=6),
    DNABERT_2,
)
"""The models of the paper's efficiency table, with the configurations of their releases."""


def published_efficiency() -> dict[str, tuple[int, float]]:
    """Millions of parameters and relative FLOPs at 500 bases by model, from table 3 of the paper."""
    return {
        row["model"]: (int(row["parameters_millions"]), float(row["relative_flops_500bp"]))
        for row in read_facts("published_efficiency.csv")
    }


@dataclass(frozen=True)
class Cost:
    """A model's cost at one sequence length, derived and published.

    Attributes:
        model: the architecture.
        tokens: in the sequence, including special ones.
        flops: of a forward pass.
        relative: ``flops`` divided by those of DNABERT-2.
        published_parameters: in millions.
        published_relative: from table 3 of the paper.
    """

    model: Architecture
    tokens: int
    flops: int
    relative: float
    published_parameters: int
    published_relative: float


def costs(bases: int = 500, bases_per_token: float = BASES_PER_TOKEN) -> list[Cost]:
    """The cost of every model; the published figures are for 500 bases.

    Args:
        bases: length of the sequence.
        bases_per_token: average of DNABERT-2's tokenizer.
    """
    published = published_efficiency()
    reference = DNABERT_2.forward_flops(DNABERT_2.tokens(bases, bases_per_token))
    rows = []
    for model in ARCHITECTURES:
        # The two NT-500M differ only in their training data, and so do the two NT-2500M.
        parameters, relative = next(row for name, row in published.items() if name.startswith(model.name))
        tokens = model.tokens(bases, bases_per_token)
        flops = model.forward_flops(tokens)
        rows.append(Cost(model, tokens, flops, flops / reference, parameters, relative))
    return rows


def explanations(rows: list[Cost]) -> list[str]:
    """Where the published figures agree with the configurations and where they do not, in words.

    Args:
        rows: of :func:`costs`.
    """
    by_name = {row.model.name: row for row in rows}
    dnabert, small, large = (by_name[name] for name in ("DNABERT (3-mer)", "NT-500M", "NT-2500M"))
    reference = dnabert.flops / dnabert.published_relative
    implied = _tokens_for(DNABERT_2, reference)
    own = by_name["DNABERT-2"].tokens
    small_tokens, large_tokens = (_tokens_for(row.model, row.published_relative * reference) for row in (small, large))
    ratio = large.published_relative / small.published_relative
    longest = small.model.max_positions
    most, least = (large.model.forward_flops(n) / small.model.forward_flops(n) for n in (1, longest))
    return [
        f"DNABERT: published {dnabert.published_relative:.2f}, derived {dnabert.relative:.2f}. It has exactly one "
        f"token per base; the published figure follows if DNABERT-2 reads {implied:.0f} tokens instead of {own}. BPE tokens "
        "depend on the sequence, and padding may have been counted.",
        f"NT-2500M / NT-500M: published {ratio:.2f}, derived {large.flops / small.flops:.2f}. Both read the same tokens, "
        f"and the ratio hardly depends on how many: {most:.2f} at one token, {least:.2f} at {longest:,}. No length gives "
        f"{ratio:.2f}: on the scale that fits DNABERT, the published figures would take {small_tokens:.0f} tokens for "
        f"NT-500M and {large_tokens:.0f} for NT-2500M.",
        "Parameters agree: the published figures are the derived ones in millions.",
    ]


def _tokens_for(model: Architecture, flops: float) -> float:
    """Tokens T that take this many operations: the root of a T + b T^2 = flops."""
    quadratic = 4 * model.num_hidden_layers * model.hidden_size
    linear = model.forward_flops(1) - quadratic
    return (math.sqrt(linear**2 + 4 * quadratic * flops) - linear) / (2 * quadratic)
