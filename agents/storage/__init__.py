"""Files, tensors, cards, spaces, random states and checkpoints of any algorithm."""
