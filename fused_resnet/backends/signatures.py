"""Positions of the ops' arguments, for the backends that look at them."""

# Arguments that an op writes to.
WRITTEN = {"bn_update_running": (0, 1)}
# Which arguments of an op are activations, and which vectors (or rows of vectors) of its channels.
ACTIVATIONS = {
    "bn_stats": (0,),
    "bn_act": (0,),
    "bn_add_act": (0, 2),
    "bn_act_bwd_reduce": (0, 1, 3, 4),
    "bn_act_bwd_apply": (0, 1),
    "bn_act_maxpool": (0,),
    "bn_act_maxpool_bwd_reduce": (0, 1, 2),
    "conv_fprop": (0, 10),
    "conv_fprop_stats": (0,),
    "conv_fprop_dual": (0, 5),
    "conv_dgrad": (0, 7, 9),
    "conv_dgrad_reduce": (0, 6, 8),
    "conv_wgrad": (0, 1, 9),
    "conv_wgrad_masked": (0, 1, 2),
    "gram": (0,),
    "folded_dgrad": (0, 2, 8),
    "folded_dgrad_reduce": (0, 2),
}
# Of the ops that only the CPU backend has kernels for.
CPU_ACTIVATIONS = {"conv_chain_fprop": (0, 11)}
# Of Gram-folded units, on vectors and small matrices; on GPUs, too, these are a few operations of PyTorch's.
FOLDED = ("folded_stats", "folded_sums", "folded_wgrad", "folded_matrices")
CPU_ONLY = (*CPU_ACTIVATIONS, *FOLDED)
VECTORS = {
    "bn_finalize": (0, 1, 2, 3),
    "bn_update_running": (0, 1, 2, 3),
    "bn_bwd_finalize": (0, 1),
    "bn_act": (1,),
    "bn_add_act": (1, 3),
    "bn_act_bwd_reduce": (2, 5),
    "bn_act_bwd_apply": (2,),
    "bn_act_maxpool": (1,),
    "bn_act_maxpool_bwd_reduce": (3,),
    "conv_fprop": (2, 3, 9),
    "conv_fprop_stats": (2,),
    "conv_fprop_dual": (2, 4, 8),
    "conv_dgrad": (8,),
    "conv_dgrad_reduce": (7, 9),
    "conv_wgrad": (2, 10),
    "conv_wgrad_masked": (3,),
    "gram": (1,),
    "folded_dgrad": (3, 6),
    "folded_dgrad_reduce": (3, 6),
}
