"""Precision, recall, density and coverage on points placed by hand, and the papers' own examples."""

import pytest
import torch

from fastgan.metrics import density_coverage, manifold, nearest_distances, precision_recall

LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # balls to the nearest: 1, 1, 2, 4


def gaussian(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_nearest_distances_by_hand():
    assert nearest_distances(LINE, 1).sqrt().tolist() == [1, 1, 2, 4]
    assert nearest_distances(LINE, 2).sqrt().tolist() == [3, 2, 3, 6]
    copies = torch.tensor([[5.0], [5.0], [5.0], [9.0]])
    assert nearest_distances(copies, 1).sqrt().tolist() == [0, 0, 0, 4]  # a copy is a neighbour, the point itself not


def test_precision_and_recall_by_hand():
    # real balls: [-1, 1], [0, 2], [1, 5], [3, 11]; fake balls at 4, 12, 13 to the nearest: [-4, 12], [11, 13], [12, 14]
    fake = torch.tensor([[4.0], [12.0], [13.0]])
    assert precision_recall(LINE, fake, k=1) == (pytest.approx(1 / 3), 1.0)
    # the other way round the two change places
    assert precision_recall(fake, LINE, k=1) == (1.0, pytest.approx(1 / 3))


def test_a_point_on_the_edge_is_inside():
    # 11 is the edge of 7's ball; 2 and -1 those of 1's and 0's
    assert precision_recall(LINE, torch.tensor([[11.0], [11.5], [2.0], [-1.0]]), k=1)[0] == 3 / 4


def test_density_and_coverage_by_hand():
    fake = torch.tensor([[0.5], [1.5], [4.0], [20.0]])
    # balls that hold them: 0.5 in [-1, 1] and [0, 2]; 1.5 in [0, 2] and [1, 5]; 4 in [1, 5] and [3, 11]; 20 in none
    density, coverage = density_coverage(LINE, fake, k=1)
    assert density == 6 / 4 and coverage == 1.0
    assert density_coverage(LINE, torch.full((3, 1), 0.5), k=1) == (2.0, 0.5)  # dense, but half is missed


def test_equal_distributions_and_missing_modes():
    real, fake = gaussian(400, 4, 0), gaussian(400, 4, 1)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.7 and abs(precision - recall) < 0.1
    density, coverage = density_coverage(real, fake)
    assert density == pytest.approx(1, abs=0.15)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.03)  # Naeem et al., lemma 2: 1 - 2^-k for large equal sets
    half = fake[fake[:, 0] > 0]  # one of two modes
    narrow_precision, narrow_recall = precision_recall(real, half)
    assert narrow_precision > 0.7 and narrow_recall < 0.8 * recall
    assert density_coverage(real, half)[1] < 0.7 * coverage


def test_an_outlier_lifts_recall_but_not_density(monkeypatch):
    # why Naeem et al. count: one far real point's ball takes in everything
    real, fake = gaussian(100, 2, 0), gaussian(100, 2, 1) + 20
    assert precision_recall(real, fake)[0] == 0
    real[0] = 25.0
    assert precision_recall(real, fake)[0] > 0.9
    assert density_coverage(real, fake)[0] < 0.3


def test_rows_at_a_time_change_nothing(monkeypatch):
    real, fake = gaussian(70, 3, 0), gaussian(50, 3, 1) + 0.5
    whole = precision_recall(real, fake), density_coverage(real, fake)
    monkeypatch.setattr(manifold, "ROWS", 16)
    assert (precision_recall(real, fake), density_coverage(real, fake)) == whole


def test_too_few_images():
    with pytest.raises(ValueError, match="the 3-th nearest neighbour takes more than 3 images a side, got 3"):
        precision_recall(LINE, LINE[:3])
    with pytest.raises(ValueError, match="at least one generated image"):
        density_coverage(gaussian(9, 2, 0), torch.zeros(0, 2))
