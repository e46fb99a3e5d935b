"""Times and kept memory of stock and fused code.

``python -m benchmarks`` compares blocks and networks in turn and prints one table with its conditions;
``pytest benchmarks`` runs the pytest-benchmark suite, single ops included.
"""
