"""Orders in which the entries of a tier go: LRU, MRU, FIFO, LFU and S3-FIFO."""
