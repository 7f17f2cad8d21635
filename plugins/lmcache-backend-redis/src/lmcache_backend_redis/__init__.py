"""``redis``: frames in Redis or Valkey, one server or a cluster, shared by several engines."""
