"""Further training of networks with few active units; :func:`lrgate.torch.sparsify` uses it."""
