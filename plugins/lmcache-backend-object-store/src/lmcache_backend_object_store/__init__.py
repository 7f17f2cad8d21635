"""Object stores as a tier of lmcache, through obstore."""
