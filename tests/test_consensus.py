"""What people would say of an image, foretold: the CIDEr that is expected, and what it chooses."""

import json

import pytest
import torch

from captioning import consensus
from captioning.consensus import Consensus, k_means
from captioning.scoring import References, score

ANIMALS, ACTS = ('dog', 'cat', 'horse'), ('runs', 'sleeps', 'jumps', 'swims')
PLACES = ('grass', 'sand', 'snow')


@pytest.fixture
def scenes(monkeypatch):
    """36 images whose features tell what is in them -> (features, two captions of each)."""
    monkeypatch.setattr(consensus, 'LEAST_IMAGES', 1)
    features, captions = [], []
    for animal, act, place in ((a, b, c) for a in ANIMALS for b in ACTS for c in PLACES):
        features.append([float(word in (animal, act, place)) for word in ANIMALS + ACTS + PLACES])
        captions.append([f'the {animal} {act} on {place}'.split(),
                         f'a {animal} {act} in {place}'.split()])
    return torch.tensor(features), captions


def true_cider(captions, candidates, tmp_path):
    """CIDEr of a caption for each image, by the reference code."""
    file = tmp_path / 'captions.json'
    file.write_text(json.dumps({
        'images': [{'id': row, 'file_name': f'{row}.jpg'} for row in range(len(captions))],
        'annotations': [{'id': 2 * row + number, 'image_id': row, 'caption': ' '.join(words)}
                        for row, both in enumerate(captions) for number, words in enumerate(both)],
    }), 'utf-8')
    results = [{'image_id': row, 'caption': ' '.join(words)}
               for row, words in enumerate(candidates)]
    values = score(results, References(file, cache_dir=None))['cider_per_image']
    return [values[row] for row in range(len(captions))]


def test_of_images_that_are_known_it_expects_the_true_cider(scenes, tmp_path):
    features, captions = scenes
    known = Consensus(features, captions, centres=36, decay=1e-6)
    candidates = [captions[(row + 5) % 36][0] for row in range(36)]
    candidates[:12] = [both[0] for both in captions[:12]]
    expected = known.expected_cider(features, [[words] for words in candidates])
    assert [float(value) for value, in expected] == pytest.approx(
        true_cider(captions, candidates, tmp_path), abs=1e-3)


def test_an_image_that_is_not_known_is_told_by_like_ones(scenes):
    features, captions = scenes
    known = Consensus(features[1:], captions[1:], centres=20)
    candidates = [[words for both in captions for words in both]]
    expected, = known.expected_cider(features[:1], candidates)
    best = candidates[0][int(expected.argmax())]
    assert {'dog', 'runs', 'grass'} <= set(best)
    silent, strange = known.expected_cider(features[:1], [[[], ['zebra']]])[0]
    assert silent == 0 and strange == 0


def test_the_weight_decides_between_the_likely_and_the_expected(scenes):
    features, captions = scenes
    known = Consensus(features, captions, centres=36)
    candidates = [[captions[35][0], captions[0][0]]]
    log_probs = [[[-0.1] * 6, [-0.2] * 6]]    # and the end word
    choices = [known.chosen(features[:1], candidates, log_probs, weight) for weight in (0, 4)]
    assert choices == [[0], [1]]


def test_k_means_finds_groups_and_is_always_the_same():
    points = torch.tensor([[0.0], [0.2], [10.0], [10.2], [20.0], [20.4]])
    generator = torch.Generator().manual_seed(1)
    inputs = points + 0.01 * torch.randn(6, 1, generator=generator)
    assert torch.equal(k_means(inputs, 3), k_means(inputs, 3))
    assert k_means(inputs, 6).sort(dim=0).values.flatten().tolist() == pytest.approx(
        inputs.sort(dim=0).values.flatten().tolist())
    assert len(k_means(inputs, 2)) == 2
