"""What every op computes, once more: in fp64, out of torch's own functions and autograd.

Nothing here is shared with the reference backend, and where torch has the whole operation (``F.batch_norm``,
``F.max_pool2d``, the gradient of ``F.conv2d``) that is what is called.
"""

import torch
import torch.nn.functional as F


def batch_norm(y, norm):
    """BN with known statistics, from the rows mean, invstd, scale, shift that the ops exchange."""
    mean, invstd, scale, shift = norm
    return F.batch_norm(y, mean, invstd**-2, scale / invstd, shift + mean * scale, False, 0.0, 0.0)


def activate(z, act):
    return F.relu(z) if act == "relu" else z


def operand(x, x_norm, x_act):
    return x if x_norm is None else activate(batch_norm(x, x_norm), x_act)


def bn_gradient(g, y, dnorm):
    """The affine map that backward applies to what it loads."""
    if dnorm is None:
        return g
    a, b, c = (row[None, :, None, None] for row in dnorm)
    return a * g if y is None else a * g + b * y + c


def pixels(x, stride):
    """Rows ``[M, C]`` that a 1x1 convolution of this stride reads."""
    identity = torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None]
    return F.conv2d(x, identity, stride=tuple(stride)).permute(0, 2, 3, 1).flatten(0, 2)


def bn_stats(y):
    values = y.transpose(0, 1).flatten(1)
    return values.mean(1), values.var(1, correction=0)


def bn_finalize(mean, var, weight, bias, eps):
    at_0, at_1 = (
        F.batch_norm(
            torch.full((1, len(mean)), v, dtype=mean.dtype), mean, var, weight, bias, False, 0.0, eps
        )[0]
        for v in (0.0, 1.0)
    )
    return torch.stack((mean, 1 / torch.sqrt(var + eps), at_1 - at_0, at_0))


def bn_update_running(running_mean, running_var, mean, var, momentum, correction):
    return (
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_var + momentum * var * correction,
    )


def bn_act(y, norm, act):
    return operand(y, norm, act)


def bn_add_act(y, norm, residual, residual_norm, act):
    added = residual if residual_norm is None else batch_norm(residual, residual_norm)
    return activate(batch_norm(y, norm) + added, act)


def _affine_gradients(y, norm, g):
    """Gradients of BN's bias and weight: the sums Σg and Σg·xhat."""
    weight = torch.ones(y.shape[1], dtype=y.dtype, requires_grad=True)
    bias = torch.zeros(y.shape[1], dtype=y.dtype, requires_grad=True)
    z = F.batch_norm(y, norm[0], norm[1] ** -2, weight, bias, False, 0.0, 0.0)
    return torch.autograd.grad(z, (bias, weight), g)


