"""Shuffles, votes and reductions of a warp; barriers of warp, block and cluster."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from support import run

LANES = range(32)
SEEDS = range(4)
OWN = "mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5; "


def shuffle(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The pseudo code of shfl.sync in the PTX ISA: (source lane, p)."""
    bval, cval, segmask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & segmask) | (cval & ~segmask & 31)
    min_lane = lane & segmask
    j, p = {
        "up": (lane - bval, lane - bval >= max_lane),
        "down": (lane + bval, lane + bval <= max_lane),
        "bfly": (lane ^ bval, (lane ^ bval) <= max_lane),
        "idx": (min_lane | (bval & ~segmask & 31), (min_lane | (bval & ~segmask & 31)) <= max_lane),
    }[mode]
    return (j, True) if p else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffle(mode: str) -> None:
    """Every lane, distance and segment width, with several clamps."""
    settings = [(b, (32 - w) << 8 | clamp) for w in (32, 16, 8, 4, 2, 1) for clamp in (0, 31, 13) for b in range(0, 33)]
    arguments = torch.tensor(settings, dtype=torch.int32)
    out = torch.zeros(len(settings), 32, 2, dtype=torch.int32)
    run(
        f"""mul.wide.u32 %rd5, %r1, 8; add.u64 %rd6, %rd2, %rd5; mov.u32 %r2, {len(settings)};
            add.u32 %r5, %r1, 1000;
        NEXT: ld.global.v2.u32 {{%r3, %r4}}, [%rd1]; shfl.sync.{mode}.b32 %r6|%p1, %r5, %r3, %r4, -1;
        selp.u32 %r7, 1, 0, %p1; st.global.v2.u32 [%rd6], {{%r6, %r7}};
        add.u64 %rd1, %rd1, 8; add.u64 %rd6, %rd6, 256; sub.u32 %r2, %r2, 1; setp.ne.u32 %p0, %r2, 0;
        @%p0 bra NEXT;""",
        arguments,
        out,
    )
    expected = [[(1000 + j, p) for j, p in (shuffle(mode, lane, b, c) for lane in LANES)] for b, c in settings]
    assert torch.equal(out, torch.tensor(expected, dtype=torch.int32))


def test_shuffle_of_two_halves() -> None:
    """The two halves of a warp shuffle on their own; without the predicate."""
    out = torch.zeros(32, dtype=torch.int32)
    for seed in SEEDS:
        run(
            OWN
            + "setp.lt.u32 %p0, %r1, 16; @%p0 bra LOW; shfl.sync.bfly.b32 %r2, %r1, 3, 31, 0xFFFF0000; "
            "bra END; LOW: shfl.sync.down.b32 %r2, %r1, 1, 31, 0xFFFF; END:".replace(
                "1, 31, 0xFFFF;", "1, 0x100F, 0xFFFF;"
            )
            + " st.global.u32 [%rd6], %r2;",
            out,
            seed=seed,
        )
        assert out.tolist() == [min(i + 1, 15) for i in range(16)] + [i ^ 3 for i in range(16, 32)]


def test_votes() -> None:
    masks = [0, 0xFFFFFFFF, 1, 0x80000000, 0xFFFFFFFE, 0x12345678]
    out = torch.zeros(len(masks), 4, 32, dtype=torch.int32)
    body = OWN
    for i, m in enumerate(masks):
        body += (
            f"shr.u32 %r2, {m}, %r1; and.b32 %r2, %r2, 1; setp.eq.u32 %p1, %r2, 1; "
            f"vote.sync.ballot.b32 %r3, %p1, -1; st.global.u32 [%rd6+{512 * i}], %r3;"
        )
        for k, mode in enumerate(("any", "all", "uni")):
            body += (
                f"vote.sync.{mode}.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2; "
                f"st.global.u32 [%rd6+{512 * i + 128 * (k + 1)}], %r3;"
            )
    run(body, out)
    for i, m in enumerate(masks):
        assert (out[i, 0].to(torch.int64) & 0xFFFFFFFF == m).all()
        assert out[i, 1:, 0].tolist() == [m != 0, m == 0xFFFFFFFF, m in (0, 0xFFFFFFFF)]
        assert (out[i] == out[i, :, :1]).all()


def test_votes_of_a_part() -> None:
    """Lanes outside the mask do not count."""
    out = torch.zeros(3, 32, dtype=torch.int32)
    run(
        OWN
        + """setp.lt.u32 %p0, %r1, 8; setp.lt.u32 %p1, %r1, 8; @!%p0 bra END;
        vote.sync.all.pred %p2, %p1, 0xFF; selp.u32 %r3, 1, 0, %p2; st.global.u32 [%rd6], %r3;
        vote.sync.ballot.b32 %r3, !%p1, 0xFF; st.global.u32 [%rd6+128], %r3;
        vote.sync.uni.pred %p2, %p1, 0xFF; selp.u32 %r3, 1, 0, %p2; st.global.u32 [%rd6+256], %r3;
        END:""",
        out,
    )
    assert out[:, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("bits", [32, 64])
def test_match(bits: int) -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 5, (32,)) + (torch.randint(0, 2, (32,)) << 40 if bits == 64 else 0)
    out = torch.zeros(32, dtype=torch.int32)
    load = "ld.global.u64 %rd9, [%rd8]; cvt.u32.u64 %r3, %rd9;"
    run(
        f"{OWN} mul.wide.u32 %rd8, %r1, 8; add.u64 %rd8, %rd8, %rd2; "
        f"{load} match.any.sync.b{bits} %r4, {'%r3' if bits == 32 else '%rd9'}, -1; "
        "st.global.u32 [%rd6], %r4;",
        out,
        values,
    )
    expected = [sum(1 << j for j in LANES if values[i] == values[j]) for i in LANES]
    assert [x & 0xFFFFFFFF for x in out.tolist()] == expected


