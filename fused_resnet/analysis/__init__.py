"""Measurements on models, stock and fused alike: what the demo, the benchmarks and the tests share.

`digits` and `progress`, which need scikit-learn and rich, are imported by name.
"""

from .conditions import OtherProcesses, conditions, has_bf16_hardware
from .memory import peak_activation_bytes, saved_activation_bytes
from .timing import ColdCache, Timing, interleaved, stopwatch, synchronise

__all__ = [
    "ColdCache",
    "OtherProcesses",
    "Timing",
    "conditions",
    "has_bf16_hardware",
    "interleaved",
    "peak_activation_bytes",
    "saved_activation_bytes",
    "stopwatch",
    "synchronise",
]
