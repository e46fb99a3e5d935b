"""Set-up of the Triton backend's tests."""

from tests.kernels_support import _keeps_precision, _poisoned  # noqa: F401
