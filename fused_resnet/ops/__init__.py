"""The op table: one signature per kernel, the same in every backend: ``torch.ops.fused_resnet``."""

from .block import conv_chain_fprop
from .conv import (
    conv_dgrad,
    conv_dgrad_reduce,
    conv_fprop,
    conv_fprop_dual,
    conv_fprop_stats,
    conv_wgrad,
    conv_wgrad_masked,
    folded_dgrad,
    folded_dgrad_reduce,
    folded_matrices,
    folded_stats,
    folded_sums,
    folded_wgrad,
    gram,
)
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

__all__ = [
    "bn_act",
    "bn_act_bwd_apply",
    "bn_act_bwd_reduce",
    "bn_act_maxpool",
    "bn_act_maxpool_bwd_reduce",
    "bn_add_act",
    "bn_bwd_finalize",
    "bn_finalize",
    "bn_stats",
    "bn_update_running",
    "conv_chain_fprop",
    "conv_dgrad",
    "conv_dgrad_reduce",
    "conv_fprop",
    "conv_fprop_dual",
    "conv_fprop_stats",
    "conv_wgrad",
    "conv_wgrad_masked",
    "folded_dgrad",
    "folded_dgrad_reduce",
    "folded_matrices",
    "folded_stats",
    "folded_sums",
    "folded_wgrad",
    "gram",
]
