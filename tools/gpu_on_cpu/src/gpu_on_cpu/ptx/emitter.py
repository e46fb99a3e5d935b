"""Operands of PTX as C++ expressions.

A register is a C++ variable of unsigned integer type that holds its raw bits (a predicate is a bool), as PTX registers
have no type of their own beyond their size.
"""

from __future__ import annotations

import re

from gpu_on_cpu.errors import Unsupported
from gpu_on_cpu.ptx.parser import BITS, Instruction, Kernel, Label

FLOATS = ("f32", "f64")
HALVES = ("f16", "bf16")
SPECIAL = {
    "%laneid": "me_.lane",
    "%warpid": "me_.warp",
    "%nwarpid": "((grid_.block_dim.x * grid_.block_dim.y * grid_.block_dim.z + 31) / 32)",
    "%lanemask_lt": "((1u << me_.lane) - 1)",
    "%lanemask_le": "(~0u >> (31 - me_.lane))",
    "%lanemask_eq": "(1u << me_.lane)",
    "%lanemask_ge": "(~0u << me_.lane)",
    "%lanemask_gt": "(~1u << me_.lane)",
    "WARP_SZ": "32",
    # No clusters: every block is a cluster of its own.
    **{f"%cluster_ctaid.{d}": "0" for d in "xyz"},
    **{f"%cluster_nctaid.{d}": "1" for d in "xyz"},
    "%cluster_ctarank": "0",
    "%cluster_nctarank": "1",
}
SPECIAL |= {
    f"%{register}.{d}": f"{variable}.{d}"
    for d in "xyz"
    for register, variable in (
        ("tid", "me_.tid"),
        ("ctaid", "grid_.block_index"),
        ("ntid", "grid_.block_dim"),
        ("nctaid", "grid_.grid_dim"),
    )
}


def ctype(kind: str) -> str:
    """The C++ type of a value of PTX type `kind`."""
    if kind == "pred":
        return "bool"
    if kind in FLOATS:
        return {"f32": "float", "f64": "double"}[kind]
    return f"{'' if kind[0] == 's' else 'u'}int{BITS[kind]}_t"


def storage(kind: str) -> str:
    """The C++ type of the raw bits of `kind`."""
    return "bool" if kind == "pred" else f"uint{BITS[kind]}_t"


def vector(operand: str) -> list[str]:
    """'{%r1, %r2}' or '%r1' -> its registers."""
    return [r.strip() for r in operand.strip("{} ").split(",")]


def _identifier(prefix: str, name: str) -> str:
    return prefix + re.sub(r"\W", "_", name)


