"""The pins of one engine, kept apart from leases and from bytes."""
