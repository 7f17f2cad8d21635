"""Frames: how a chunk lies in a store, is written, read and proved."""
