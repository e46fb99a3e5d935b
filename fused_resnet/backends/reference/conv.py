"""Convolutions with fused prologues and epilogues, by the library convolution and the BN ops around it."""

import torch
import torch.nn.functional as F

from .layout import accumulation_dtype, from_rows, memory_format, product, rows, subsample, widen


def _pointwise(x, weight, bias, stride):
    """The output of a 1x1 convolution in front of a BN, in the accumulation dtype.

    Rounded to the storage dtype, as by the library, it would have an error relative to its mean, which BN
    takes away: a bias per channel.
    """
    if x.dtype == accumulation_dtype(x):
        return F.conv2d(x, weight, bias, stride)
    read = subsample(x, stride)
    y = product(rows(read), weight.flatten(1).t())
    y = y if bias is None else y.add_(bias)
    return from_rows(y, (read.shape[0], weight.shape[0], *read.shape[2:]), x)


def _library_backward(dy, x, weight, stride, padding, dilation, groups, want):
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [*want, False]
    )


def _second_moments(z):
    """``zᵀz`` summed over tiles of rows: one long fp32 sum would be the largest error of the whole unit."""
    tile = max(256, -(-z.shape[0] // 64))
    full = z.shape[0] // tile * tile
    rest = z[full:]
    tiles = z[:full].view(-1, tile, z.shape[1])
    return torch.bmm(tiles.transpose(1, 2), tiles).sum(0).addmm_(rest.t(), rest)


class Convolutions:
    """The convolution ops; `norm` has the BN ops that they are composed of (`bn_act`, `bn_stats`, ...)."""

    def __init__(self, norm):
        self.norm = norm

    def ops(self):
        """Op name -> function."""
        names = (n for n in dir(type(self)) if n.startswith(("conv_", "folded_")) or n == "gram")
        return {name: getattr(self, name) for name in names}

    def _operand(self, x, x_norm, x_act):
        """What the convolution reads: x, or act(BN(x)). Zero padding comes after it."""
        return x if x_norm is None else self.norm.bn_act(x, x_norm, x_act)

    def _gradient(self, g, y, dnorm):
        """What the backward convolutions read: g, or BN's backward of it."""
        return g if dnorm is None else self.norm.bn_act_bwd_apply(g, y, dnorm)

    def conv_fprop(
        self, x, weight, bias, x_norm, x_act, stride, padding, dilation, groups, norm, residual, act
    ):
        """``act(scale*(conv(x) + bias) + shift + residual)``."""
        z = self._operand(x, x_norm, x_act)
        pointwise = tuple(weight.shape[2:]) == (1, 1) and groups == 1 and not any(padding)
        if norm is not None and pointwise:
            y = _pointwise(z, weight, bias, stride)
        else:
            y = F.conv2d(z, weight, bias, stride, padding, dilation, groups)
        if norm is not None:
            if residual is None:
                return self.norm.bn_act(y, norm, act).to(x.dtype)
            return self.norm.bn_add_act(y, norm, residual.to(y.dtype), None, act).to(x.dtype)
        if residual is not None:
            y = (widen(y) + widen(residual)).to(y.dtype)
        return y.relu_() if act == "relu" else y

    def conv_fprop_dual(
        self, x, weight, x_norm, x_act, norm, shortcut_x, shortcut_weight, shortcut_stride, shortcut_norm, act
    ):
        """Two 1x1 convolutions with their BNs, added: a block's tail and its projection shortcut."""
        y = _pointwise(self._operand(x, x_norm, x_act), weight, None, (1, 1))
        shortcut = _pointwise(shortcut_x, shortcut_weight, None, shortcut_stride)
        return self.norm.bn_add_act(y, norm, shortcut, shortcut_norm, act).to(x.dtype)

    def conv_fprop_stats(self, x, weight, x_norm, x_act, stride, padding, dilation, groups):
        """The raw convolution and its batch statistics."""
        y = F.conv2d(self._operand(x, x_norm, x_act), weight, None, stride, padding, dilation, groups)
        return y, *self.norm.bn_stats(y)

    def conv_dgrad(self, g, weight, input_size, stride, padding, dilation, groups, y, dnorm, residual):
        """Gradient of the convolution's input, plus the residual's gradient."""
        dy = self._gradient(g, y, dnorm)
        # the library looks at the input's shape and layout only
        x = torch.empty(input_size, dtype=g.dtype, device=g.device, memory_format=memory_format(g))
        dx, _, _ = _library_backward(dy, x, weight, stride, padding, dilation, groups, (True, False))
        return dx if residual is None else dx.add_(residual)

    def conv_dgrad_reduce(self, g, weight, stride, padding, dilation, groups, y, dnorm, x, x_norm, x_act):
        """`conv_dgrad`, then the mask and the BN sums of the unit that made x."""
        dz = self.conv_dgrad(g, weight, x.shape, stride, padding, dilation, groups, y, dnorm, None)
        return self.norm.bn_act_bwd_reduce(dz, x, x_norm, None, None, None, x_act)

    def conv_wgrad(self, g, x, x_norm, x_act, weight_size, stride, padding, dilation, groups, y, dnorm):
        """Gradient of the weight in the accumulation dtype."""
        z, dy = self._operand(x, x_norm, x_act), self._gradient(g, y, dnorm)
        if tuple(weight_size[2:]) == (1, 1):
            # cheap enough to keep fp32 from end to end, where the library would round to the storage dtype
            z, dy = widen(z), widen(dy)
        weight = torch.empty(weight_size, dtype=dy.dtype, device=g.device)
        _, dw, _ = _library_backward(dy, z, weight, stride, padding, dilation, groups, (False, True))
        return dw.to(accumulation_dtype(g)).contiguous()

    def conv_wgrad_masked(self, dout, out, x, x_norm, x_act, weight_size, stride):
        """ReLU's mask, Σg, and the weight's gradient from g."""
        g, sums = self.norm.bn_act_bwd_reduce(dout, None, None, out, None, None, "relu")
        geometry = stride, (0, 0), (1, 1), 1
        return g, sums, self.conv_wgrad(g, x, x_norm, x_act, weight_size, *geometry, None, None)

    def gram(self, x, x_norm, x_act, stride):
        """Σz/M and Σ(z-mean)(z-mean)ᵀ over the rows z of a 1x1 convolution's input."""
        z = widen(rows(subsample(self._operand(x, x_norm, x_act), stride)))
        mean = z.mean(0)
        return mean, _second_moments(z - mean)

    def folded_stats(self, weight, mean, gram, count):
        """Mean and biased variance of a 1x1 convolution's output from its input's."""
        w = widen(weight.flatten(1))
        return w @ mean, (w @ gram).mul_(w).sum(1).clamp_min_(0).div_(count)

    def folded_sums(self, p, sums, weight, norm, mean):
        """Σg and Σg·xhat = invstd * rowsum(W * (P - Σg meanᵀ))."""
        centred = torch.addr(p.flatten(1), sums[0], mean, alpha=-1)
        return torch.stack((sums[0], (centred * widen(weight.flatten(1))).sum(1).mul_(norm[1])))

    def folded_wgrad(self, p, sums, dnorm, weight, mean, gram):
        """dW = a*(P - Σg meanᵀ) + b*(W G)."""
        a, b, _ = dnorm.unsqueeze(2).unbind()
        centred = torch.addr(p.flatten(1), sums[0], mean, alpha=-1)
        return torch.addmm(a * centred, b * widen(weight.flatten(1)), gram).view(p.shape)

    def folded_matrices(self, weight, sums, dnorm, mean, count):
        """dz = g (a*W) + z (Wᵀ (b*W)) + constant."""
        w, (a, b, _) = widen(weight.flatten(1)), dnorm.unsqueeze(2).unbind()
        weight_g, weight_x = (a * w).to(weight.dtype), (w.t() @ (b * w)).to(weight.dtype)
        bias = torch.addmv(mean @ widen(weight_x), widen(weight_g).t(), sums[0] / count, beta=-1, alpha=-1)
        return weight_g, weight_x, bias

    def _folded_gradient(self, g, weight_g, x, x_norm, x_act, weight_x, bias, stride):
        """``g @ weight_g + z @ weight_x + bias`` at the pixels that a strided 1x1 convolution reads."""
        z = widen(rows(subsample(self._operand(x, x_norm, x_act), stride)))
        dz = torch.addmm(bias, z, widen(weight_x)).addmm_(widen(rows(g)), widen(weight_g))
        return from_rows(dz.to(g.dtype), (g.shape[0], x.shape[1], *g.shape[2:]), g)

    def folded_dgrad(self, g, weight_g, x, x_norm, x_act, weight_x, bias, stride, residual):
        """Input gradient of a Gram-folded convolution, plus the residual's gradient."""
        dz = self._folded_gradient(g, weight_g, x, x_norm, x_act, weight_x, bias, stride)
        if tuple(stride) != (1, 1):
            dx = torch.zeros(x.shape, dtype=g.dtype, device=g.device).contiguous(
                memory_format=memory_format(x)
            )
            subsample(dx, stride).copy_(dz)
            dz = dx
        return dz if residual is None else dz.add_(residual)

    def folded_dgrad_reduce(self, g, weight_g, x, x_norm, x_act, weight_x, bias):
        """`folded_dgrad` of a stride-1 unit, then the mask and the BN sums of the unit that made x."""
        dz = self._folded_gradient(g, weight_g, x, x_norm, x_act, weight_x, bias, (1, 1))
        return self.norm.bn_act_bwd_reduce(dz, x, x_norm, None, None, None, x_act)
