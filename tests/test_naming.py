"""Naming: a recognized word is said where more speaks for it than the sentence loses."""

import copy
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch

from captioning import files
from captioning.caption_data import find_data
from captioning.captioner import SHIPPED, Captioner, load_captioner, name_things
from captioning.checkpoint import model_state, save_checkpoint, weights_hash
from captioning.decoding import beams, greedy
from captioning.naming import Naming, Seen, Trust
from captioning.photo_captions import caption_photos, make_entry
from captioning.recognition import LinearRecognizer, Word
from captioning.scoring.hallucination import says
from captioning.scoring.split_captions import seen_split
from model import DecoderRNN, EncoderCNN
from vocabulary import Vocabulary

PHOTOS = files.ROOT / 'images' / 'photos'
LEARNED = ['<start>', '<end>', '<unk>', 'a', 'dog', 'dogs', 'is', 'on', 'the', 'grass', '.', 'man',
           'two', 'horse', 'chair', 'an', 'car']
WORDS = [Word('dog', 'dogs', 'count', 'a', (), 'animal'), Word('zebra', 'zebras', 'count', 'a'),
         Word('car', 'cars', 'count', 'a'),
         Word('person', 'people', 'count', 'a', ('man',), 'people')]
SURE = 0.999
TRUSTING = Trust(bonus=50, highest=100)


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
    forms = [f'{word}s', word]
    for best in described(captioner, features, TRUSTING, beam_size, **{word: SURE}):
        assert says(best.text.rstrip('.').strip(), forms)
        assert [name.word for name in best.names] == [word]
        assert best.names[0].probability == pytest.approx(SURE)


def test_what_costs_more_than_speaks_for_it_is_not_said(captioner, features):
    for best in described(captioner, features, Trust(weight=0, bonus=-50), zebra=SURE, car=SURE):
        assert best.names == () and not says(best.text, ['zebra', 'zebras', 'car'])


def test_unlikely_words_are_not_even_considered(captioner, features):
    for best in described(captioner, features, TRUSTING, zebra=0.04, car=0.06):
        assert [name.word for name in best.names] == ['car']


def test_only_the_likeliest_words_are_considered(captioner, features):
    for best in described(captioner, features, TRUSTING._replace(most=1), zebra=0.5, car=0.4):
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


def test_how_much_the_decoder_likes_the_unknown_word_does_not_matter(captioner, features):
    before = described(captioner, features, zebra=0.5, car=0.4)
    captioner.decoder.linear.bias.data[captioner.vocab.unk_id] += 6
    try:
        after = described(captioner, features, zebra=0.5, car=0.4)
    finally:
        captioner.decoder.linear.bias.data[captioner.vocab.unk_id] -= 6
    assert [best.text for best in after] == [best.text for best in before]
    for one, other in zip(after, before, strict=True):
        assert one.caption.log_probs == pytest.approx(other.caption.log_probs, abs=1e-4)


def test_a_word_that_is_like_no_known_one_is_not_said(captioner, features):
    class Odd(Recognizer):
        words = [Word('zyzzyva', 'zyzzyvas', 'count', 'a'), Word('car', 'cars', 'count', 'a')]

    naming = Naming(captioner, Odd(), TRUSTING)
    assert 'zyzzyva' not in naming.vocab.word2idx
    for best, in naming.describe(Seen(features, torch.full((6, 2), 0.9)), beam_size=3):
        assert [name.word for name in best.names] == ['car']


@pytest.mark.parametrize('beam_size', [1, 3])
def test_the_grammar_holds_in_every_caption(captioner, features, beam_size):
    naming = Naming(captioner, Recognizer(), TRUSTING)
    never, seen = naming.not_after, Seen(features, probabilities(zebra=SURE, car=SURE, dog=SURE))
    for descriptions in naming.describe(seen, beam_size, count=50):
        for description in descriptions:
            for first, second in itertools.pairwise(description.caption.ids):
                assert second not in never.get(first, never[None]), description.text


def test_new_words_are_said_only_where_they_are_recognized(captioner, features):
    captioner = copy.deepcopy(captioner)
    captioner.decoder.linear.bias.data[captioner.vocab('horse')] += 8    # a zebra is like one
    for beam_size in (1, 3):
        captions = described(captioner, features, TRUSTING, beam_size, car=SURE)
        assert any(says(best.text, ['horse']) for best in captions)
        assert not any(says(best.text, ['zebra', 'zebras']) for best in captions)


