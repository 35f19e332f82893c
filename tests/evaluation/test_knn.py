import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from vitlab.evaluation.knn import choose_k, nearest, predict, vote

torch.manual_seed(0)
BANK, QUERIES = torch.rand(300, 20), torch.rand(70, 20)
LABELS = (BANK[:, 0] * 4).long()


def test_neighbors_are_those_of_scikit_learn_whatever_the_chunk() -> None:
    expected = NearestNeighbors(n_neighbors=5).fit(BANK).kneighbors(QUERIES, return_distance=False)
    for chunk in (1, 32, 1000):
        assert nearest(QUERIES, BANK, 5, chunk).tolist() == expected.tolist()


def test_one_neighbor_classifies_as_scikit_learn() -> None:
    expected = KNeighborsClassifier(1).fit(BANK, LABELS).predict(QUERIES)
    assert predict(QUERIES, BANK, LABELS, 1, 4).tolist() == expected.tolist()


def test_a_majority_wins_and_of_equals_the_nearest() -> None:
    neighbors = torch.tensor([[0, 1, 1, 2], [2, 1, 1, 2], [3, 2, 1, 0], [0, 1, 1, 1]])
    # by hand: 1 twice; 2 and 1 twice each but 2 is nearest; all once, 3 nearest; 1 three times although 0 is nearest
    assert vote(neighbors, 4).tolist() == [1, 2, 3, 1]


def test_k_is_the_best_on_the_images_it_is_chosen_on() -> None:
    # Class by sign, but each label is wrong with probability .3: one neighbor copies the noise, many average it out.
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(2000, 2, generator=generator)
    labels = (bank[:, 0] > 0).long() ^ (torch.rand(2000, generator=generator) < 0.3).long()
    queries = torch.randn(500, 2, generator=generator)
    assert choose_k(queries, (queries[:, 0] > 0).long(), bank, labels, (1, 25), 2) == 25


def test_a_small_bank_leaves_out_larger_k() -> None:
    assert choose_k(QUERIES[:10], torch.zeros(10).long(), BANK[:3], LABELS[:3], (1, 3, 5), 4) in (1, 3)
