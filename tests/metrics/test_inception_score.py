"""Inception Score: the two ends of its range, and a case by hand."""

import math

import pytest
import torch

from fastgan.metrics import inception_score


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_certain_and_even_is_the_number_of_classes(classes):
    logits = 1e4 * torch.eye(classes)
    assert inception_score(logits, splits=1) == (pytest.approx(classes), 0)
    # shuffled parts that each see every class twice
    score, deviation = inception_score(logits.repeat(8, 1), splits=4)
    assert score == pytest.approx(classes) and deviation == pytest.approx(0, abs=1e-9)


def test_all_alike_is_one():
    assert inception_score(torch.zeros(50, 10))[0] == pytest.approx(1)
    assert inception_score(torch.tensor([[9.0, 0, 0]]).repeat(50, 1))[0] == pytest.approx(1)  # certain, but always so


def test_by_hand():
    p = [[0.9, 0.1], [0.2, 0.8]]
    marginal = [0.55, 0.45]
    kl = [sum(a * math.log(a / m) for a, m in zip(row, marginal, strict=True)) for row in p]
    assert inception_score(torch.tensor(p).log(), splits=1)[0] == pytest.approx(math.exp(sum(kl) / 2), rel=1e-6)


def test_splits_are_scored_alone():
    # each half sees one class only: 1 each, though the whole would score 2
    score, deviation = inception_score(1e4 * torch.eye(2).repeat_interleave(5, 0), splits=2)
    assert (score, deviation) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert inception_score(torch.tensor([[1e4, 0], [0, 1e4], [1e4, 0], [1e4, 0]]), splits=2) == (1.5, 0.5)


def test_too_few_samples():
    with pytest.raises(ValueError, match=r"10 splits takes logits \(N >= 10, classes\), got \(9, 5\)"):
        inception_score(torch.zeros(9, 5))
