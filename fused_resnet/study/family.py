"""Networks too large to be trained here, by their counts: width, cardinality, and ResNet-1202."""

from __future__ import annotations

import pandas
import torch
from rich.table import Table

from fused_resnet.models import create, multiply_adds, parameter_count

__all__ = ["CIFAR_IMAGES", "large_networks", "large_networks_table"]

CIFAR_IMAGES = 50_000  # to train with
IMAGENET_IMAGES = 1_281_167

# Name, image size, images to train with, published error on CIFAR-10 in per cent: He et al. 2015, table 6 (of
# five runs with 110 layers their mean), and Zagoruyko & Komodakis 2016 (with dropout).
LARGE = (
    ("cifar_resnet56", 32, CIFAR_IMAGES, 6.97),
    ("cifar_resnet110", 32, CIFAR_IMAGES, 6.61),
    ("cifar_resnet1202", 32, CIFAR_IMAGES, 7.93),
    ("wrn_28_10", 32, CIFAR_IMAGES, 3.89),
    ("resnet50", 224, IMAGENET_IMAGES, None),
    ("resnext50_32x4d", 224, IMAGENET_IMAGES, None),
)


def large_networks() -> pandas.DataFrame:
    """Parameters, multiply-adds of an image, and parameters per image to train with: exact."""
    rows = []
    for name, size, images, error in LARGE:
        with torch.device("meta"):
            model = create(name, fused=False)
        parameters = parameter_count(model)
        rows.append(
            {
                "network": name,
                "parameters": parameters,
                "multiply_adds": multiply_adds(model, (1, 3, size, size)),
                "parameters_per_image": parameters / images,
                "published_test_error": error,
            }
        )
    return pandas.DataFrame(rows)


def large_networks_table(frame: pandas.DataFrame) -> Table:
    """1,202 layers have eleven times the parameters of 110 and a training error as small, below 0.1 %, but a
    higher test error: the paper takes that for overfitting."""
    columns = ("network", "parameters", "multiply-adds", "parameters per image", "published test error, %")
    table = Table(*columns, title="large relatives, counted")
    for row in frame.to_dict("records"):
        error = row["published_test_error"]
        table.add_row(
            str(row["network"]),
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e9:.3f} G",
            f"{row['parameters_per_image']:.1f}",
            "" if pandas.isna(error) else f"{error:.2f}",
        )
    return table
