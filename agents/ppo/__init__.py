"""`MemoryPPO` and its trainer."""
