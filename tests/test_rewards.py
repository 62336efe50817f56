"""Rewards: CIDEr-D equal to the reference's, with the end word counted."""

import numpy as np
import pytest
import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer
from training_helpers import drawn_captions

from captioning.captions import Captions
from captioning.cider import CiderD
from captioning.rewards import REWARDS, reference_captions


def rewards_of(reward, sampled, rows):
    """Rewards of S lists of ids."""
    return reward(drawn_captions(sampled), rows)


def make_captions(texts):
    """Captions of lists of ids, one list of captions for each image."""
    flat = [ids for captions in texts for ids in captions]
    lengths = np.array([len(ids) for ids in flat])
    table = torch.ones(len(flat), lengths.max(), dtype=torch.int32)
    for row, ids in enumerate(flat):
        table[row, :len(ids)] = torch.tensor(ids)
    rows = [row for row, captions in enumerate(texts) for _ in captions]
    return Captions(torch.zeros(len(texts), 1), rows, table, lengths, np.ones(len(texts), bool))


def without_start(ids):
    return ' '.join(map(str, ids[1:]))


def reference_scores(sampled, texts):
    scorer = CiderScorer()
    for ids, references in zip(sampled, texts, strict=True):
        scorer += without_start(ids), [without_start(reference) for reference in references]
    return scorer.compute_score()[1]


@pytest.mark.parametrize('seed', range(3))
def test_cider_equals_the_reference_scorer(seed):
    """Few words, so that n-grams repeat within a caption and between images."""
    random = np.random.default_rng(seed)

    def caption(words):
        return [0, *random.integers(3, words, random.integers(0, 10)).tolist()]

    texts = [[[*caption(9), 1] for _ in range(random.integers(1, 6))] for _ in range(60)]
    sampled = [[*caption(11), *[1] * random.integers(2)] for _ in texts]
    sampled[0], sampled[1], sampled[2] = texts[0][0], [0, 1], [0, 3]
    rewards = rewards_of(CiderD(make_captions(texts)), sampled, np.arange(60))
    assert rewards.numpy() == pytest.approx(reference_scores(sampled, texts), abs=1e-5)
    assert rewards[0] > 1 and rewards[1] == 0


def test_few_captions_of_many_images():
    texts = [[[0, 3, 4, 5, 1]], [], [], [[0, 3, 6, 1]], [], [], [[0, 7, 4, 1]]]
    sampled = [[0, 3, 4, 1], [0, 3, 6, 7, 1], [0, 7, 4, 1]]
    rewards = rewards_of(CiderD(make_captions(texts)), sampled, np.array([0, 3, 6]))
    expected = reference_scores(sampled, [captions for captions in texts if captions])
    assert rewards.numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('reward', REWARDS)
def test_rewards_do_not_depend_on_the_others_of_the_batch(reward):
    texts = [[[0, 3, 4, 5, 1], [0, 3, 4, 1]], [[0, 6, 7, 1]], [[0, 3, 7, 8, 9, 1]]]
    reward, rows = REWARDS[reward](make_captions(texts)), np.array([0, 2, 1, 1])
    sampled = [[0, 3, 4, 1], [0, 3, 7, 7, 7, 7, 7, 1], [0, 1], [0]]
    alone = [rewards_of(reward, [ids], rows[i:i + 1]) for i, ids in enumerate(sampled)]
    together = rewards_of(reward, sampled, rows)
    assert together.shape == (4,) and together.dtype == torch.float32
    assert torch.allclose(together, torch.cat(alone)) and torch.isfinite(together).all()


def test_a_caption_that_breaks_off_earns_less_than_one_that_ends():
    texts = [[[0, 3, 4, 5, 6, 1], [0, 3, 4, 5, 1]], [[0, 7, 8, 1]]]
    sampled = [[0, 3, 4, 5, 6, 1], [0, 3, 4, 5, 6], [0, 3, 4, 5, 6, 3, 1]]
    cider, rows = CiderD(make_captions(texts)), np.array([0, 0, 0])
    complete, broken_off, trailing = rewards_of(cider, sampled, rows)
    assert complete > broken_off and complete > trailing


def test_references_are_the_captions_of_the_image():
    texts = [[[0, 3, 4, 5, 1], [0, 6, 1]], [[0, 7, 1]], [[0, 8, 9, 1]]]
    captions = make_captions(texts)
    assert [reference_captions(captions, row) for row in range(3)] == texts
