"""Frames of a storage tier, compressed with zstd."""
