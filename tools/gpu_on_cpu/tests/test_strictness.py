"""What is not modelled, not PTX or not a fitting argument is refused before anything runs, and named."""

from __future__ import annotations

import pytest
import support
import torch

from gpu_on_cpu.errors import KernelFault, Unsupported
from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.ptx.parser import Instruction, parse

REFUSED = {
    "unknown instruction": "frobnicate.s32 %r2, %r1;",
    "a real one that is not modelled": "tex.2d.v4.f32.s32 {%r2, %r3, %r4, %r5}, [%rd5, {%r6, %r7}];",
    "unknown modifier": "add.wide.s32 %r2, %r1, %r1;",
    "modifier of another instruction": "add.rn.s32 %r2, %r1, %r1;",
    "modifiers in the wrong order": "add.sat.ftz.f32 %r2, %r1, %r1;",
    "modifier for another type": "min.relu.u32 %r2, %r1, %r1;",
    "flushing what has no flush": "cvt.rzi.ftz.s32.f64 %r2, %rd5;",
    "unknown type": "add.s128 %r2, %r1, %r1;",
    "type of another instruction": "popc.b16 %r2, %h1;",
    "mode that is missing": "cvt.f32.f64 %r2, %rd5;",
    "mode that is not modelled": "cvt.rs.f16x2.f32 %r2, %r3, %r4, %r5;",
    "unknown operand": "add.s32 %r2, %r1, nowhere;",
    "undeclared register": "add.s32 %r2, %r1, %undeclared;",
    "undeclared destination": "add.s32 %undeclared, %r1, 1;",
    "a literal as the destination": "add.s32 5, %r1, 1;",
    "unknown special register": "mov.u32 %r2, %clock;",
    "unknown address": "ld.global.u32 %r2, [%rd1+%r1];",
    "parameter that does not exist": "ld.param.u32 %r2, [k_param_9];",
    "beyond the end of a parameter": "ld.param.u64 %rd5, [k_param_0+4];",
    "one destination for a packed comparison": "setp.lt.f16x2 %p1, %r1, %r2;",
    "branch table that does not exist": "brx.idx %r1, nowhere;",
    "64-bit integers to 16-bit floats": "cvt.rn.f16.s64 %h1, %rd5;",
    "three inputs of f64": "min.f64 %rd5, %rd6, %rd7, %rd8;",
    "unknown directive": ".frobnicate 4;",
    "register of an unknown type": ".reg .b77 %x;",
    "variable of an unknown type": ".local .align 4 .b77 x[4];",
    "initial value that is no integer": ".global .f32 x = 0f3F800000;",
    "too few operands": "add.s32 %r2, %r1;",
    "a label that does not exist": "bra nowhere;",
    "call": "call.uni (%r2), f, (%r1);",
}


def refusal(ptx: str) -> Unsupported:
    with pytest.raises(Unsupported) as e:
        Module(ptx)
    assert str(e.value).startswith(f"line {e.value.line}: not modelled")
    return e.value


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_refused_with_its_line_and_text(statement):
    ptx = support.frame(f"add.s32 %r9, %r1, 1;\n// a comment\n\n{statement}\nadd.s32 %r9, %r9, 1;")
    e = refusal(ptx)
    assert e.text == statement[:-1]
    assert ptx.split("\n")[e.line - 1] == statement


def test_the_form_is_named_where_only_an_operand_is_unknown():
    assert "operand nowhere" in str(refusal(support.frame("add.s32 %r2, %r1, nowhere;")))


def test_a_statement_over_several_lines_counts_from_its_first():
    ptx = support.frame("mov.u32 %r2, 1;\n/* a comment\n over lines */\nfrobnicate.b32\n  %r2, // why\n  %r3;\n")
    e = refusal(ptx)
    assert e.text == "frobnicate.b32 %r2, %r3"
    assert ptx.split("\n")[e.line - 1] == "frobnicate.b32"


def test_ignored_directives_and_comments_keep_the_lines():
    body = '\n\n\t.loc\t1 7 3\n.pragma "nounroll";\n// bra nowhere;\n'
    body += "/* { } ; */ mov.u32 %r2, 1; // }\nfrobnicate;"
    ptx = support.frame(body) + '\n.section .debug_info\n{\n.b8 1, 2 // {\n.b32 .debug_abbrev\n}\n.file 1 "/a//b{.py"\n'
    assert ptx.split("\n")[refusal(ptx).line - 1] == "frobnicate;"


