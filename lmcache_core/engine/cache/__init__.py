"""The cache as a connector drives it: requests, stores and loads."""
