"""Engines and controller over ZeroMQ, MessagePack frames."""
