"""The specification of every op, in plain ATen: any device, any layout, any floating dtype.

Every other backend must agree with these functions up to rounding, and the same functions run on fake tensors
to give the shapes, dtypes and strides that `torch.compile` and `torch.export` see. Nothing but torch is
imported.

Conventions shared by all backends:

* activations are ``[N, C, H, W]`` tensors, NHWC in memory (``torch.channels_last``) where speed matters;
  ``M = N*H*W`` is the number of values per channel;
* per-channel vectors, statistics and sums are fp32, or fp64 for fp64 activations (the "accumulation dtype");
* ``norm`` is ``[4, C]``: rows mean, invstd, scale, shift with ``scale = weight * invstd`` and
  ``shift = bias - mean * scale``, so that BN is ``scale * y + shift``;
* ``dnorm`` is ``[3, C]``: rows a, b, c of BN's backward ``dy = a*g + b*y + c``;
* ``act`` is ``"relu"`` or ``"identity"``;
* results never alias arguments.
"""

from . import norm
from .block import Blocks
from .norm import (
    bn_act,
    bn_act_bwd_apply,
    bn_act_bwd_reduce,
    bn_add_act,
    bn_bwd_finalize,
    bn_finalize,
    bn_stats,
    bn_update_running,
)
from .pool import bn_act_maxpool, bn_act_maxpool_bwd_reduce

OPS = {
    op.__name__: op
    for op in (
        bn_stats,
        bn_finalize,
        bn_update_running,
        bn_act,
        bn_add_act,
        bn_act_bwd_reduce,
        bn_bwd_finalize,
        bn_act_bwd_apply,
        bn_act_maxpool,
        bn_act_maxpool_bwd_reduce,
    )
} | Blocks(norm).ops()


def refuses(op, args):
    """Why this backend cannot run `op` on `args`: never, it is the specification."""
    return None
