"""For all tests here: decoded images are kept in a folder of the test's own, never in the user's."""

import os

import pytest

from fastgan.data import cache


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FASTGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def without_disk(monkeypatch):
    """A disk that is full when the first byte is to be kept."""

    def full(file) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cache, "_flush", full)
