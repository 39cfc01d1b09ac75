"""Ban lists: addresses that are dropped from the next packet on, one element at a time, without touching any table."""
