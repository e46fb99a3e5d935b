"""Deliberate breakages of the generated code: the checks of the other files here must notice."""

import pytest

from .support import ARCH  # isort: skip

from fused_resnet.analysis.mutation import SUBJECTS, mutate

COUNT = 3  # of each kernel; `python -m fused_resnet.analysis mutation --backend cuda` tries more
OURS = [subject for subject in SUBJECTS if subject.backend == "cuda"]


@pytest.mark.parametrize("subject", OURS, ids=lambda subject: subject.problem)
def test_breakages_are_noticed(subject):
    verdicts = list(mutate(subject, ARCH, COUNT))
    assert len(verdicts) >= COUNT
    for v in verdicts:
        broken = f"{v.breakage.kind}: {v.breakage.before} -> {v.breakage.after}"
        assert v.noticed or v.harmless, broken
    assert sum(v.noticed for v in verdicts) >= 2
