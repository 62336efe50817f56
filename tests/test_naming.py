"""Naming: a recognized word is said where more speaks for it than the sentence loses."""

import json
import math
import sys

import pytest
import torch

from captioning import files
from captioning.captioner import SHIPPED, Captioner, load_captioner, name_things
from captioning.decoding import beams, greedy
from captioning.naming import Naming, Seen, Trust
from captioning.photo_captions import caption_photos, make_entry
from captioning.recognition import Word
from captioning.scoring.hallucination import says
from model import DecoderRNN, EncoderCNN
from vocabulary import Vocabulary

PHOTOS = files.ROOT / 'images' / 'photos'
LEARNED = ['<start>', '<end>', '<unk>', 'a', 'dog', 'dogs', 'is', 'on', 'the', 'grass', '.', 'man',
           'two', 'horse', 'chair', 'an', 'car']
WORDS = [Word('dog', 'dogs', 'count', 'a', (), 'animal'), Word('zebra', 'zebras', 'count', 'a'),
         Word('car', 'cars', 'count', 'a'),
         Word('person', 'people', 'count', 'a', ('man',), 'people')]
SURE = 0.999


class Recognizer:
    words, backbone_hash = WORDS, None


@pytest.fixture(scope='module')
def captioner():
    """An untrained one that ends its captions now and then."""
    torch.manual_seed(0)
    vocab = Vocabulary.from_words(LEARNED)
    encoder, decoder = EncoderCNN(24, 'resnet18', None), DecoderRNN(24, 24, len(vocab))
    decoder.linear.bias.data[1] = 1
    return Captioner(encoder, decoder, vocab, encoder.transform, 'cpu')


@pytest.fixture(scope='module')
def features():
    return torch.randn(6, 512, generator=torch.Generator().manual_seed(1))


def probabilities(**values):
    """The same for 6 images, (6, W); people are there unless told otherwise."""
    values = {'person': SURE, 'dog': 0.04, **values}
    return torch.tensor([[values.get(word.word, 0.0) for word in WORDS]] * 6)


def described(captioner, features, trust=None, beam_size=3, **values):
    naming = Naming(captioner, Recognizer(), trust)
    seen = Seen(features, probabilities(**values))
    return [best for best, *_ in naming.describe(seen, beam_size)]


# ---- What is said ----

@pytest.mark.parametrize('beam_size', [3, 5])
@pytest.mark.parametrize('word', ['zebra', 'car'])
def test_what_is_sure_is_said_if_trusted(captioner, features, beam_size, word):
    trusting = Trust(weight=10)
    forms = [f'{word}s', word]
    for best in described(captioner, features, trusting, beam_size, **{word: SURE}):
        assert says(best.text.rstrip('.').strip(), forms)
        assert [name.word for name in best.names] == [word]
        assert best.names[0].probability == pytest.approx(SURE)


def test_what_costs_more_than_speaks_for_it_is_not_said(captioner, features):
    for best in described(captioner, features, Trust(weight=0, bonus=-50), zebra=SURE, car=SURE):
        assert best.names == () and not says(best.text, ['zebra', 'zebras', 'car'])


def test_unlikely_words_are_not_even_considered(captioner, features):
    for best in described(captioner, features, Trust(bonus=50), zebra=0.04, car=0.06):
        assert [name.word for name in best.names] == ['car']


def test_only_the_likeliest_words_are_considered(captioner, features):
    for best in described(captioner, features, Trust(most=1, bonus=50), zebra=0.5, car=0.4):
        assert [name.word for name in best.names] == ['zebra']


@pytest.mark.parametrize(('word', 'forms', 'kind'), [
    ('dog', ['dog', 'dogs'], 'animal'), ('person', ['man'], 'people')])
def test_what_is_ruled_out_is_not_said_though_the_decoder_likes_it(captioner, features, word,
                                                                   forms, kind):
    ids = [captioner.vocab(form) for form in forms]
    captioner.decoder.linear.bias.data[ids] += 6
    try:
        least = Trust().ruled_out[kind]
        for best in described(captioner, features, **{word: least + 0.01}):
            assert says(best.text.rstrip('.').strip(), forms)
        for best in described(captioner, features, **{word: least - 0.01}):
            assert not says(best.text.rstrip('.').strip(), forms)
    finally:
        captioner.decoder.linear.bias.data[ids] -= 6


def test_people_are_never_asked_for(captioner):
    naming = Naming(captioner, Recognizer())
    assert naming.recognized(probabilities(person=SURE, dog=0)) == [[]] * 6


def test_evidence_grows_and_is_finite():
    values = [Trust().evidence(probability) for probability in (0, 0.05, 0.3, 0.9, 1)]
    assert values == sorted(values) and all(map(math.isfinite, values))