def _input_gradient(z, function, dout):
    """Gradient of ``function(z)`` with respect to z."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z), z, dout)[0]


def bn_act_bwd_reduce(dout, y, norm, out, dual_y, dual_norm, act):
    source = batch_norm(y, norm) if out is None and y is not None else out
    g = dout if source is None else _input_gradient(source, lambda z: activate(z, act), dout)
    sums = [g.sum((0, 2, 3))]
    sums += [_affine_gradients(t, n, g)[1] for t, n in ((y, norm), (dual_y, dual_norm)) if t is not None]
    return g, torch.stack(sums)


def bn_bwd_finalize(sums, norm, count):
    mean, invstd, scale, _ = norm

    def dy(g, y):
        return scale * (g - sums[0] / count - (y - mean) * invstd * sums[1] / count)

    return torch.stack((dy(1, 0) - dy(0, 0), dy(0, 1) - dy(0, 0), dy(0, 0)))


def bn_act_bwd_apply(g, y, dnorm):
    return bn_gradient(g, y, dnorm)


def bn_act_maxpool(y, norm, act, kernel_size, stride, padding):
    """The output, and of every window the position that ``F.max_pool2d`` says is its maximum."""
    out, index = F.max_pool2d(operand(y, norm, act), kernel_size, stride, padding, return_indices=True)
    where = torch.arange(float(y[0, 0].numel()), dtype=y.dtype).view(1, 1, *y.shape[2:])
    where = F.pad(where, (padding[1], padding[1], padding[0], padding[0]), value=-1.0)
    windows = F.unfold(where, kernel_size, stride=stride)[0]  # [positions in the window, windows]
    position = (windows == index.flatten(2)[:, :, None]).double().argmax(2)
    return out, position.view_as(out).to(torch.uint8)


def bn_act_maxpool_bwd_reduce(dout, argmax, y, norm, act, kernel_size, stride, padding):
    def pooled(z):
        return F.max_pool2d(activate(z, act), kernel_size, stride, padding)

    g = _input_gradient(batch_norm(y, norm), pooled, dout)
    return g, torch.stack(_affine_gradients(y, norm, g))


def conv_fprop(x, weight, bias, x_norm, x_act, stride, padding, dilation, groups, norm, residual, act):
    y = F.conv2d(operand(x, x_norm, x_act), weight, bias, stride, padding, dilation, groups)
    y = y if norm is None else batch_norm(y, norm)
    return activate(y if residual is None else y + residual, act)


def conv_fprop_dual(
    x, weight, x_norm, x_act, norm, shortcut_x, shortcut_weight, shortcut_stride, shortcut_norm, act
):
    main = batch_norm(F.conv2d(operand(x, x_norm, x_act), weight), norm)
    shortcut = batch_norm(F.conv2d(shortcut_x, shortcut_weight, stride=tuple(shortcut_stride)), shortcut_norm)
    return activate(main + shortcut, act)


def conv_chain_fprop(x, weights, biases, norms, strides, paddings, dilations, groups, *rest):
    *projection, residual, act = rest
    weight, norm, stride = projection
    if weight is not None:
        residual = F.conv2d(x, weight, stride=tuple(stride))
        residual = residual if norm is None else batch_norm(residual, norm)
    for i, (w, bias, n) in enumerate(zip(weights, biases, norms, strict=True)):
        x = x if i == 0 else F.relu(x)
        geometry = (tuple(values[2 * i : 2 * i + 2]) for values in (strides, paddings, dilations))
        x = F.conv2d(x, w, bias, *geometry, groups[i])
        x = x if n is None else batch_norm(x, n)
    return activate(x if residual is None else x + residual, act)


def conv_fprop_stats(x, weight, x_norm, x_act, stride, padding, dilation, groups):
    y = F.conv2d(operand(x, x_norm, x_act), weight, None, stride, padding, dilation, groups)
    return y, *bn_stats(y)


def conv_dgrad(g, weight, input_size, stride, padding, dilation, groups, y, dnorm, residual):
    def convolve(x):
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    dx = _input_gradient(torch.zeros(input_size, dtype=g.dtype), convolve, bn_gradient(g, y, dnorm))
    return dx if residual is None else dx + residual


def conv_dgrad_reduce(g, weight, stride, padding, dilation, groups, y, dnorm, x, x_norm, x_act):
    dz = conv_dgrad(g, weight, x.shape, stride, padding, dilation, groups, y, dnorm, None)
    g = _input_gradient(batch_norm(x, x_norm), lambda z: activate(z, x_act), dz)
    return g, torch.stack(_affine_gradients(x, x_norm, g))


def conv_wgrad(g, x, x_norm, x_act, weight_size, stride, padding, dilation, groups, y, dnorm):
    z = operand(x, x_norm, x_act)

    def convolve(weight):
        return F.conv2d(z, weight, None, stride, padding, dilation, groups)

    return _input_gradient(torch.zeros(weight_size, dtype=g.dtype), convolve, bn_gradient(g, y, dnorm))


def conv_wgrad_masked(dout, out, x, x_norm, x_act, weight_size, stride):
    g = _input_gradient(out, F.relu, dout)
    dw = conv_wgrad(g, x, x_norm, x_act, weight_size, stride, (0, 0), (1, 1), 1, None, None)
    return g, g.sum((0, 2, 3))[None], dw


def gram(x, x_norm, x_act, stride):
    z = pixels(operand(x, x_norm, x_act), stride)
    return z.mean(0), torch.cov(z.t(), correction=0).view(z.shape[1], z.shape[1]) * len(z)


def folded_dgrad(g, weight_g, x, x_norm, x_act, weight_x, bias, stride, residual):
    z = operand(x, x_norm, x_act)
    weight = torch.cat((weight_g, weight_x))[:, :, None, None]
    read = F.conv2d(z, torch.eye(z.shape[1], dtype=z.dtype)[:, :, None, None], stride=tuple(stride))
    dz = F.conv_transpose2d(torch.cat((g, read), 1), weight, bias)
    dx = torch.zeros_like(z)
    dx[:, :, :: stride[0], :: stride[1]] = dz
    return dx if residual is None else dx + residual


def folded_dgrad_reduce(g, weight_g, x, x_norm, x_act, weight_x, bias):
    dz = folded_dgrad(g, weight_g, x, x_norm, x_act, weight_x, bias, (1, 1), None)
    g = _input_gradient(batch_norm(x, x_norm), lambda z: activate(z, x_act), dz)
    return g, torch.stack(_affine_gradients(x, x_norm, g))


def _convolved(weight, mean, gram):
    """Mean and centred moments of a 1x1 convolution's output, from those of what it reads."""
    w = weight.flatten(1)
    return F.linear(mean, w), torch.einsum("kc,cd,ld->kl", w, gram, w)


def folded_stats(weight, mean, gram, count):
    out_mean, out_gram = _convolved(weight, mean, gram)
    return out_mean, out_gram.diagonal() / count


def folded_sums(p, sums, weight, norm, mean):
    """Σg·xhat with Σg·y = Σ W*P over a filter."""
    out_mean = F.linear(mean, weight.flatten(1))
    projected = (weight * p).sum((1, 2, 3)) - sums[0] * out_mean
    return torch.stack((sums[0], norm[1] * projected))


def folded_wgrad(p, sums, dnorm, weight, mean, gram):
    """Σ dy zᵀ about the mean, of dy = a*g + b*y + c."""
    a, b, _ = (row[:, None] for row in dnorm)
    of_g, of_y = p.flatten(1) - torch.outer(sums[0], mean), F.linear(weight.flatten(1), gram)
    return (a * of_g + b * of_y).view_as(p)


def folded_matrices(weight, sums, dnorm, mean, count):
    a, b, _ = dnorm
    weight_g = torch.diag(a) @ weight.flatten(1)
    weight_x = weight.flatten(1).t() @ torch.diag(b) @ weight.flatten(1)
    return weight_g, weight_x, -F.linear(sums[0] / count, weight_g.t()) - F.linear(mean, weight_x.t())
