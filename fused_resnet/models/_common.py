"""What the model files share: argument checks, the shortcut options, initialisation, the call of ``fuse``."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

from torch import nn

from fused_resnet.nn.shortcut import ZeroPadShortcut

__all__ = ["Shortcut", "check_positive", "check_shortcut", "fuse_if", "he_initialise", "make_shortcut"]

Shortcut: TypeAlias = Literal["A", "B", "C"]
ModelT = TypeVar("ModelT", bound=nn.Module)


def check_positive(name: str, value: int) -> None:
    """Raise ``ValueError`` naming ``name`` unless ``value`` is an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_shortcut(shortcut: str) -> None:
    """Raise ``ValueError`` unless ``shortcut`` is one of the paper's three options."""
    if shortcut not in ("A", "B", "C"):
        raise ValueError(f'shortcut must be "A", "B" or "C", got {shortcut!r}')


def make_shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut of one block under an option of He et al. 2015, section 4.1.

    Args:
        kind: ``"A"`` pads with zero channels where the shape changes; ``"B"`` projects (1x1
            convolution and batch norm) where the shape changes; ``"C"`` projects in every block.
        in_channels: channels entering the block.
        out_channels: channels leaving the block.
        stride: spatial stride of the block.

    Returns:
        The module to put on the shortcut, or ``None`` for a plain identity.

    Raises:
        ValueError: ``kind`` is not one of the three options.
    """
    check_shortcut(kind)
    changes = stride != 1 or in_channels != out_channels
    if kind == "C" or (kind == "B" and changes):
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    return ZeroPadShortcut(in_channels, out_channels, stride) if changes else None


def he_initialise(model: nn.Module) -> None:
    """Initialise as He et al., "Delving Deep into Rectifiers" (2015), in place.

    Convolutions get a normal distribution scaled by fan-out for ReLU; batch norms get weight 1 and
    bias 0; linear layers keep PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def fuse_if(model: ModelT, fused: bool, memory: str) -> ModelT:
    """Return ``model``, converted in place by ``fused_resnet.fuse`` where ``fused`` is true.

    Args:
        model: a network in stock form.
        fused: whether to convert.
        memory: passed to ``fuse``, which checks it; unused where ``fused`` is false.
    """
    if fused:
        # Imported on use, so that no import order is forced on the conversion code, which knows the blocks.
        from fused_resnet import fuse

        fuse(model, memory=memory)
    return model
