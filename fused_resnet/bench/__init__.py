"""The benchmark suite: ours beside eager PyTorch, torch.compile and other libraries.

``python -m benchmarks`` in a source checkout, ``fused-resnet bench`` anywhere.
"""
