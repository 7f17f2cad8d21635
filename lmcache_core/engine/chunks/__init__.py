"""Chunks of a token sequence: names, pages, bytes, and what is held of them."""
