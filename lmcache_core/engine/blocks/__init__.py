"""Blocks under names of their own, for a host that has its own index."""
