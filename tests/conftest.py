"""Shared by the suite: the local mirror of real data sets and models, and no deadline for an example."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # two workers on busy cores: seconds are never asserted
settings.load_profile("suite")

MIRROR = Path(__file__).parents[1].parent / "shared" / "mirror"


@pytest.fixture
def mirror(monkeypatch):
    """The mirror's folder, which SUA_MIRROR then names; skips where there is none."""
    if not MIRROR.is_dir():
        pytest.skip("no mirror of data sets and models beside the checkout (../shared/mirror)")
    monkeypatch.setenv("SUA_MIRROR", str(MIRROR))
    return MIRROR


@pytest.fixture
def hub_sets(mirror, tmp_path_factory, monkeypatch):
    """A mirror, named by SUA_MIRROR, that has BBQ and AmbigNQ with the hub's columns beside the data sets of `mirror`.
    """
    from mirrors import with_hub_sets

    folder = with_hub_sets(mirror, tmp_path_factory.mktemp("hub_sets"))
    monkeypatch.setenv("SUA_MIRROR", str(folder))
    return folder
