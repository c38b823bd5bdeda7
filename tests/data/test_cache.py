"""Sets beyond the memory bound: decoded once into a file, whole or not at all, and again when the data changed."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from fastgan.data import cache, folder
from fastgan.data.folder import open_images

from .test_folder import encoded, flat, write


@pytest.fixture
def images(tmp_path):
    return write(tmp_path, {f"{i:02}.png": encoded(flat(i)) for i in range(10)}, False)


@pytest.fixture
def decodes(monkeypatch):
    """Indices of what was decoded."""
    seen = []
    read = folder.ImageFiles._read
    monkeypatch.setattr(folder.ImageFiles, "_read", lambda self, i: (seen.append(i), read(self, i))[1])
    return seen


def opened(path, **options):
    return open_images(path, **{"image_size": 8, "max_cache_bytes": 0, **options})


def first_pixels(dataset) -> list[int]:
    return dataset.batch(range(len(dataset)))["image"][:, 0, 0, 0].tolist()


def files(cache_folder) -> list[str]:
    return sorted(p.name for p in cache_folder.iterdir() if p.suffix != ".lock")


def test_a_second_run_decodes_nothing(images, cache_folder, decodes):
    assert first_pixels(opened(images)) == list(range(10))
    assert sorted(decodes) == list(range(10))
    decodes.clear()
    again = opened(images)
    assert first_pixels(again) == list(range(10)) and decodes == []
    assert isinstance(again._cache, np.memmap) and not again._cache.flags.writeable
    (name,) = files(cache_folder)
    assert name.startswith("images-") and os.path.getsize(cache_folder / name) == 10 * 64 + 10


def test_within_the_bound_nothing_is_written(images, cache_folder):
    assert first_pixels(open_images(images, image_size=8)) == list(range(10))
    assert list(cache_folder.iterdir()) == []


def test_other_options_have_files_of_their_own(images, cache_folder):
    opened(images)
    opened(images, image_size=4)
    opened(images, channels=3)
    opened(images, size=5)
    assert len(files(cache_folder)) == 4


def test_changed_data_is_decoded_anew_and_replaces_the_file(images, cache_folder):
    opened(images)
    (before,) = files(cache_folder)
    (images / "03.png").write_bytes(encoded(flat(99)))
    assert first_pixels(opened(images))[3] == 99
    (after,) = files(cache_folder)
    assert after != before


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-3] + b"\0\0\0", lambda c: b""])
def test_a_damaged_file_is_written_again(images, cache_folder, damage):
    opened(images)
    (name,) = files(cache_folder)
    (cache_folder / name).write_bytes(damage((cache_folder / name).read_bytes()))
    assert first_pixels(opened(images)) == list(range(10))


def test_what_was_skipped_is_remembered(images, decodes):
    (images / "04.png").write_bytes(b"broken")
    for decoded in (10, 1):  # the second run asks the broken one for its reason again, and no other
        decodes.clear()
        with pytest.warns(UserWarning, match=r"skipped 1 of 10 images that cannot be read: 04.png \("):
            dataset = opened(images, skip_broken=True)
        assert first_pixels(dataset) == [0, 1, 2, 3, 5, 6, 7, 8, 9] and len(decodes) == decoded
    with pytest.raises(ValueError, match="image '04.png'"):
        opened(images)


def test_workers_map_the_same_file(images, decodes):
    dataset = opened(images)
    sent = pickle.dumps(dataset)
    decodes.clear()
    received = pickle.loads(sent)
    assert first_pixels(received) == list(range(10)) and decodes == []
    os.unlink(dataset._mapped.path)
    assert first_pixels(pickle.loads(sent)) == list(range(10)) and sorted(decodes) == list(range(10))


def test_a_full_disk_costs_one_sentence(images, cache_folder, without_disk):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = opened(images)
        assert first_pixels(dataset) == list(range(10))
    (warning,) = caught
    assert "images: decoded images cannot be kept in" in str(warning.message)
    assert "No space left on device" in str(warning.message)
    assert files(cache_folder) == []


def test_without_a_folder_images_are_decoded_at_every_use(images, monkeypatch, decodes):
    monkeypatch.setenv("FASTGAN_CACHE", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = opened(images)
        assert [first_pixels(dataset) for _ in range(2)] == [list(range(10))] * 2
    assert sorted(decodes) == sorted(2 * list(range(10))) and not list(images.parent.rglob("*.images"))


def test_a_folder_that_cannot_be_made_costs_one_sentence(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be kept in .*set FASTGAN_CACHE to another folder"):
        assert first_pixels(opened(images)) == list(range(10))


def test_killed_while_writing_nothing_is_taken_for_whole(images, cache_folder, monkeypatch):
    def killed(file):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_flush", killed)
        patch.setattr(cache.Path, "unlink", lambda self: None)  # a kill cleans nothing up
        with pytest.raises(KeyboardInterrupt):
            opened(images)
    (left,) = files(cache_folder)
    assert left.endswith(".tmp")
    assert first_pixels(opened(images)) == list(range(10))
    (name,) = files(cache_folder)
    assert name.endswith(".images")


PROCESS = """
import sys, numpy as np
from fastgan.data import folder
read, count = folder.ImageFiles._read, 0
def counted(self, i):
    global count
    count += 1
    return read(self, i)
folder.ImageFiles._read = counted
data = folder.open_images(sys.argv[1], image_size=8, max_cache_bytes=0)
print(count, data.batch(range(len(data)))["image"][:, 0, 0, 0].tolist() == list(range(len(data))))
"""


def test_two_processes_at_once_decode_once(tmp_path, cache_folder):
    path = write(tmp_path, {f"{i:03}.png": encoded(flat(i, (64, 64))) for i in range(200)}, False)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, str(path)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(int(count) for count, _ in answers) == [0, 200]
    assert all(right == "True" for _, right in answers)
    assert len(files(cache_folder)) == 1


def test_the_two_stores_hold_the_same_bytes(images):
    indices = torch.arange(10)
    in_memory = open_images(images, image_size=8).batch(indices)["image"]
    assert torch.equal(in_memory, opened(images).batch(indices)["image"])