def test_the_likeliest_words_come_first_and_have_their_probabilities(captioner):
    recognized = Naming(captioner, Recognizer()).recognized(probabilities(zebra=0.5, car=0.75))
    assert recognized == [[('car', 0.75), ('zebra', 0.5)]] * 6
    first, *_ = Naming(captioner, Recognizer(), Trust(most=9)).recognized(
        probabilities(dog=0.05, car=0.049))
    assert [name.word for name in first] == ['dog']


def test_people_are_never_asked_for(captioner):
    naming = Naming(captioner, Recognizer())
    assert naming.recognized(probabilities(person=SURE, dog=0)) == [[]] * 6


def test_evidence_is_the_log_odds_weighed_and_a_bonus():
    assert Trust(weight=2, bonus=0.7).evidence(0.5) == pytest.approx(0.7)
    assert Trust(weight=2, bonus=0.7, highest=9).evidence(0.8) == pytest.approx(
        2 * math.log(4) + 0.7)


def test_a_word_speaks_for_itself_up_to_a_limit():
    assert Trust(weight=2, bonus=0.7, highest=1.2).evidence(0.8) == 1.2
    assert Trust().evidence(0.99) == Trust().evidence(1) == Trust().highest


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


def test_batched_equals_one_by_one_and_rows_choose(captioner, features, monkeypatch):
    naming = Naming(captioner, Recognizer())
    chances = torch.rand(6, len(WORDS), generator=torch.Generator().manual_seed(2))
    together = naming.describe(Seen(features, chances), beam_size=3)
    for image in range(6):
        (alone,), = naming.describe(Seen(features[[image]], chances[[image]]), beam_size=3)
        assert (alone.text, alone.names) == (together[image][0].text, together[image][0].names)
    texts = [best.text for best, in together]
    assert len(set(texts)) > 2
    for rows in ([4, 1], np.array([4, 1, 5]), range(2, 6)):
        chosen = naming.describe(Seen(features, chances), beam_size=3, rows=rows)
        assert [best.text for best, in chosen] == [texts[row] for row in rows]
    monkeypatch.setattr('captioning.captioner.decoding_batch', lambda device, beam_size: 4)
    seen = Seen(features.numpy(), chances)    # from a file
    assert [best.text for best, in naming.describe(seen, beam_size=3)] == texts


def test_a_captioner_with_names_describes_by_them(captioner, features, monkeypatch):
    naming = Naming(captioner, Recognizer(), TRUSTING)
    monkeypatch.setattr(captioner, 'naming', naming)
    seen = Seen(features, probabilities(zebra=SURE))
    for count in (1, 3):
        described = captioner.describe(seen, max_len=3, count=count, rows=[3, 0])
        assert described == naming.describe(seen, count, 3, count, rows=[3, 0])
        assert [len(few) for few in described] == [count] * 2
        assert all(len(best.caption.log_probs) < 3 for best, *_ in described)
    unnamed = captioner.caption_features(features, beam_size=3)
    assert unnamed == [best.text for best, in captioner.describe(Seen(features), 3)]
    assert not any(says(text, ['zebra', 'zebras']) for text in unnamed)


def test_a_decoder_that_cannot_take_new_words_is_refused(captioner):
    captioner = copy.deepcopy(captioner)
    captioner.decoder.linear = torch.nn.Sequential(captioner.decoder.linear)
    with pytest.raises(ValueError, match='cannot take new words: .*Sequential'):
        Naming(captioner, Recognizer())


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


# ---- Checkpoints of runs, and splits of data ----

@pytest.fixture
def run_checkpoint(tmp_path, small_weights):
    """run_checkpoint(tuned) -> path of a small one, of which the last stage was tuned or not."""
    def save(tuned=False):
        sizes = {'embed_size': 8, 'backbone': 'resnet18', 'weights': small_weights, 'grid': tuned}
        torch.manual_seed(2)
        encoder, vocab = EncoderCNN(**sizes), Vocabulary.from_words(LEARNED)
        backbone_hash = weights_hash(encoder.backbone)
        if tuned:
            encoder.backbone.layer4.requires_grad_(True)
            encoder.backbone.layer4[1].conv1.weight.data.mul_(-2)
        decoder_sizes = {'embed_size': 8, 'hidden_size': 8, 'vocab_size': len(vocab),
                         'image': 'attention' if tuned else 'every'}
        state = model_state(encoder, DecoderRNN(**decoder_sizes), vocab, sizes, decoder_sizes,
                            backbone_hash)
        save_checkpoint(tmp_path / 'run' / 'best.pt', state)
        return tmp_path / 'run' / 'best.pt'

    return save


