"""Chooses, per fused unit, how it runs: what is stored, folded, recomputed, and which engine convolves."""

from .cost import Cost, chain_cost
from .plan import MEMORY_MODES, Plan, fold_chain, plan_chain
from .shape import ConvShape

__all__ = ["MEMORY_MODES", "ConvShape", "Cost", "Plan", "chain_cost", "fold_chain", "plan_chain"]
