"""The tiers of an instance together, and what goes from one to another."""
