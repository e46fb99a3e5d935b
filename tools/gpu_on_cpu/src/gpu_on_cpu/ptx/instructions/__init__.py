"""The instructions, by chapter of the PTX ISA. Importing this package fills the table."""

from gpu_on_cpu.ptx.instructions import (  # noqa: F401
    async_copy,
    control,
    conversion,
    floating,
    half,
    integer,
    logic,
    matrix,
    memory,
    selection,
    synchronization,
    tcgen05,
    wgmma,
)