def test_a_run_has_names_only_where_they_are_asked_for_and_fit(run_checkpoint):
    path = run_checkpoint()
    for names in (None, False):
        assert load_captioner(path, 'cpu', names=names).naming is None
    with pytest.raises(ValueError, match='Nothing is recognized: .* started from [0-9a-f]{16}'):
        load_captioner(path, 'cpu', names=True)


@pytest.mark.parametrize('tuned', [True, False])
def test_of_a_split_is_seen_what_is_seen_of_its_photos(run_checkpoint, dataset, isolated_root,
                                                       tuned):
    captioner, data = load_captioner(run_checkpoint(tuned), 'cpu'), find_data(dataset)
    assert list(captioner.untuned) == ['layer4'] * tuned
    weight = torch.randn(len(WORDS), 512, generator=torch.Generator().manual_seed(4))
    recognizer = LinearRecognizer(weight, torch.zeros(len(WORDS)), WORDS, captioner.backbone_hash)
    paths = data.image_paths('val')
    paths[1].write_bytes(b'damaged')
    unnamed, rows, _ = seen_split(captioner, data, 'val')
    assert unnamed.probabilities is None
    captioner.naming = Naming(captioner, recognizer)
    seen, rows, images = seen_split(captioner, data, 'val')
    assert rows.tolist() == [0, 2, 3] and len(images) == 4
    expected = captioner.see(captioner.batch([paths[row] for row in rows]))
    assert np.allclose(seen.features[rows], expected.features, rtol=2e-3, atol=2e-3)
    assert torch.allclose(seen.probabilities[rows], expected.probabilities, atol=2e-2)
    assert expected.probabilities.std(dim=1).min() > 0.1    # they tell the words apart
    described = captioner.describe(seen, 2, rows=rows)
    assert [best.text for best, in described] == [
        best.text for best, in captioner.describe(expected, 2)]
    few, rows, _ = seen_split(captioner, data, 'val', limit=1)
    assert torch.allclose(few.probabilities, seen.probabilities[:1], atol=1e-5)
    assert rows.tolist() == [0]


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


def test_its_grammar_fits_its_words(shipped):
    never, vocab = shipped.naming.not_after, shipped.naming.vocab
    forbidden = set().union(*never.values())
    assert {*never} - {None} | forbidden <= set(range(len(vocab)))
    assert not {vocab.start_id, vocab.end_id, vocab.unk_id, vocab('.')} & forbidden
    for text in ('two sheep stand in a field .', 'a man is skiing down a hill .',
                 'two teams play soccer .', 'a man in a denim jacket sits on a staircase .',
                 'the dogs are wearing t-shirts .', 'an elephant and a unicycle .'):
        ids = [vocab.start_id, *map(vocab, text.split()), vocab.end_id]
        assert vocab.unk_id not in ids, text
        wrong = [vocab.decode([one, other]) for one, other in itertools.pairwise(ids)
                 if other in never.get(one, never[None])]
        assert not wrong


def test_what_it_sees_is_its_features_and_what_its_recognizer_says(shipped, without):
    images = shipped.batch([PHOTOS / 'cat.jpg', PHOTOS / 'coffee.jpg'])
    seen = shipped.see(images)
    assert torch.equal(seen.features, without.see(images).features)
    assert without.see(images).probabilities is None
    likeliest = shipped.naming.recognized(seen.probabilities)
    assert [first.word for first, *_ in likeliest] == ['cat', 'cup of coffee']
    person = [word.word for word in shipped.naming.recognizer.words].index('person')
    assert seen.probabilities.shape[1] > 300 and seen.probabilities[:, person].max() < 0.7
    people = shipped.naming.recognizer.words[person].forms
    for descriptions in shipped.describe(seen, beam_size=5, count=5):
        assert not any(says(one.text.rstrip('.'), people) for one in descriptions)


def test_without_a_recognizer_it_says_why(captioner):
    with pytest.raises(ValueError, match='Nothing is recognized: the classifier that ships'):
        name_things(captioner)
    assert captioner.naming is None


def test_json_tells_what_was_recognized_and_said(shipped, without):
    (path, told, error), = caption_photos(shipped, [PHOTOS / 'cat.jpg'], num_captions=2)
    seen = shipped.see(shipped.batch([PHOTOS / 'cat.jpg']))
    (recognized, *_), = shipped.naming.recognized(seen.probabilities)
    probability = pytest.approx(recognized.probability, abs=1e-4)
    assert error is None and told['recognized']['cat'] == probability
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
