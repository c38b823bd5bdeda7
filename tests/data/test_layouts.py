"""What lies beside the images: tables of labels and captions, pairs, and their faults."""

import json
import re

import pytest
import torch
from PIL import Image

from fastgan.data import load
from fastgan.data.text import TEXT_LENGTH

from .test_folder import BLUE, RED, either, encoded, flat, write

PICTURE = encoded(flat(RED))
THREE = {f"{name}.png": PICTURE for name in "abc"}


def csv_of(*rows: str) -> dict[str, bytes]:
    return {"metadata.csv": "\n".join(rows).encode()}


def decoded(text: torch.Tensor) -> str:
    return bytes(text.tolist()).rstrip(b"\0").decode()


@either
def test_labels_and_captions_from_a_csv(tmp_path, as_zip):
    table = csv_of("file_name,label,caption", "c.png,dog,a dog", "a.png,cat,ein Kätzchen", 'b.png,,"one, unseen"')
    dataset = load(write(tmp_path, THREE | table, as_zip), image_size=8)
    batch = dataset.batch([0, 1, 2])
    assert dataset.classes == ("cat", "dog") and batch["label"].tolist() == [0, -1, 1]
    assert batch["text"].shape == (3, TEXT_LENGTH) and batch["text"].dtype == torch.int64
    assert [decoded(text) for text in batch["text"]] == ["ein Kätzchen", "one, unseen", "a dog"]
    assert dataset.caption(2) == "a dog"
    assert decoded(dataset[0]["text"]) == "ein Kätzchen"


ROWS = [
    {"file_name": f"{name}.png", "label": label, "text": f"number {label}"}
    for name, label in zip("abc", (2, 0, -1), strict=True)
]


@pytest.mark.parametrize(
    "table",
    [{"metadata.json": json.dumps(ROWS).encode()}, {"metadata.jsonl": "\n".join(map(json.dumps, ROWS)).encode()}],
    ids=["json", "jsonl"],
)
def test_numbers_are_class_indices(tmp_path, table):
    dataset = load(write(tmp_path, THREE | table, False), image_size=8)
    assert dataset.labels.tolist() == [2, 0, -1] and dataset.classes == ("0", "1", "2")
    assert dataset.caption(0) == "number 2"


def test_captions_beside_classes_and_in_each_split(tmp_path):
    files = {f"{split}/{c}/0.png": PICTURE for split in ("train", "test") for c in ("cat", "dog")}
    files |= {
        f"{split}/metadata.csv": f"file_name,caption\ncat/0.png,{split} cat\n./dog/0.png,{split} dog".encode()
        for split in ("train", "test")
    }
    path = write(tmp_path, files, False)
    for split in ("train", "test"):
        dataset = load(path, image_size=8, split=split)
        assert dataset.classes == ("cat", "dog") and dataset.labels.tolist() == [0, 1]
        assert [dataset.caption(i) for i in (0, 1)] == [f"{split} cat", f"{split} dog"]


def test_a_subset_and_skipped_images_keep_their_rows(tmp_path):
    files = {f"{i:02}.png": encoded(flat(10 * i)) for i in range(20)} | {"07.png": b"broken"}
    table = csv_of("file_name,label,caption", *(f"{i:02}.png,{i},image {i}" for i in range(20)))
    path = write(tmp_path, files | table, False)
    with pytest.warns(UserWarning, match="skipped 1 of 20 images that cannot be read: 07.png"):
        everything = load(path, image_size=8, skip_broken=True)
    (path / "07.png").write_bytes(encoded(flat(70)))
    some = load(path, image_size=8, size=4, seed=3)
    for dataset in (everything, some):
        batch = dataset.batch(range(len(dataset)))
        assert (batch["image"][:, 0, 0, 0] == 10 * batch["label"]).all()
        assert [decoded(t) for t in batch["text"]] == [f"image {i}" for i in batch["label"].tolist()]


def labelled(*labels: object) -> list[str]:
    return ["file_name,label", *(f"{name}.png,{label}" for name, label in zip("abc", labels, strict=False))]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file_name,label", "x.png,1"], "metadata.csv of data 'images' names the image 'x.png', which is not there"),
        (labelled(1, 1), "1 of the 3 images of data 'images' are in no row of metadata.csv, 'c.png' first: add a row"),
        (["file_name,label", "a.png,1", "a.png,1"], "names the image 'a.png' twice"),
        (["name,label", "a.png,1"], "row 1 of metadata.csv has no file_name"),
        (["file_name,width", *labelled(1, 1, 1)[1:]], "has neither a column 'label' nor 'caption'"),
        (labelled(0, 1, -2), "metadata.csv gives 'c.png' the label '-2'; it takes a class index"),
        (labelled(0, 1.5, 1), "'b.png' the label '1.5'"),
        (labelled(0, "nan", 1), "'b.png' the label 'nan'"),
        (["file_name,caption", "a.png,x", "b.png, ", "c.png,y"], "'b.png' the caption ' '; it takes one sentence"),
        (["file_name,caption", 'a.png,"x'], "metadata.csv of data 'images' cannot be read: unexpected end of data"),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, THREE | csv_of(*rows), False), image_size=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read: Expecting"),
        (b"{}", "takes a list of rows"),
        (b"[1]", "row 1 .* no file_name"),
        (b"\xff", "utf"),
    ],
)
def test_broken_json_is_one_sentence(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, THREE | {"metadata.json": content}, False), image_size=8)


