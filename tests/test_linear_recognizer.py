"""A recognizer trained in seconds, several as one, and the one for people that ships."""

import pytest
import torch

from captioning.recognition import LinearRecognizer, Recognizers, Word, trained_recognizer
from captioning.recognition.people import people_words, share_with_people
from captioning.recognition.recognizer import BACKBONE_HASH, PEOPLE
from experiments.people import area_under_curve

WORDS = [Word('cat', 'cats', 'count', 'a', ('kitten',), 'animal'), Word('sky', '', 'mass')]


@pytest.fixture(scope='module')
def examples():
    random = torch.Generator().manual_seed(0)
    features = torch.rand(300, 12, generator=random)
    labels = torch.stack([features[:, 3] > 0.5, features[:, 5] + features[:, 6] > 1], dim=1)
    return features, labels


def test_it_learns(examples):
    features, labels = examples
    recognizer = trained_recognizer(features[:200], labels[:200], WORDS, 'hash', decay=1e-3)
    probabilities = recognizer.probabilities(features[200:])
    assert ((probabilities > 0.5) == labels[200:]).float().mean() > 0.9
    weaker = trained_recognizer(features[:200], labels[:200], WORDS, 'hash', decay=10)
    assert weaker.probabilities(features).std() < 0.5 * probabilities.std()


def test_it_is_kept_in_a_file(examples, tmp_path):
    features, labels = examples
    recognizer = trained_recognizer(features, labels, WORDS, 'hash')
    recognizer.save(tmp_path / 'it.pt')
    again = LinearRecognizer.load(tmp_path / 'it.pt')
    assert (again.words, again.backbone_hash) == (WORDS, 'hash')
    assert torch.allclose(again.probabilities(features), recognizer.probabilities(features),
                          atol=1e-2)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.pt not found'):
        LinearRecognizer.load(tmp_path / 'none.pt')
    (tmp_path / 'odd.pt').write_bytes(b'odd')
    with pytest.raises(ValueError, match='odd.pt holds no recognizer'):
        LinearRecognizer.load(tmp_path / 'odd.pt')
    torch.save({'fc.weight': torch.zeros(3)}, tmp_path / 'foreign.pt')
    with pytest.raises(ValueError, match="foreign.pt holds no recognizer .*'words'"):
        LinearRecognizer.load(tmp_path / 'foreign.pt')
    whole = PEOPLE.read_bytes()
    (tmp_path / 'cut.pt').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match='cut.pt holds no recognizer'):
        LinearRecognizer.load(tmp_path / 'cut.pt')


def test_it_reads_the_roots_of_features():
    recognizer = LinearRecognizer(torch.tensor([[1.0, -2.0]]), torch.tensor([0.5]), WORDS[:1], '')
    features = torch.tensor([[4.0, 0.25], [9.0, -5.0]])    # a negative one counts as none
    expected = torch.tensor([[2 - 1 + 0.5], [3 + 0.5]]).sigmoid()
    assert torch.allclose(recognizer.probabilities(features), expected)


def test_several_are_one(examples):
    features, labels = examples
    one, two = (trained_recognizer(features, labels[:, [column]], [WORDS[column]], 'hash')
                for column in (0, 1))
    both = Recognizers(one, two)
    assert both.words == WORDS
    expected = torch.cat([one.probabilities(features), two.probabilities(features)], dim=1)
    assert torch.equal(both.probabilities(features), expected)
    two.backbone_hash = 'other'
    with pytest.raises(ValueError, match='different encoders'):
        Recognizers(one, two)


def test_words_for_people():
    words = ['man', 'dog', 'women', 'tiger', 'red', 'crowd', 'skier', 'stroller', 'chair']
    assert people_words(words) == ['man', 'women', 'crowd', 'skier']
    captions = [['a', 'man', 'runs'], ['a', 'dog'], ['two', 'women'], ['a', 'chair']]
    assert share_with_people(captions, ['man', 'women']) == 0.5


def test_the_area_under_the_curve_counts_pairs():
    shares = torch.tensor([0, 0, 1, 0.6, 0.4])
    assert area_under_curve(torch.tensor([0.1, 0.5, 0.9, 0.5, 0]), shares) == pytest.approx(3.5 / 4)


def test_the_one_that_ships():
    recognizer = LinearRecognizer.load(PEOPLE)
    word, = recognizer.words
    assert recognizer.backbone_hash == BACKBONE_HASH
    assert (word.word, word.kind) == ('person', 'people')
    assert {'man', 'woman', 'children', 'boys'} <= set(word.forms) and len(word.forms) > 100
    assert recognizer.weight.shape == (1, 2048) and PEOPLE.stat().st_size < 20_000
