"""PTX -> C++ that the runtime in cpp/ptx executes: a function for every kernel and one that launches it."""

from __future__ import annotations

import json
import re

from gpu_on_cpu.ptx import instructions  # noqa: F401  (fills the table)
from gpu_on_cpu.ptx.emitter import Emitter, storage
from gpu_on_cpu.ptx.parser import Instruction, Kernel, Label, Variable, parse
from gpu_on_cpu.ptx.table import find

REGISTER = re.compile(r"%[\w$]+")
# What waits for results, or hands them on unread: wgmma and tcgen05 have checks of their own, and a copy stays poison.
MAY_NAME_LATE = ("wgmma.", "tcgen05.", "mov.")
ONLY_READS = ("st.", "red.", "cp.", "stmatrix", "bar", "mbarrier", "tensormap")


def late_registers(kernel: Kernel) -> set[str]:
    """Registers whose value arrives some time after the instruction that names them as destination."""
    late = (
        i for i in kernel.body if isinstance(i, Instruction) and i.opcode.startswith(("wgmma.mma_async", "tcgen05.ld"))
    )
    return {register for i in late for register in REGISTER.findall(i.operands[0])}


def check_arrival(e: Emitter, i: Instruction) -> str:
    """C++ that stops the thread if it reads a register whose value has not been waited for."""
    if not e.late or i.opcode.startswith(MAY_NAME_LATE):
        return ""
    read = i.operands if i.opcode.startswith(ONLY_READS) else i.operands[1:]
    registers = sorted({r for operand in read for r in REGISTER.findall(operand)} & e.late)
    return f"ptx::check_arrived({{{', '.join(map(e.register, registers))}}}); " if registers else ""


def translate_instruction(e: Emitter, i: Instruction) -> str:
    e.site, e.current = e.site + 1, i
    found = find(i.opcode)
    if not found:
        raise e.fail()
    entry, match = found
    try:
        code = entry.translate(e, match, list(i.operands))
    except (IndexError, ValueError):  # fewer operands than the form has, or not of its kind
        raise e.fail("operands") from None
    arrived = check_arrival(e, i)
    place = (
        f"static const emu::Location at_{{{i.line}, {json.dumps(i.text[:120])}}}; me_.at = &at_; "
        if entry.reports or arrived
        else ""
    )
    guard = f"if ({e.value(i.guard, 'pred')}) " if i.guard else ""
    return f"{guard}{{ {place}{arrived}{code} }}"


def declare_variable(e: Emitter, v: Variable) -> str:
    """Constant and global variables belong to the module; what has no initial value is 0 there and poison elsewhere."""
    name = e.variable(v.name)
    if v.space == "local":
        return f"alignas({max(v.alignment, 16)}) char {name}[{v.size}]; memset({name}, 0xFF, sizeof {name});"
    values = ", ".join(str(b) for b in v.initial)
    return f"alignas({max(v.alignment, 16)}) static unsigned char {name}[{v.size}] = {{{values}}};"


def declare_to_runtime(kernel: Kernel, e: Emitter, v: Variable) -> str:
    """Constants may be read, global variables written too."""
    writable = "true" if v.space == "global" else "false"
    return f"ptx::declare_variable(N_{kernel.name}::{e.variable(v.name)}, {v.size}, {writable}); "


def translate_kernel(kernel: Kernel) -> str:
    """The C++ of one kernel. Registers start with all bits set, as undefined ones may."""
    e = Emitter(kernel)
    e.late = late_registers(kernel)
    lines = [f"{e.label(i.name)}:;" if isinstance(i, Label) else translate_instruction(e, i) for i in kernel.body]
    body = "\n".join(lines)
    used = set(re.findall(r"\b[RV]_\w+", body))
    registers = [
        f"{storage(kind)} {e.register(r)} = ({storage(kind)})-1;"
        for r, kind in kernel.registers.items()
        if e.register(r) in used
    ]
    variables = [v for v in kernel.variables.values() if v.space != "shared" and e.variable(v.name) in used]
    module = [v for v in variables if v.space != "local"]
    local = [declare_variable(e, v) for v in variables if v.space == "local"]
    declared = "".join(declare_to_runtime(kernel, e, v) for v in module)
    return f"""namespace {{
namespace N_{kernel.name} {{
{chr(10).join(declare_variable(e, v) for v in module)}
void kernel([[maybe_unused]] const void* const* args) {{
  [[maybe_unused]] auto& me_ = ptx::me();
  [[maybe_unused]] const auto& grid_ = ptx::grid();
  [[maybe_unused]] unsigned cc_ = 0;
{chr(10).join(registers + local)}
{body}
}}
}}
}}
extern "C" void run_{kernel.name}(const void* const* args, const unsigned* shape, unsigned dynamic_shared) {{
  {declared}
  emu::U3 grid{{shape[0], shape[1], shape[2]}}, block{{shape[3], shape[4], shape[5]}};
  ptx::launch(grid, block, {e.static_shared_bytes} + dynamic_shared, N_{kernel.name}::kernel, args);
}}
"""


def translate(ptx: str) -> str:
    """The C++ source of all kernels of a PTX module.

    Raises:
        Unsupported: an instruction, modifier, type or directive that is not modelled, with its line.
    """
    return '#include "ptx/api.h"\n' + "\n".join(translate_kernel(k) for k in parse(ptx))