INTEGER = {
    "add.u32": lambda v: sum(v) % 2**32,
    "add.s32": lambda v: sum(v) % 2**32,
    "min.u32": min,
    "max.u32": max,
    "min.s32": lambda v: min(signed(x) for x in v) % 2**32,
    "max.s32": lambda v: max(signed(x) for x in v) % 2**32,
    "and.b32": lambda v: functools.reduce(int.__and__, v),
    "or.b32": lambda v: functools.reduce(int.__or__, v),
    "xor.b32": lambda v: functools.reduce(int.__xor__, v),
}


def signed(x: int) -> int:
    return x - 2**32 if x >> 31 else x


def test_redux() -> None:
    torch.manual_seed(0)
    values = torch.randint(-(2**31), 2**31, (32,)).int()
    out = torch.zeros(len(INTEGER), 32, dtype=torch.int32)
    body = OWN + (
        "ld.global.u32 %r2, [%rd6]; setp.lt.u32 %p0, %r1, 7; mov.u32 %r4, 0x7F; @!%p0 mov.u32 %r4, 0xFFFFFF80;"
    )
    for i, op in enumerate(INTEGER):
        body += f"redux.sync.{op} %r3, %r2, %r4; st.global.u32 [%rd7+{128 * i}], %r3;"
    run(body, values, out)
    unsigned = [x % 2**32 for x in values.tolist()]
    for i, function in enumerate(INTEGER.values()):
        low, high = function(unsigned[:7]), function(unsigned[7:])
        assert [x % 2**32 for x in out[i].tolist()] == [low] * 7 + [high] * 25


def test_redux_float() -> None:
    values = torch.randn(32)
    with_nan = values.clone()
    with_nan[9] = torch.nan
    forms = list(itertools.product(("min", "max"), ("", ".abs"), ("", ".NaN")))
    for x in (values, with_nan):
        out = torch.zeros(len(forms), 32)
        run(
            OWN
            + "ld.global.u32 %r2, [%rd6];"
            + "".join(
                f"redux.sync.{f}{a}{n}.f32 %r3, %r2, -1; st.global.u32 [%rd7+{128 * i}], %r3;"
                for i, (f, a, n) in enumerate(forms)
            ),
            x,
            out,
        )
        for i, (f, a, n) in enumerate(forms):
            y = x.abs() if a else x
            number = y[~y.isnan()]
            expected = (
                torch.tensor(torch.nan) if n and y.isnan().any() else number.min() if f == "min" else number.max()
            )
            assert torch.equal(out[i], expected.expand(32)) or (expected.isnan() and out[i].isnan().all())


def test_elect() -> None:
    """One lane of the mask, and the same one again."""
    for seed in SEEDS:
        out = torch.zeros(3, 32, dtype=torch.int32)
        run(
            OWN + "setp.lt.u32 %p0, %r1, 12; mov.u32 %r4, 0xFFF; @!%p0 mov.u32 %r4, 0xFFFFF000; "
            "elect.sync %r2|%p1, %r4; selp.u32 %r3, 1, 0, %p1; st.global.u32 [%rd6], %r3;"
            "st.global.u32 [%rd6+128], %r2; elect.sync _|%p1, %r4; selp.u32 %r3, 1, 0, %p1; "
            "st.global.u32 [%rd6+256], %r3;",
            out,
            seed=seed,
        )
        for part in (slice(0, 12), slice(12, 32)):
            chosen = out[0, part].nonzero().flatten().tolist()
            assert len(chosen) == 1 and (out[1, part] == chosen[0] + part.start).all()
        assert torch.equal(out[0], out[2])


