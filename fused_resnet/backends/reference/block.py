"""Whole residual blocks, by the convolutions that they are made of."""

from .conv import Convolutions


class Blocks(Convolutions):
    """The convolution ops, and blocks of them."""

    def conv_chain_fprop(
        self,
        x,
        weights,
        biases,
        norms,
        strides,
        paddings,
        dilations,
        groups,
        projection_weight,
        projection_norm,
        projection_stride,
        residual,
        act,
    ):
        """``act(BN(conv(... relu(BN(conv(x))) ...)) + shortcut)``."""
        if projection_weight is not None:
            projection = projection_stride, (0, 0), (1, 1), 1
            residual = self.conv_fprop(
                x, projection_weight, None, None, "identity", *projection, projection_norm, None, "identity"
            )
        z, last = x, len(weights) - 1
        for i, (weight, bias, norm) in enumerate(zip(weights, biases, norms, strict=True)):
            stride, padding, dilation = (
                values[2 * i : 2 * i + 2] for values in (strides, paddings, dilations)
            )
            geometry = stride, padding, dilation, groups[i]
            added, then = (residual, act) if i == last else (None, "relu")
            z = self.conv_fprop(z, weight, bias, None, "identity", *geometry, norm, added, then)
        return z
