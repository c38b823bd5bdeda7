"""Folders and zips of images, good and bad."""

import io
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import load
from fastgan.data.folder import open_images


def encoded(array: np.ndarray, form: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def flat(color, size=(10, 14)) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (*size, *np.shape(color))).copy()


def write(root, files: dict[str, bytes], as_zip: bool):
    if as_zip:
        path = root / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    path = root / "images"
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


RED, BLUE = (255, 0, 0), (0, 0, 255)
either = pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])


@either
def test_subfolders_are_classes(tmp_path, as_zip):
    files = {f"pets/dog/{i}.png": encoded(flat(RED)) for i in range(2)} | {"pets/cat/a/b.PNG": encoded(flat(BLUE))}
    files |= {"pets/notes.txt": b"not an image", "pets/dog/.hidden.png": b"x", "__MACOSX/pets/._0.png": b"x"}
    dataset = load(write(tmp_path, files, as_zip), image_size=8)
    assert len(dataset) == 3 and dataset.classes == ("cat", "dog")
    batch = dataset.batch([0, 1, 2])
    assert batch["label"].tolist() == [0, 1, 1] and batch["image"].shape == (3, 3, 8, 8)
    assert batch["image"][0, :, 4, 4].tolist() == list(BLUE) and batch["image"][2, :, 4, 4].tolist() == list(RED)
    assert "3 images, 2 classes, 3x8x8, resized 10..14 -> 8 px" in dataset.describe()


@either
def test_train_and_test_folders_are_splits(tmp_path, as_zip):
    files = {
        "train/a/0.png": encoded(flat(RED)),
        "train/b/0.png": encoded(flat(RED)),
        "test/b/0.png": encoded(flat(BLUE)),
    }
    path = write(tmp_path, files, as_zip)
    assert len(load(path, image_size=8)) == 2
    test = load(path, image_size=8, split="test")
    assert len(test) == 1 and test[0]["image"][2].eq(255).all()


def test_a_lone_train_folder_has_no_test_split(tmp_path):
    path = write(tmp_path, {f"train/{c}/0.png": encoded(flat(RED)) for c in "ab"}, False)
    assert load(path, image_size=8).classes == ("a", "b")
    with pytest.raises(ValueError, match="split 'test' is not in the data: its folders are"):
        load(path, image_size=8, split="test")


def test_images_of_one_folder_have_no_classes(tmp_path):
    path = write(tmp_path, {f"all/{i}.png": encoded(flat(RED)) for i in range(2)}, False)
    dataset = load(path, image_size=8)
    assert dataset.classes is None and set(dataset[0]) == {"image", "index"}


def test_every_kind_of_image_is_read(tmp_path):
    wide = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    palette = Image.fromarray(flat(RED)).convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "gif")
    files = {
        "0_grey.png": encoded(flat(77)),
        "1_16bit.png": encoded(wide),
        "2_rgb.jpg": encoded(flat((10, 200, 30)), "jpeg", quality=95),
        "3_rgba.png": encoded(flat((10, 20, 30, 0))),
        "4_palette.gif": buffer.getvalue(),
        "5_rgb.webp": encoded(flat(BLUE), "webp", lossless=True),
        "6_one_pixel.bmp": encoded(flat(RED, (1, 1)), "bmp"),
    }
    dataset = load(write(tmp_path, files, False), image_size=16)
    images = dataset.batch(range(7))["image"]
    assert dataset.channels == 3 and images.shape == (7, 3, 16, 16)
    assert images[0].eq(77).all()
    assert torch.equal(images[1][0].flatten(), torch.arange(256, dtype=torch.uint8))
    assert (images[2, :, 8, 8].int() - torch.tensor([10, 200, 30])).abs().max() <= 3
    assert images[3].eq(255).all()  # transparent: white shows
    assert images[4, :, 8, 8].tolist() == list(RED) and images[6, :, 8, 8].tolist() == list(RED)
    assert images[5, :, 8, 8].tolist() == list(BLUE)


@pytest.mark.parametrize(("channels", "expected"), [(None, [90]), (1, [90]), (3, [90] * 3), (4, [90] * 3 + [255])])
def test_channels_follow_the_option(tmp_path, channels, expected):
    dataset = load(write(tmp_path, {"a.png": encoded(flat(90))}, False), image_size=8, channels=channels)
    assert dataset.channels == len(expected) and dataset[0]["image"][:, 0, 0].tolist() == expected


def test_rgba_is_kept_when_asked_for(tmp_path):
    path = write(tmp_path, {"a.png": encoded(flat((10, 20, 30, 40)))}, False)
    assert load(path, image_size=8, channels=4)[0]["image"][:, 0, 0].tolist() == [10, 20, 30, 40]


def test_exif_orientation_turns_the_image_upright(tmp_path):
    picture = flat(RED, (16, 16))
    picture[:8] = BLUE
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = write(tmp_path, {"a.jpg": encoded(picture, "jpeg", quality=95, exif=exif)}, False)
    top = load(path, image_size=16)[0]["image"][:, 2, 8]
    assert top[0] > 200 and top[2] < 60


