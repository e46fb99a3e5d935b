"""``python -m benchmarks``: the suite of `fused_resnet.bench`."""

from fused_resnet.bench.app import app

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