def test_debug_information_behind_the_kernels_is_no_code():
    ptx = support.frame("mov.u32 %r2, 1;") + "\n.section .debug_info\n{\n.b8 1, 2\n}\n"
    assert [i.opcode for i in parse(ptx)[0].body if isinstance(i, Instruction)][-2:] == ["mov.u32", "ret"]


@pytest.mark.parametrize(
    ("ptx", "text"),
    [
        (".version 8.8\n.target sm_90\n", "no .entry in the module"),
        (".version 8.8\n.func (.param .b32 r) f(.param .b32 x)\n{ ret; }\n.entry k() { ret; }", ".func"),
        (".entry k()\n{ {\n ret; }", "unbalanced braces"),
        (".entry k()\n{\n ret\n}", "ret"),
        (".global .b32 x[2][2];\n.entry k() { ret; }", ".global"),
        (".entry k(.param .texref t) { ret; }", ".param .texref t"),
    ],
)
def test_modules_that_are_refused(ptx, text):
    with pytest.raises(Unsupported) as e:
        Module(ptx)
    assert e.value.text.startswith(text)


# ---- arguments of a launch
KERNEL = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 data, .param .u32 count, .param .align 8 .b8 record[16])
{
  ret;
}
"""
GOOD = {"data": torch.zeros(4), "count": 3, "record": bytes(16)}


@pytest.mark.parametrize(
    ("error", "name", "change"),
    [
        (ValueError, "data", {"data": torch.zeros(4, device="meta")}),
        (ValueError, "data", {"data": torch.eye(4).to_sparse()}),
        (ValueError, "data", {"data": bytes(4)}),
        (TypeError, "data", {"data": "text"}),
        (TypeError, "data", {"data": [1, 2]}),
        (ValueError, "count", {"count": torch.zeros(1)}),
        (ValueError, "count", {"count": 1 << 32}),
        (ValueError, "count", {"count": -(1 << 31) - 1}),
        (ValueError, "record", {"record": 5}),
        (ValueError, "record", {"record": bytes(15)}),
        (ValueError, "record", {"record": 1.5}),
        (ValueError, "3 parameters, got 4", {"more": 1}),
        (ValueError, "kernel must be one of", {"kernel": "other"}),
        (ValueError, "grid", {"grid": (0,)}),
        (ValueError, "grid", {"grid": (1, 1, 1, 1)}),
        (ValueError, "block", {"block": (32, -1)}),
        (ValueError, "block", {"block": (33, 32)}),
        (ValueError, "outputs", {"outputs": ["count"]}),
        (ValueError, "outputs", {"outputs": ["nothing"]}),
    ],
)
def test_arguments_that_do_not_fit(error, name, change):
    module = Module(KERNEL)
    options = {k: change[k] for k in ("kernel", "grid", "block", "outputs") if k in change}
    args = GOOD | {k: v for k, v in change.items() if k not in options}
    with pytest.raises(error, match=name):
        module.launch(**{"kernel": "k", "grid": (1,), "block": (1,), "args": args} | options)
    assert "path" not in vars(module)  # not even compiled


def test_too_few_arguments():
    with pytest.raises(ValueError, match="3 parameters, got 2"):
        Module(KERNEL).launch("k", {"data": torch.zeros(1), "count": 1}, (1,), (1,))


# ---- faults
def test_tensors_are_as_they_were_after_a_fault():
    a, b = torch.arange(32.0), torch.arange(32.0)
    body = """mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
      st.global.u32 [%rd6], 7; st.global.u32 [%rd7], 7; bar.sync 0; setp.eq.u32 %p1, %r1, 31;
      @%p1 trap;"""
    with pytest.raises(KernelFault, match="trap"):
        support.run(body, a, b)
    assert torch.equal(a, torch.arange(32.0)) and torch.equal(b, torch.arange(32.0))
    support.run(body.replace("@%p1 trap;", ""), a, b, outputs=("a", "b"))
    assert (a.view(torch.int32) == 7).all() and (b.view(torch.int32) == 7).all()


def test_a_write_to_what_is_no_output_is_a_fault():
    a, b = torch.zeros(4), torch.zeros(4)
    with pytest.raises(KernelFault, match="write to an input") as e:
        support.run("st.global.u32 [%rd2], 1;", a, b, outputs=("a",))
    assert e.value.instruction == "st.global.u32 [%rd2], 1" and not b.any()


def test_an_endless_loop_is_a_hang():
    module = Module(".entry k()\n{\nLOOP:\n  bra LOOP;\n}", optimize="-O0")
    with pytest.raises(KernelFault, match="hang"):
        module.launch("k", {}, (1,), (1,), timeout=0.5)
