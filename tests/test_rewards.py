"""Rewards: equal to the reference's CIDEr-D, with the end word counted."""

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer

from scripts.batches import Captions
from scripts.rewards import CiderReward


def make_captions(texts, images=None):
    """Captions of lists of ids, one list of captions for each image."""
    flat = [ids for own in texts for ids in own]
    lengths = np.array([len(ids) for ids in flat])
    table = torch.ones(len(flat), lengths.max(), dtype=torch.int32)
    for row, ids in enumerate(flat):
        table[row, :len(ids)] = torch.tensor(ids)
    rows = [row for row, own in enumerate(texts) for _ in own]
    return Captions(torch.zeros(len(texts), 1), rows, table, lengths, np.ones(len(texts), bool))


def reference(sampled, texts):
    scorer = CiderScorer()
    for ids, own in zip(sampled, texts, strict=True):
        scorer += ' '.join(map(str, ids[1:])), [' '.join(map(str, other[1:])) for other in own]
    return scorer.compute_score()[1]


@pytest.mark.parametrize('seed', range(3))
def test_it_equals_the_reference_scorer(seed):
    """Few words, so that sequences repeat within a caption and between images; one to five captions an image."""
    random = np.random.default_rng(seed)

    def caption(words):
        return [0, *random.integers(3, words, random.integers(0, 10)).tolist()]

    texts = [[[*caption(9), 1] for _ in range(random.integers(1, 6))] for _ in range(60)]
    sampled = [[*caption(11), *[1] * random.integers(2)] for _ in texts]
    sampled[0], sampled[1], sampled[2] = texts[0][0], [0, 1], [0, 3]
    rewards = CiderReward(make_captions(texts))(sampled, np.arange(60))
    assert rewards.numpy() == pytest.approx(reference(sampled, texts), abs=1e-5)
    assert rewards[0] > 1 and rewards[1] == 0


def test_few_captions_of_many_images():
    texts = [[[0, 3, 4, 5, 1]], [], [], [[0, 3, 6, 1]], [], [], [[0, 7, 4, 1]]]
    captions, sampled = make_captions(texts), [[0, 3, 4, 1], [0, 3, 6, 7, 1], [0, 7, 4, 1]]
    rewards = CiderReward(captions)(sampled, np.array([0, 3, 6]))
    assert rewards.numpy() == pytest.approx(reference(sampled, [own for own in texts if own]), abs=1e-5)


def test_rewards_do_not_depend_on_the_others_of_the_batch():
    texts = [[[0, 3, 4, 5, 1], [0, 3, 4, 1]], [[0, 6, 7, 1]], [[0, 3, 7, 8, 9, 1]]]
    reward, sampled = CiderReward(make_captions(texts)), [[0, 3, 4, 1], [0, 3, 7, 7, 7, 7, 7, 1], [0, 1], [0]]
    rows = np.array([0, 2, 1, 1])
    alone = torch.cat([reward([ids], rows[i:i + 1]) for i, ids in enumerate(sampled)])
    assert torch.allclose(reward(sampled, rows), alone) and torch.isfinite(alone).all()


def test_a_caption_that_breaks_off_earns_less_than_one_that_ends():
    texts = [[[0, 3, 4, 5, 6, 1], [0, 3, 4, 5, 1]], [[0, 7, 8, 1]]]
    whole, cut, trailing = CiderReward(make_captions(texts))(
        [[0, 3, 4, 5, 6, 1], [0, 3, 4, 5, 6], [0, 3, 4, 5, 6, 3, 1]], np.array([0, 0, 0]))
    assert whole > cut and whole > trailing
