"""``LocalDiskBackend``: frames in files of one folder, found again after a restart."""
