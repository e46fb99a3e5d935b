"""Set-up of the CUDA C++ backend's tests."""

from tests.kernels_support import _keeps_precision, _poisoned  # noqa: F401
