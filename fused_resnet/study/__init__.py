"""The experiments of "Deep Residual Learning" (He et al. 2015), with this package's blocks.

``python -m fused_resnet.study --help`` lists them. `recipes` has the paper's recipes and needs torch alone.
"""
