"""PTX ISA, "Parallel Synchronization and Communication Instructions", and shfl."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, ctype
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Parallel Synchronization and Communication Instructions: "


@instruction(
    "bar.sync",
    CHAPTER + "bar, barrier",
    r"bar\.sync(?:\.aligned)?",
    r"barrier(?:\.cta)?\.sync(?:\.aligned)?",
    reports=True,
)
def bar_sync(e: Emitter, m: Match[str], a: list[str]) -> str:
    threads = e.value(a[1], "u32") if len(a) > 1 else "0"
    return f"ptx::barrier_sync({e.value(a[0], 'u32')}, {threads});"


@instruction(
    "bar.arrive",
    CHAPTER + "bar, barrier",
    r"bar\.arrive(?:\.aligned)?",
    r"barrier(?:\.cta)?\.arrive(?:\.aligned)?",
    reports=True,
)
def bar_arrive(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::barrier_arrive({', '.join(e.values(a, 'u32'))});"


@instruction(
    "bar.red",
    CHAPTER + "bar, barrier",
    r"(?:bar|barrier(?:\.cta)?)\.red\.(popc|and|or)(?:\.aligned)?\.(u32|pred)",
    reports=True,
)
def bar_red(e: Emitter, m: Match[str], a: list[str]) -> str:
    if len(a) != 3:
        raise e.fail("bar.red of a part of the block")
    vote = e.value(a[2], "pred")
    result = {
        "popc": "n_",
        "or": "n_ > 0",
        "and": "n_ == (int)(grid_.block_dim.x * grid_.block_dim.y * grid_.block_dim.z)",
    }[m[1]]
    return f"int n_ = ptx::barrier_reduce({e.value(a[1], 'u32')}, 0, {vote}); " + e.set(a[0], result)


@instruction("bar.warp.sync", CHAPTER + "bar.warp.sync", r"bar\.warp\.sync", reports=True)
def bar_warp(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::warp_sync({e.value(a[0], 'u32')});"


@instruction(
    "barrier.cluster",
    CHAPTER + "barrier.cluster",
    r"barrier\.cluster\.(arrive|wait)(?:\.(?:release|acquire|relaxed))?(?:\.aligned)?",
    reports=True,
)
def bar_cluster(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::cluster_{m[1]}();"


@instruction(
    "membar, fence",
    CHAPTER + "membar, fence",
    r"membar\.(?P<scope>cta|gl|sys)",
    r"fence(?:\.(?:sc|acq_rel))?\.(?P<scope>cta|cluster|gpu|sys)",
)
def fence(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::fence({'true' if m['scope'] in ('gl', 'gpu', 'sys') else 'false'});"


@instruction("fence.proxy.async", CHAPTER + "membar, fence", r"fence\.proxy\.async(?:\.global|\.<SHARED>)?")
def fence_proxy(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::fence_proxy_async();"


# One thread at a time executes, so these have nothing to do.
@instruction(
    "fences without effect here",
    CHAPTER + "membar, fence; griddepcontrol; tcgen05.fence",
    r"fence\.mbarrier_init\.release\.cluster",
    r"fence\.proxy\.tensormap::generic\.(?:acquire|release)\.(?:cta|cluster|gpu|sys)",
    r"griddepcontrol\.(?:wait|launch_dependents)",
    r"tcgen05\.fence::(?:before|after)_thread_sync",
)
def no_effect(e: Emitter, m: Match[str], a: list[str]) -> str:
    return ";"


@instruction(
    "shfl.sync",
    "Data Movement and Conversion Instructions: shfl.sync",
    r"shfl\.sync\.(up|down|bfly|idx)\.b32",
    reports=True,
)
def shfl(e: Emitter, m: Match[str], a: list[str]) -> str:
    destination, _, valid = a[0].partition("|")
    arguments = ", ".join(e.values(a[1:5], "u32"))
    return (
        f"bool v_; uint32_t t_ = ptx::shuffle(ptx::Shuffle::{m[1].upper()}, {arguments}, v_); "
        + e.set(destination, "t_")
        + (e.set(valid, "v_") if valid else "")
    )


VOTES = {"ballot": "t_", "any": "t_ != 0", "all": "t_ == m_", "uni": "(t_ == 0 || t_ == m_)"}


@instruction("vote.sync", CHAPTER + "vote.sync", r"vote\.sync\.(?:(ballot)\.b32|(any|all|uni)\.pred)", reports=True)
def vote(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"uint32_t m_ = {e.value(a[2], 'u32')}, t_ = ptx::ballot({e.value(a[1], 'pred')}, m_); " + e.set(
        a[0], VOTES[m[1] or m[2]]
    )


@instruction("match.sync", CHAPTER + "match.sync", r"match\.any\.sync\.(b32|b64)", reports=True)
def match_any(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::match_any({e.value(a[1], m[1])}, {e.value(a[2], 'u32')})")


REDUCTIONS = {
    "add": "x + y",
    "min": "std::min(x, y)",
    "max": "std::max(x, y)",
    "and": "x & y",
    "or": "x | y",
    "xor": "x ^ y",
}


@instruction(
    "redux.sync",
    CHAPTER + "redux.sync",
    r"redux\.sync\.(add|min|max)\.([su]32)",
    r"redux\.sync\.(and|or|xor)\.(b32)",
    reports=True,
)
def redux(e: Emitter, m: Match[str], a: list[str]) -> str:
    t = ctype(m[2])
    return e.set(
        a[0],
        f"ptx::redux<{t}>({e.value(a[1], m[2])}, {e.value(a[2], 'u32')}, []({t} x, {t} y) -> {t} {{ return {REDUCTIONS[m[1]]}; }})",
    )


@instruction("redux.sync (float)", CHAPTER + "redux.sync", r"redux\.sync\.(min|max)(\.abs)?(\.NaN)?\.f32", reports=True)
def redux_float(e: Emitter, m: Match[str], a: list[str]) -> str:
    function = f"ptx::f{m[1]}{'_nan' if m[3] else ''}<float>"
    value = f"ptx::U(std::fabs({e.value(a[1], 'f32')}))" if m[2] else e.value(a[1], "u32")
    body = f"[](uint32_t x, uint32_t y) -> uint32_t {{ return ptx::U({function}(ptx::F(x), ptx::F(y))); }}"
    return e.set(a[0], f"ptx::redux<uint32_t>({value}, {e.value(a[2], 'u32')}, {body})")


@instruction("elect.sync", CHAPTER + "elect.sync", r"elect\.sync", reports=True)
def elect(e: Emitter, m: Match[str], a: list[str]) -> str:
    leader, chosen = a[0].split("|")
    return (
        f"uint32_t t_ = ptx::elect_leader({e.value(a[1], 'u32')}); "
        + e.set(leader, "t_")
        + e.set(chosen, "t_ == (uint32_t)me_.lane")
    )


# ---- mbarrier
MBARRIER = CHAPTER + "mbarrier"
IN_BLOCK = r"(?:\.(?:release|acquire|relaxed)\.(?:cta|cluster))?(?:\.<SHARED>|\.shared::cluster)?"


@instruction("mbarrier.init", MBARRIER, r"mbarrier\.init(?:\.<SHARED>)?\.b64", reports=True)
def mbarrier_init(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::mbarrier_init({e.address(a[0])}, {e.value(a[1], 'u32')});"


@instruction("mbarrier.inval", MBARRIER, r"mbarrier\.inval(?:\.<SHARED>)?\.b64", reports=True)
def mbarrier_inval(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::mbarrier_inval({e.address(a[0])});"


@instruction("mbarrier.arrive", MBARRIER, rf"mbarrier\.arrive{IN_BLOCK}\.b64", reports=True)
def mbarrier_arrive(e: Emitter, m: Match[str], a: list[str]) -> str:
    count = e.value(a[2], "u32") if len(a) > 2 else "1"
    return e.set(a[0], f"ptx::mbarrier_arrive({e.address(a[1])}, {count})")


@instruction(
    "mbarrier.expect_tx",
    MBARRIER,
    r"mbarrier\.expect_tx(?:\.relaxed\.(?:cta|cluster))?(?:\.<SHARED>)?\.b64",
    reports=True,
)
def mbarrier_expect(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::mbarrier_expect_tx({e.address(a[0])}, {e.value(a[1], 'u32')});"


@instruction("mbarrier.arrive.expect_tx", MBARRIER, rf"mbarrier\.arrive\.expect_tx{IN_BLOCK}\.b64", reports=True)
def mbarrier_arrive_expect(e: Emitter, m: Match[str], a: list[str]) -> str:
    where = e.address(a[1])
    return f"ptx::mbarrier_expect_tx({where}, {e.value(a[2], 'u32')}); " + e.set(
        a[0], f"ptx::mbarrier_arrive({where}, 1)"
    )


@instruction(
    "mbarrier.try_wait, test_wait",
    MBARRIER,
    rf"mbarrier\.(try|test)_wait(\.parity)?{IN_BLOCK}\.b64",
    reports=True,
)
def mbarrier_wait(e: Emitter, m: Match[str], a: list[str]) -> str:
    function, kind = ("wait_parity", "u32") if m[2] else ("wait_state", "u64")
    return e.set(
        a[0],
        f"ptx::mbarrier_{function}({e.address(a[1])}, {e.value(a[2], kind)}, {'true' if m[1] == 'test' else 'false'})",
    )
