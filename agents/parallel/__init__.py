"""Data-parallel training: the ranks of a training on `torch.distributed`.

Every rank steps its own share of the sub-environments and computes the gradient of its share of each minibatch.
Everything that a training of one process computes from all environments is computed over all ranks, so that the
weights are those of one process.
"""
