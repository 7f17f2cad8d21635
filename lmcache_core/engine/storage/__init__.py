"""One storage tier: any storage backend, driven from threads of its own."""