# -- pairs -------------------------------------------------------------------------------------------------------------


@either
def test_pairs_by_stem(tmp_path, as_zip):
    files = {f"train/source/{i}.png": encoded(flat(i)) for i in range(12)}
    files |= {f"train/target/{i}.jpg": encoded(flat((i, 0, 255)), "jpeg", quality=95) for i in range(12)}
    path = write(tmp_path, files, as_zip)
    dataset = load(path, image_size=8)
    batch = dataset.batch([3, 0, 11])
    assert batch["source"].shape == (3, 1, 8, 8) and batch["image"].shape == (3, 3, 8, 8)
    assert (batch["image"][:, 0, 0, 0].int() - batch["source"][:, 0, 0, 0].int()).abs().max() <= 3
    assert "12 images, 3x8x8, paired with sources of 1 channels" in dataset.describe()
    assert len(load(path, image_size=8, size=5)) == 5
    assert load(path, image_size=8, channels=3)[0]["source"].shape == (3, 8, 8)


def test_pairs_have_captions_of_the_target(tmp_path):
    files = {"source/a.png": PICTURE, "target/a.png": encoded(flat(BLUE))} | csv_of(
        "file_name,caption", "target/a.png,sea"
    )
    dataset = load(write(tmp_path, files, False), image_size=8)
    assert dataset.caption(0) == "sea" and decoded(dataset.batch([0])["text"][0]) == "sea"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("source/a.png", "target/a.png", "source/b.png"),
            "'source/b.png' has no partner of that name in target/ (1 im",
        ),
        (
            ("source/a.png", "target/a.png", "target/b.png"),
            "'target/b.png' has no partner of that name in source/ (1 im",
        ),
        (
            ("source/a.png", "source/a.jpg", "target/a.png"),
            "'source/a.png' and 'source/a.jpg' differ only in their endi",
        ),
    ],
)
def test_a_missing_partner_is_named(tmp_path, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(write(tmp_path, dict.fromkeys(names, PICTURE), False), image_size=8)


def test_a_broken_partner_is_refused(tmp_path):
    path = write(tmp_path, {"source/a.png": PICTURE, "target/a.png": b"broken"}, False)
    with pytest.raises(ValueError, match="image 'target/a.png' of 'images' cannot be read"):
        load(path, image_size=8)
    with pytest.raises(ValueError, match="holds pairs: skip_broken would part them"):
        load(path, image_size=8, skip_broken=True)


# -- kinds of image ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "form", "colour", "expected"),
    [
        ("L", "png", 77, [77, 77, 77]),
        ("LA", "png", (77, 0), [255, 255, 255]),
        ("P", "png", 1, [10, 20, 30]),
        ("1", "png", 1, [255, 255, 255]),
        ("CMYK", "tiff", (0, 255, 255, 0), [255, 0, 0]),
        ("CMYK", "jpeg", (0, 255, 255, 0), [255, 0, 0]),
        ("I;16", "png", 51 * 256, [51, 51, 51]),
        ("I;16", "png", 100, [0, 0, 0]),  # dark, and not eight bits
        ("F", "tiff", 33.0, [33, 33, 33]),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, form, colour, expected):
    image = Image.new(mode, (9, 13), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / f"a.{form}")
    pixel = load(tmp_path, image_size=8, channels=3)[0]["image"][:, 4, 4]
    assert (pixel.int() - torch.tensor(expected)).abs().max() <= (3 if form == "jpeg" else 0)


def test_the_centre_is_cropped_and_resized_without_aliasing(tmp_path):
    picture = flat(0, (64, 128))
    picture[:, 32:96] = 100  # the centre square, with lines one pixel wide
    picture[:, 32:96:2] = 200
    dataset = load(write(tmp_path, {"a.png": encoded(picture)}, False), image_size=16)
    assert (dataset[0]["image"][0, 2:-2, 2:-2].int() - 150).abs().max() <= 2