def broken(count: int = 12) -> dict[str, bytes]:
    good = encoded(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    files = {f"{i:02}.png": good for i in range(count)}
    return files | {"03.png": good[: len(good) // 2], "07.png": b"", "09.jpg": b"<html>not found</html>"}


@either
def test_broken_images_are_skipped_with_one_warning_where_asked(tmp_path, as_zip):
    path = write(tmp_path, broken(), as_zip)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = load(path, image_size=8, skip_broken=True)
        dataset.batch(range(len(dataset)))
    assert len(dataset) == 10 and [name for name, _ in dataset.skipped] == ["03.png", "07.png", "09.jpg"]
    (warning,) = [str(w.message) for w in caught if "skipped" in str(w.message)]
    assert "skipped 3 of 13 images" in warning and "03.png (" in warning and "09.jpg (" in warning
    assert "3 unreadable skipped" in dataset.describe()


@either
def test_the_first_broken_image_is_refused_by_name(tmp_path, as_zip):
    with pytest.raises(
        ValueError, match="image '03.png' of 'images' cannot be read: .*leave such images out with skip"
    ):
        load(write(tmp_path, broken(), as_zip), image_size=8)


def test_without_room_for_a_cache_the_next_readable_image_stands_in(tmp_path, without_disk):
    files = {"a/0.png": encoded(flat(RED)), "a/1.png": b"broken", "b/2.png": b"broken", "b/3.png": encoded(flat(BLUE))}
    path = write(tmp_path, files, False)
    with pytest.warns(UserWarning, match="decoded at every use"):
        dataset = open_images(path, image_size=8, skip_broken=True, max_cache_bytes=0)
    assert len(dataset) == 4
    with pytest.warns(UserWarning, match="skipped image 'a/1.png'") as caught:
        batch = dataset.batch([0, 1, 2, 3])
    assert len(caught) == 1
    assert batch["image"][:, 0, 4, 4].tolist() == [255, 0, 0, 0]
    assert batch["label"].tolist() == [0, 1, 1, 1]  # the label is that of the image shown
    assert len(dataset.skipped) == 2
    with pytest.raises(ValueError, match="image 'a/1.png'"):
        open_images(path, image_size=8, max_cache_bytes=0)


@either
def test_a_zip_damaged_inside_or_all_unreadable_says_so(tmp_path, as_zip):
    with pytest.raises(ValueError, match="none of the 2 images of 'images' can be read; the first, 'a.png'"):
        load(write(tmp_path, {"a.png": b"x", "b.png": b"y"}, as_zip), image_size=8, skip_broken=True)


def test_a_member_with_a_wrong_checksum_is_skipped(tmp_path):
    path = write(tmp_path, {"a.png": encoded(flat(RED)), "b.png": encoded(flat(BLUE))}, True)
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR") + 6] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="skipped 1 of 2 images that cannot be read: a.png"):
        assert len(load(path, image_size=8, skip_broken=True)) == 1


@either
def test_no_images_is_one_sentence(tmp_path, as_zip):
    with pytest.raises(ValueError, match="holds no images: 1 files in the .*none of them ending in .png"):
        load(write(tmp_path, {"readme.txt": b""}, as_zip), image_size=8)


def test_an_empty_folder_and_what_is_no_zip(tmp_path):
    with pytest.raises(ValueError, match="holds no images: 0 files in the folder"):
        load(tmp_path, image_size=8)
    (tmp_path / "a.zip").write_bytes(b"PK but not really")
    with pytest.raises(ValueError, match=r"data '.*a.zip' is not a readable zip archive"):
        load(tmp_path / "a.zip", image_size=8)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"channels": 2}, "channels takes 1"), ({"image_size": 0}, "image_size takes"), ({"split": "x"}, "split takes")],
)
def test_bad_options_are_named(tmp_path, option, message):
    path = write(tmp_path, {"a.png": encoded(flat(RED))}, False)
    with pytest.raises(ValueError, match=message):
        load(path, **{"image_size": 8, **option})


def test_size_is_a_seeded_subset(tmp_path):
    path = write(tmp_path, {f"{i:02}.png": encoded(flat(i)) for i in range(30)}, True)
    first = load(path, image_size=8, size=5, seed=1).batch(range(5))["image"][:, 0, 0, 0]
    again = load(path, image_size=8, size=5, seed=1).batch(range(5))["image"][:, 0, 0, 0]
    other = load(path, image_size=8, size=5, seed=2).batch(range(5))["image"][:, 0, 0, 0]
    assert torch.equal(first, again) and not torch.equal(first, other) and first.unique().numel() == 5
    assert len(load(path, image_size=8, size=99)) == 30


def test_a_link_back_up_ends(tmp_path):
    path = write(tmp_path, {"a/0.png": encoded(flat(RED)), "b/0.png": encoded(flat(RED))}, False)
    (path / "a" / "again").symlink_to(path)
    assert len(load(path, image_size=8)) == 2


def test_zip_reads_after_pickling(tmp_path):
    dataset = load(write(tmp_path, {"a.png": encoded(flat(BLUE))}, True), image_size=8)
    assert pickle.loads(pickle.dumps(dataset))[0]["image"][2].eq(255).all()


def test_without_pillow_the_next_step_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        load(tmp_path, image_size=8)