# ---- Descriptions ----

def test_descriptions_are_in_order_and_different(captioner, features):
    trust = Trust()
    naming = Naming(captioner, Recognizer(), trust)
    seen = Seen(features, probabilities(zebra=0.6, car=0.3))
    for descriptions in naming.describe(seen, beam_size=4, count=30):
        assert len({description.text for description in descriptions}) > 3

        def rank(description):
            words = len(description.caption.log_probs)
            score = sum(description.caption.log_probs) / words ** 0.7
            score += sum(trust.evidence(name.probability) for name in description.names)
            return description.caption.ids[-1] == 1, round(score, 4)

        ranks = [rank(description) for description in descriptions]
        assert ranks == sorted(ranks, reverse=True)
    assert [len(few) for few in naming.describe(seen, beam_size=2, count=2)] == [2] * 6


def test_batched_equals_one_by_one_and_rows_choose(captioner, features):
    naming = Naming(captioner, Recognizer())
    chances = torch.rand(6, len(WORDS), generator=torch.Generator().manual_seed(2))
    together = naming.describe(Seen(features, chances), beam_size=3)
    for image in range(6):
        (alone,), = naming.describe(Seen(features[[image]], chances[[image]]), beam_size=3)
        assert (alone.text, alone.names) == (together[image][0].text, together[image][0].names)
    chosen = naming.describe(Seen(features, chances), beam_size=3, rows=[4, 1])
    assert [best.text for best, in chosen] == [together[row][0].text for row in (4, 1)]


def test_the_captioner_stays_as_it_is(captioner, features):
    before = {key: value.clone() for key, value in captioner.decoder.state_dict().items()}
    naming = Naming(captioner, Recognizer())
    assert len(captioner.vocab) == len(LEARNED) < len(naming.vocab)
    assert naming.decoder.linear.out_features == len(naming.vocab)
    after = captioner.decoder.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    seen = Seen(features)
    expected = captioner.decode(features, beams, beam_size=3)
    assert [[one.caption for one in few] for few in captioner.describe(seen, 3, count=3)] == [
        captions[:3] for captions in expected]
    expected = captioner.decode(features, greedy)
    assert [one.caption for one, in captioner.describe(seen)] == expected


# ---- The captioner that ships, on the free photos ----

@pytest.fixture(scope='module')
def shipped():
    return load_captioner(device='cpu')


@pytest.mark.parametrize(('photo', 'words'), [
    ('cat', ['cat']), ('coffee', ['cup of coffee']), ('photographer', ['tripod', 'camera'])])
@pytest.mark.parametrize('beam_size', [1, 3, 5])
def test_the_free_photos(shipped, photo, words, beam_size):
    text, = shipped.caption([PHOTOS / f'{photo}.jpg'], beam_size=beam_size)
    assert says(text.rstrip('.'), words)


@pytest.fixture(scope='module')
def without():
    return load_captioner(device='cpu', names=False)


def test_names_can_be_had_without_and_for_others(shipped, without):
    assert shipped.naming is not None and without.naming is None
    assert 'cat' not in without.caption([PHOTOS / 'cat.jpg'])[0].split()
    plain = load_captioner(SHIPPED.with_name('flickr8k_plain.pt'), 'cpu', names=True)
    assert 'cat' in plain.caption([PHOTOS / 'cat.jpg'])[0].split()


def test_without_a_recognizer_it_says_why(captioner):
    with pytest.raises(ValueError, match='Nothing is recognized: the classifier that ships'):
        name_things(captioner)
    assert captioner.naming is None


def test_json_tells_what_was_recognized_and_said(shipped, without):
    (path, told, error), = caption_photos(shipped, [PHOTOS / 'cat.jpg'], num_captions=2)
    assert error is None and told['recognized']['cat'] > 0.9
    assert told['captions'][0]['names'] == ['cat'] and len(told['captions']) == 2
    entry = json.loads(json.dumps(make_entry(str(path), told, 'json')))
    assert set(entry) == {'image', 'captions', 'recognized'}
    (_, told, _), = caption_photos(without, [PHOTOS / 'cat.jpg'])
    assert set(told) == {'captions'} and set(told['captions'][0]) == {'caption', 'log_prob'}


def test_the_command_takes_it_off(monkeypatch, capsys):
    from scripts.sample import main
    for flags, said in (([], True), (['--no-names'], False)):
        monkeypatch.setattr(sys, 'argv', ['sample', '--image', str(PHOTOS / 'cat.jpg'), *flags])
        main()
        assert (' cat ' in capsys.readouterr().out) == said
