"""Damaged copies of a small valid file, for fuzzing readers."""

from hypothesis import strategies as st

# What formats give a meaning to: line ends, quotes, delimiters, marks, magic numbers, and text that is not ASCII.
_TOKENS = (
    *b'>\n\r\0",;\t@+# \x0b\x0c\x1a\x1c\xff',
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b"\xc3\xa9",
    "\u2028".encode(),
    b"\n>a\n",
    b"\r\n",
)
_tokens = st.sampled_from([token if isinstance(token, bytes) else bytes([token]) for token in _TOKENS])


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` after one to four edits: bytes put in, replaced, removed or repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        edit = draw(st.sampled_from(["insert", "replace", "remove", "repeat", "cut"]))
        if edit == "cut":
            del data[at:]
        elif edit == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 30))]
        else:
            old = 0 if edit == "insert" else draw(st.integers(1, 5))
            data[at : at + old] = b"" if edit == "remove" else draw(_tokens | st.binary(min_size=1, max_size=2))
    return bytes(data)
