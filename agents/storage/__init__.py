"""Files, tensors, cards, spaces, random states and checkpoints, for all algorithms."""
