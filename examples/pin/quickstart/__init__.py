"""The pin example, from nothing to an answer: see ``make quickstart``."""
