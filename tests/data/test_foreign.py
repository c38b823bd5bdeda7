"""Data sets of other libraries, by stand-ins that behave like them."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import fastgan
from fastgan.data import ImageDataset, load
from fastgan.training.batches import BatchStream


class Vision:
    """As torchvision's: (image, label), ``classes``, ``transform`` and ``transforms``."""

    def __init__(self, transform=None, mode="RGB", classes=("cat", "dog", "owl")) -> None:
        self.transform, self.transforms, self.classes, self.mode = transform, transform, list(classes), mode
        self.reads = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i):
        self.reads.append(i)
        image = Image.new(self.mode, (20, 14), (i, 2 * i, 3 * i) if self.mode == "RGB" else i)
        return (self.transform(image) if self.transform else image), i % 3


class ClassLabel:
    names = ["cat", "dog", "owl"]


class Columns:
    """As Hugging Face's Dataset: a dict by column, ``features``, ``format``; columns of other kinds too."""

    def __init__(self, columns=("img", "fine", "text", "id"), format_type=None) -> None:
        self.column_names = list(columns)
        self.features = {name: ClassLabel() if name == "fine" else object() for name in columns}
        self.format = {"type": format_type}

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i):
        picture = Image.new("L", (9, 9), i)
        values = {
            "img": picture,
            "source": Image.new("RGB", (5, 5)),
            "fine": i % 3,
            "text": f"number {i}",
            "id": f"x{i}",
        }
        return {name: values.get(name, i) for name in self.column_names}


def test_torchvision_s_images_come_at_one_size_and_are_decoded_once():
    data = Vision()
    dataset = load(data, image_size=8)
    assert isinstance(dataset, ImageDataset) and dataset.classes == ("cat", "dog", "owl") and dataset.channels == 3
    data.reads.clear()
    for _ in range(2):
        batch = dataset.batch([5, 1])
        assert batch["image"].shape == (2, 3, 8, 8) and batch["image"].dtype == torch.uint8
        assert batch["image"][:, :, 4, 4].tolist() == [[5, 10, 15], [1, 2, 3]] and batch["label"].tolist() == [2, 1]
    assert sorted(data.reads) == [1, 5]
    assert pickle.loads(pickle.dumps(dataset)).batch([5])["label"].tolist() == [2]


def test_a_transform_is_called_every_time():
    turned = []
    dataset = load(Vision(transform=lambda image: (turned.append(0), image.rotate(90))[1]), image_size=8)
    turned.clear()
    for _ in range(2):
        assert dataset[3]["image"].shape == (3, 8, 8)
    assert len(turned) == 2


def test_tensors_come_as_they_are():
    data = Vision(transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1)
    assert load(data, image_size=8) is data


def test_who_gives_batches_is_not_asked_for_items():
    class Batches:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i):
            raise AssertionError("batch() was to be used")

        def batch(self, indices):
            return {}

    data = Batches()
    assert load(data, image_size=8) is data


def test_hugging_face_s_columns_are_found():
    dataset = load(Columns(), image_size=8)
    batch = dataset.batch([4, 3])
    assert dataset.channels == 1 and dataset.classes == ("cat", "dog", "owl")
    assert set(batch) == {"image", "label", "text", "index"}
    assert batch["image"][:, 0, 0, 0].tolist() == [4, 3] and batch["label"].tolist() == [1, 0]
    assert bytes(batch["text"][0].tolist()).rstrip(b"\0") == b"number 4"
    pairs = load(Columns(("source", "img")), image_size=8, channels=3)
    assert pairs[0]["source"].shape == pairs[0]["image"].shape == (3, 8, 8)


def test_hugging_face_s_transforms_are_called_every_time():
    dataset = load(Columns(format_type="custom"), image_size=8)
    assert not isinstance(dataset, ImageDataset) and dataset[2]["label"] == 2


def test_faults_of_foreign_data_are_one_sentence():
    with pytest.raises(TypeError, match=r"data holds the splits train, test: pass one, data\['train'\]"):
        load({"train": Columns(), "test": Columns()}, image_size=8)
    with pytest.raises(ValueError, match=r"data Columns has no column of pictures: it has id, text"):
        load(Columns(("id", "text")), image_size=8)

    class Broken(Vision):
        def __getitem__(self, i):
            if i == 5:
                raise OSError("truncated")
            return super().__getitem__(i)

    with pytest.raises(ValueError, match="item 5 of data 'Broken' cannot be read: truncated"):
        load(Broken(), image_size=8).batch([4, 5])


@pytest.mark.parametrize("data", [Vision(), Columns(), [Image.new("L", (9, 9), i) for i in range(12)]])
def test_the_trainer_takes_them_as_they_are(data):
    gan = fastgan.create("dcgan", image_size=16, channels=1, ngf=4, ndf=4)
    trainer = fastgan.Trainer(gan, data, steps=1, batch_size=4, progress=False)
    trainer.fit()
    batch = trainer.batches.next()
    assert batch.image.shape == (4, 1, 16, 16) and batch.image.dtype == torch.float32
    assert (batch.label is None) == isinstance(data, list)


def test_random_transforms_do_not_depend_on_workers():
    def noisy(image):
        return Image.fromarray(np.random.randint(0, 256, (8, 8, 3), np.uint8))

    streams = [BatchStream(load(Vision(transform=noisy), image_size=8), 4, seed=1, num_workers=n) for n in (0, 2)]
    drawn = [torch.stack([stream.next().image for _ in range(4)]) for stream in streams]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0][0], drawn[0][3])
    for stream in streams:
        stream.close()
