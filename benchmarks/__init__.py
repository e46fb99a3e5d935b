"""The benchmark suite's commands, its pytest-benchmark form, and results.

``python -m benchmarks run`` times everyone in turn, ``plot`` and ``compare`` work on the files that it
writes; ``pytest benchmarks`` runs the same works one by one through pytest-benchmark.
"""
