"""What a backbone adapter hands to `HookedViT`: the parts of a pre-norm ViT, by reference.

Every part keeps the module that owns its weights and reads them when called, so nothing is copied, `.to()` and training
reach it, and `deepcopy` of the wrapper takes the parts along. None of them is an `nn.Module`: the wrapped model stays
the one owner of its parameters.
"""
