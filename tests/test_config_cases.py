"""Never a silent approximation: every field of every config is followed as transformers follows it,
or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import config_cases


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", config_cases.FAMILIES)
def test_every_field_is_followed_or_refused(family: str, tmp_path: Path) -> None:
    wrong, n = [], Counter[str]()
    for i, case in enumerate(config_cases.cases(family)):
        try:
            kind, _ = config_cases.outcome(case, tmp_path / str(i))
            n[kind] += 1
        except AssertionError as error:
            wrong.append(f"{case}: {error}")
    print(family, dict(n))
    assert not wrong, "\n".join(wrong)
    assert n[config_cases.SAME] >= 60 and n[config_cases.REFUSED] >= 10
