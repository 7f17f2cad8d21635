"""Frames of a storage tier, encrypted with AES-256-GCM."""
