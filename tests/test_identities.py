"""Every identity of docs/identities.md, to rounding in double precision."""

from pathlib import Path

import identities
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    identities.IDENTITIES,
    ids=[e.sides.__name__ for e in identities.IDENTITIES],
)
def test_identity_holds_to_rounding(entry):
    assert identities.error(entry, x64=True) <= identities.EXACT


def test_the_page_lists_every_identity():
    text = (Path(__file__).parents[1] / "docs" / "identities.md").read_text()
    for entry in identities.IDENTITIES:
        assert f"| {entry.statement} |" in text, "run scripts/identities.py"
