"""``ShelfBackend``: frames as files in a folder."""
