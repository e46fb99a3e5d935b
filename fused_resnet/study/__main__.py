"""``python -m fused_resnet.study``: the commands of `app`."""

import sys

NEEDED = ("matplotlib", "pandas", "sklearn", "numpy")

try:
    from .app import app
except ModuleNotFoundError as error:
    if error.name not in NEEDED:
        raise
    sys.exit(f"{error.name} is not installed: pip install 'fused_resnet[study]'")

if __name__ == "__main__":
    app(prog_name="python -m fused_resnet.study")
