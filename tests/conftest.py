"""Shared by the suite: the local mirror of real data sets and models."""

from pathlib import Path

import pytest

MIRROR = Path(__file__).parents[1].parent / "shared" / "mirror"


@pytest.fixture
def mirror(monkeypatch):
    """The mirror's folder, which SUA_MIRROR then names; skips where there is none."""
    if not MIRROR.is_dir():
        pytest.skip("no mirror of data sets and models beside the checkout (../shared/mirror)")
    monkeypatch.setenv("SUA_MIRROR", str(MIRROR))
    return MIRROR
