"""VAT: what is perturbed, by how much, and what it does for labels that are few."""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan import losses
from fastgan.architectures.vat import ConvClassifier, NormalizedEmbedding, TextClassifier
from fastgan.data.batch import Batch
from fastgan.data.text import encode_captions

from .walk import batches_of, update, walk


def vat(**options) -> fastgan.Architecture:
    torch.manual_seed(0)
    return fastgan.create("vat", **{"image_size": 4, "channels": 1, "network": "mlp", "hidden": (16,), **options})


def test_training_makes_the_answer_smooth_around_unlabelled_samples():
    torch.manual_seed(3)
    image, label = torch.rand(64, 1, 4, 4) * 2 - 1, torch.where(torch.arange(64) < 8, torch.arange(64) % 2, -1)
    batch, moved = Batch(image=image, label=label), {}
    for regularizer in ("none", "virtual_adversarial"):
        model = vat(num_classes=2, regularizer=regularizer, epsilon=0.5)
        walk(model, batches_of(batch), 150)
        model.eval()
        assert (model.predict(batch).argmax(1) == label)[:8].all()
        moved[regularizer] = losses.virtual_adversarial_loss(model.classifier, image[8:], 1.0).item()
    assert moved["virtual_adversarial"] < 0.3 * moved["none"], moved


@pytest.mark.parametrize(
    ("options", "length"),
    [({}, 4.2), ({"regularizer": "adversarial"}, 0.5), ({"epsilon": 1.0}, 2.0), ({"input": "text"}, 5.0),
     ({"input": "text", "regularizer": "adversarial", "epsilon": 3.0}, 3.0)],
)  # fmt: skip
def test_the_length_of_perturbations(options, length):
    assert vat(**options).epsilon == length


@pytest.mark.parametrize("regularizer", ["virtual_adversarial", "adversarial", "none"])
@pytest.mark.parametrize("source", ["image", "text"])
def test_terms(source, regularizer):
    model = vat(input=source, regularizer=regularizer, entropy_weight=1.0, width=4, embedding=3, num_classes=3)
    text = encode_captions(["a red cube", "a ball", "two cones", "a gem"])
    batch = Batch(image=torch.rand(4, 1, 4, 4) * 2 - 1, text=text, label=torch.tensor([0, 2, -1, -1]))
    assert model.needs == (source, "label") and model.conditions == (source,)
    (phase,) = model.phases()
    terms = update(phase, phase.optimizer(phase.parameters), batch, 0)
    assert set(terms) == {"supervised", "entropy", regularizer} - {"none"}
    assert all(term > 0 for term in terms.values())
    assert model.eval().predict(batch).shape == (4, 3)


def test_perturbations_do_not_count_in_the_running_statistics():
    states = []
    for regularizer in ("none", "virtual_adversarial", "adversarial"):
        model = vat(regularizer=regularizer)
        torch.manual_seed(1)
        model.loss(Batch(image=torch.rand(8, 1, 4, 4), label=torch.zeros(8, dtype=torch.int64)), 0)
        states.append(model.classifier.layers[2].state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


def test_schedule():
    model = vat(lr=1.0)
    assert [model.schedule(step)["lr"] for step in (0, 499, 500, 1000)] == pytest.approx([1.0, 1.0, 0.9, 0.81])


def test_embeddings_are_normal_over_the_tokens_seen():
    torch.manual_seed(0)
    embed, tokens = NormalizedEmbedding(9, 4), torch.tensor([[3, 3, 3, 5, 0], [7, 5, 0, 0, 0]])
    embedded = embed(tokens)
    assert embedded.shape == (2, 4, 5) and embed.counts.tolist() == [0, 0, 0, 3, 0, 2, 0, 1, 0]
    words = embedded.transpose(1, 2)[tokens > 0]
    assert torch.allclose(words.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(words.var(0, correction=0), torch.ones(4), atol=1e-4)
    assert not embedded.transpose(1, 2)[tokens == 0].any()
    embed.eval()(tokens)
    assert embed.counts.sum() == 6, "counted in training alone"


def test_networks_alone():
    assert ConvClassifier(3, 2, 5)(torch.randn(2, 3, 12, 12)).shape == (2, 5)
    assert TextClassifier(4, 8, 5, 3)(torch.randn(2, 4, 30)).shape == (2, 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="image_size takes at least 12 for network='conv', got 8"):
        fastgan.create("vat", image_size=8)
    with pytest.raises(ValueError, match=r"batch.text takes tokens \(N, T\) int64, got \(2, 5\) torch.float32"):
        vat(input="text").predict(Batch(text=torch.zeros(2, 5)))
    with pytest.raises(NotImplementedError, match="VAT does not generate images"):
        vat().generate(Batch())
