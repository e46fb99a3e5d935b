"""Deliberate breakages of the generated code: the checks of the other files here must notice."""

import pytest

from .support import ARCHS  # isort: skip

from fused_resnet.analysis.mutation import SUBJECTS, mutate

COUNT = 3  # of each kernel; `python -m fused_resnet.analysis mutation` tries more, on every architecture

# What changes nothing that can be seen, with the reason: (kernel, architecture, breakage).
HARMLESS: dict[tuple[str, int, str], str] = {}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject[0])
def test_breakages_are_noticed(subject):
    arch = ARCHS[SUBJECTS.index(subject) % len(ARCHS)]
    verdicts = list(mutate(subject, arch, COUNT))
    assert len(verdicts) >= COUNT
    for v in verdicts:
        known = (v.kernel, arch, v.breakage.kind) in HARMLESS
        assert v.noticed or known, f"{v.breakage.kind}: {v.breakage.before} -> {v.breakage.after}"
