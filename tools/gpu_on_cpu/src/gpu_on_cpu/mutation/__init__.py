"""Deliberate breakages of PTX, and whether the checks of a kernel notice them."""

from gpu_on_cpu.mutation.mutants import Mutant, mutate
from gpu_on_cpu.mutation.scoring import Score, Verdict, score

__all__ = ["Mutant", "Score", "Verdict", "mutate", "score"]