# ---- barriers. Threads write their number and read another's, several times over.
STORE = "shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.u32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1; "


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "form",
    [
        "bar.sync 0",
        "bar.sync 3, 96",
        "barrier.sync 1",
        "barrier.sync.aligned 1, 96",
        "barrier.cta.sync 0",
        "bar.sync.aligned 2",
    ],
)
def test_block_barrier(form: str, seed: int) -> None:
    out = torch.zeros(3, 96, dtype=torch.int32)
    rounds = "".join(
        f"add.u32 %r6, %r1, {step}; st.shared.u32 [%r4], %r6; {form}; ld.shared.u32 %r7, [%r5]; "
        f"st.global.u32 [%rd6+{384 * step}], %r7; {form};"
        for step in range(3)
    )
    run(
        f"{OWN} {STORE} add.u32 %r5, %r3, 380; sub.u32 %r5, %r5, %r2; {form}; {rounds}",
        out,
        threads=96,
        seed=seed,
    )
    assert torch.equal(out, torch.stack([torch.arange(95, -1, -1) + step for step in range(3)]).int())


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_and_cluster_barriers(seed: int) -> None:
    out = torch.zeros(2, 64, dtype=torch.int32)
    run(
        f"""{OWN} {STORE} bar.warp.sync -1; xor.b32 %r5, %r2, 124; add.u32 %r5, %r5, %r3;
        ld.shared.u32 %r7, [%r5]; st.global.u32 [%rd6], %r7;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned; add.u32 %r5, %r3, 252;
        sub.u32 %r5, %r5, %r2; ld.shared.u32 %r7, [%r5];
        st.global.u32 [%rd6+256], %r7; barrier.cluster.arrive.relaxed; barrier.cluster.wait;
        add.u32 %r1, %r1, 5; st.shared.u32 [%r4], %r1;""",
        out,
        threads=64,
        seed=seed,
    )
    own = torch.arange(64, dtype=torch.int32)
    assert torch.equal(out, torch.stack([own ^ 31, 63 - own]))


@pytest.mark.parametrize("seed", SEEDS)
def test_producer_and_consumer_warps(seed: int) -> None:
    """Two buffers between warp 0 and warp 1, with a full and an empty named barrier each."""
    steps = 6
    out = torch.zeros(steps, 32, dtype=torch.int32)
    produce = "".join(
        (f"bar.sync {3 + i % 2}, 64;" if i >= 2 else "") + f"add.u32 %r6, %r1, {100 * i}; "
        f"st.shared.u32 [%r4+{128 * (i % 2)}], %r6; "
        f"bar.arrive {1 + i % 2}, 64;"
        for i in range(steps)
    )
    consume = "".join(
        f"bar.sync {1 + i % 2}, 64; ld.shared.u32 %r7, [%r5+{128 * (i % 2)}]; "
        f"st.global.u32 [%rd6+{128 * i - 128}], %r7;" + (f"barrier.arrive {3 + i % 2}, 64;" if i < steps - 2 else "")
        for i in range(steps)
    )
    run(
        f"""{OWN} shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.u32 %r4, %r3, %r2; add.u32 %r5, %r3, 252;
            sub.u32 %r5, %r5, %r2; setp.lt.u32 %p0, %r1, 32; @!%p0 bra CONSUME; {produce} bra END;
        CONSUME: {consume} END:""",
        out,
        threads=64,
        seed=seed,
    )
    assert torch.equal(out, torch.stack([torch.arange(31, -1, -1) + 100 * i for i in range(steps)]).int())


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_reductions(seed: int) -> None:
    """popc, and, or of a predicate over the block; also a barrier in between keeps them apart."""
    thresholds = [0, 1, 40, 64]
    out = torch.zeros(len(thresholds), 3, 64, dtype=torch.int32)
    body = OWN
    for i, n in enumerate(thresholds):
        body += f"setp.lt.u32 %p1, %r1, {n}; bar.red.popc.u32 %r2, 1, %p1; st.global.u32 [%rd6+{768 * i}], %r2;"
        body += (
            "barrier.red.and.aligned.pred %p2, 1, %p1; selp.u32 %r2, 1, 0, %p2; "
            f"st.global.u32 [%rd6+{768 * i + 256}], %r2;"
        )
        body += (
            f"barrier.cta.red.or.pred %p2, 2, %p1; selp.u32 %r2, 1, 0, %p2; st.global.u32 [%rd6+{768 * i + 512}], %r2;"
        )
    run(body, out, threads=64, seed=seed)
    for i, n in enumerate(thresholds):
        assert (out[i] == torch.tensor([[n], [n == 64], [n > 0]])).all()


def test_barrier_without_threads_that_ended() -> None:
    out = torch.zeros(64, dtype=torch.int32)
    for seed in SEEDS:
        run(
            f"{OWN} setp.ge.u32 %p0, %r1, 40; @%p0 bra END; {STORE} bar.sync 0; "
            "ld.shared.u32 %r5, [buf+156]; st.global.u32 [%rd6], %r5; END:",
            out,
            threads=64,
            seed=seed,
        )
        assert out.tolist() == [39] * 40 + [0] * 24


def test_fences_do_nothing_wrong() -> None:
    forms = [
        "membar.cta",
        "membar.gl",
        "membar.sys",
        "fence.sc.gpu",
        "fence.acq_rel.cta",
        "fence.cluster",
        "fence.proxy.async",
        "fence.proxy.async.global",
        "griddepcontrol.wait",
        "griddepcontrol.launch_dependents",
        "fence.mbarrier_init.release.cluster",
    ]
    out = torch.zeros(32, dtype=torch.int32)
    run(OWN + "; ".join(forms) + "; st.global.u32 [%rd6], %r1;", out)
    assert torch.equal(out, torch.arange(32, dtype=torch.int32))