class Emitter:
    """Makes C++ of the operands of one kernel; refuses what it does not know with the instruction's text and line."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.site = 0  # number of the instruction
        self.current: Instruction | None = None
        self.late: set[str] = set()  # registers whose value arrives asynchronously
        self.shared_offsets, self.static_shared_bytes = self._place_shared()
        self._labels = {i.name for i in kernel.body if isinstance(i, Label)}
        self._parameters = {p.name: i for i, p in enumerate(kernel.parameters)}

    def _place_shared(self) -> tuple[dict[str, int], int]:
        """Static variables first; those whose size the launch decides share the place behind them."""
        offsets, end = {}, 0
        for v in sorted(self.kernel.shared, key=lambda v: v.size == 0):
            end = -(-end // v.alignment) * v.alignment
            offsets[v.name] = end
            end += v.size
        return offsets, end

    def fail(self, why: str = "") -> Unsupported:
        """The exception to raise for what the current instruction has and the table has not."""
        assert self.current
        return Unsupported(self.current.text, self.current.line, why)

    # ---- names
    def label(self, name: str) -> str:
        return _identifier("L_", name)

    def target(self, name: str) -> str:
        """The label that a branch goes to."""
        if name not in self._labels:
            raise self.fail(f"label {name}")
        return self.label(name)

    def register(self, name: str) -> str:
        return _identifier("R_", name)

    def variable(self, name: str) -> str:
        return _identifier("V_", name)

    def is_register(self, x: str) -> bool:
        return x in self.kernel.registers

    # ---- values
    def raw(self, x: str) -> str:
        """An operand's bits as a C++ expression."""
        if x in SPECIAL:
            return f"(uint32_t)({SPECIAL[x]})"
        if self.is_register(x):
            return self.register(x)
        if x.startswith("!") and self.is_register(x[1:]):
            return f"!{self.register(x[1:])}"
        if x in self.shared_offsets:
            return f"{self.shared_offsets[x]}u"
        if x in self.kernel.variables:
            return f"(uint64_t){self.variable(x)}"
        if x in self._parameters:
            return f"(uint64_t)args[{self._parameters[x]}]"
        return self._literal(x)

    def _literal(self, x: str) -> str:
        if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", x):
            return f"0x{x[2:]}u"
        if re.fullmatch(r"0[dD][0-9A-Fa-f]{16}", x):
            return f"0x{x[2:]}ull"
        if re.fullmatch(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)U?", x):
            return f"({int(x.rstrip('U'), 0) & (2**64 - 1)}ull)"
        raise self.fail(f"operand {x}")

    def value(self, x: str, kind: str) -> str:
        """An operand as a C++ value of PTX type `kind`; 16-bit floats as float."""
        if kind in HALVES:
            return f"ptx::from_{kind}({self.raw(x)})"
        if kind in FLOATS:
            return f"ptx::{'F' if kind == 'f32' else 'D'}({self.raw(x)})"
        return f"({ctype(kind)})({self.raw(x)})"

    def values(self, xs: list[str], kind: str) -> list[str]:
        return [self.value(x, kind) for x in xs]

    def set(self, destination: str, expression: str, kind: str | None = None) -> str:
        """Assigns to a register. A float kind stores the float's bits; otherwise the value is cut to the register."""
        if destination == "_":
            return f"(void)({expression});"
        if not self.is_register(destination):
            raise self.fail(f"destination {destination}")
        if kind in HALVES:
            expression = f"ptx::to_{kind}({expression})"
        elif kind in FLOATS:
            expression = f"ptx::U({ctype(kind)}({expression}))"
        return f"{self.register(destination)} = ({storage(self.kernel.registers[destination])})({expression});"

    def pointers(self, registers: list[str]) -> str:
        """Addresses of registers, for instructions whose result arrives later."""
        if any(not self.is_register(r) or BITS[self.kernel.registers[r]] != 32 for r in registers):
            raise self.fail("32-bit registers expected")
        return ", ".join(f"&{self.register(r)}" for r in registers)

    # ---- memory operands
    def address(self, operand: str) -> str:
        """'[%r1+16]' or '[symbol+4]' as a C++ expression."""
        m = re.fullmatch(r"\[?\s*([%\w.$]+)\s*(?:\+\s*(-?\w+))?\s*\]?", operand)
        if not m:
            raise self.fail(f"address {operand}")
        return f"(uint64_t)({self.raw(m[1])}) + (int64_t)({int(m[2] or '0', 0)})"

    def parameter(self, operand: str, size: int) -> str:
        """The address of `size` bytes of a parameter, as a C++ expression of type const char*.

        A register that the parameter's address was moved to is checked when the kernel runs.
        """
        m = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if m and self.is_register(m[1]):
            places = (f"{{args[{i}], {p.size}}}" for i, p in enumerate(self.kernel.parameters))
            return f"ptx::parameter_at({self.address(operand)}, {size}, {{{', '.join(places)}}})"
        if not m or m[1] not in self._parameters:
            raise self.fail(f"parameter {operand}")
        index, offset = self._parameters[m[1]], int(m[2] or 0)
        if not 0 <= offset <= self.kernel.parameters[index].size - size:
            raise self.fail(f"{operand} is outside the parameter")
        return f"(const char*)args[{index}] + {offset}"
