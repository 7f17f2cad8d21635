"""``lmcache disk``: the folders of a disk tier, looked at from without."""
