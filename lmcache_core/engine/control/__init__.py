"""What the controller asks of an engine, and what the engine tells it."""
