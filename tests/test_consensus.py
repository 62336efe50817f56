"""What people would say of an image, foretold: the CIDEr that is expected, and what it chooses."""

import copy
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn
from training_helpers import open_run, train

from captioning import consensus, files, ngrams
from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, Captioner, ask_consensus, export, load_captioner
from captioning.consensus import Consensus, consensus_for, fit_consensus
from captioning.naming import Naming, Seen
from captioning.recognition import Word
from captioning.scoring import References, score
from captioning.scoring.split_captions import seen_split
from model import DecoderRNN, EncoderCNN
from scripts import consensus as command
from vocabulary import Vocabulary

ANIMALS, ACTS = ('dog', 'cat', 'horse'), ('runs', 'sleeps', 'jumps', 'swims')
PLACES = ('grass', 'sand', 'snow')
PHOTOS = files.ROOT / 'images' / 'photos'


@pytest.fixture
def scenes(monkeypatch):
    """36 images whose features tell what is in them -> (features, two captions of each)."""
    monkeypatch.setattr(ngrams, 'LEAST_IMAGES', 1)
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


# ---- What it expects ----

def test_of_images_that_are_known_it_expects_the_true_cider(scenes, tmp_path):
    features, captions = scenes
    known = fit_consensus(features, captions, decay=1e-6)
    candidates = [captions[(row + 5) % 36][0] for row in range(36)]
    candidates[:12] = [both[0] for both in captions[:12]]
    expected = known.expected_cider(features, [[words] for words in candidates])
    assert [float(value) for value, in expected] == pytest.approx(
        true_cider(captions, candidates, tmp_path), abs=0.02)


@pytest.mark.parametrize('centres', [35, 20])
def test_an_image_that_is_not_known_is_told_by_like_ones(scenes, centres):
    features, captions = scenes
    known = fit_consensus(features[1:], captions[1:], centres=centres)
    candidates = [[words for both in captions for words in both]]
    expected, = known.expected_cider(features[:1], candidates)
    best = candidates[0][int(expected.argmax())]
    assert {'dog', 'runs', 'grass'} <= set(best)
    silent, strange = known.expected_cider(features[:1], [[[], ['zebra']]])[0]
    assert silent == 0 and strange == 0


def test_the_strongest_directions_of_what_is_foretold_are_most_of_it(scenes, monkeypatch):
    features, captions = scenes
    whole = fit_consensus(features, captions).foretold(features)
    errors = []
    for directions in (10, 18, 26):
        monkeypatch.setattr(consensus, 'NGRAM_DIRECTIONS', directions)
        few = fit_consensus(features, captions)
        assert len(few.state['basis']) == directions
        errors.append(float((few.foretold(features) - whole).square().mean() / whole.var()))
    assert 0.25 > errors[0] > 2 * errors[1] > 4 * errors[2]


def test_parts_of_the_images_at_a_time_give_the_same(scenes, monkeypatch):
    whole = fit_consensus(*scenes)
    monkeypatch.setattr(consensus, 'CHUNK', 7)
    assert torch.allclose(fit_consensus(*scenes).foretold(scenes[0]), whole.foretold(scenes[0]),
                          atol=1e-3)


def test_a_file_gives_the_same(scenes, tmp_path):
    features, captions = scenes
    known = fit_consensus(features, captions, 'abc')
    known.save(tmp_path / 'a.consensus.pt')
    again = Consensus.load(tmp_path / 'a.consensus.pt')
    assert again.encoder_hash == 'abc' and again.weight == known.weight
    candidates = [[both[0], []] for both in captions]
    for one, other in zip(known.expected_cider(features, candidates),
                          again.expected_cider(features, candidates), strict=True):
        assert other == pytest.approx(one, abs=0.05)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pt'):
        Consensus.load(tmp_path / 'nothing.pt')
    (tmp_path / 'text.pt').write_text('no', 'utf-8')
    with pytest.raises(ValueError, match='text.pt holds no consensus'):
        Consensus.load(tmp_path / 'text.pt')


@pytest.mark.parametrize(('features', 'captions', 'message'), [
    (torch.zeros(9, 5), [[['a']]] * 9, '9 images are alike'),
    (torch.full((9, 5), torch.nan), [[['a']]] * 9, '9 images are no numbers'),
    (torch.rand(7, 5), [[['a']]] * 7, '7 images: too few'),
    (torch.rand(9, 5), [[[str(row)]] for row in range(9)], '8 must share an n-gram')])
def test_too_little_to_learn_from_is_named(features, captions, message):
    with pytest.raises(ValueError, match=message):
        fit_consensus(features, captions)


def test_images_that_are_nearly_alike_do_not_spoil_it(scenes):
    features, captions = scenes
    generator = torch.Generator().manual_seed(2)
    noise = 1e-4 * torch.randn(20, *features.shape, generator=generator)
    many = (features + noise).clamp(min=0).flatten(0, 1)
    known = fit_consensus(many, captions * 20)
    assert known.state['weight'].abs().max() < 30
    candidates = [[both[0], captions[17][1]] for both in captions]
    alone = fit_consensus(features, captions)
    for row, (one, other) in enumerate(zip(known.expected_cider(features, candidates),
                                           alone.expected_cider(features, candidates),
                                           strict=True)):
        assert row == 17 or (one[0] > one[1]) == (other[0] > other[1])


# ---- What it is learned from ----

@pytest.fixture
def run(settings, monkeypatch):
    """A tiny run, the best checkpoint of it, and its data: a photo is damaged, a caption strange.
    """
    monkeypatch.setattr(ngrams, 'LEAST_IMAGES', 2)
    run = train(open_run(settings(epochs=1)))
    file = run.data.annotation_file('train')
    content = json.loads(file.read_text('utf-8'))
    entry = {**content['annotations'][0], 'id': 99999, 'image_id': 99999}
    content['annotations'].insert(0, entry)
    file.write_text(json.dumps(content), 'utf-8')
    run.data.image_paths('train')[1].write_bytes(b'damaged')
    return run


def test_the_command_learns_from_the_photos_of_a_run(run, dataset, tmp_path, monkeypatch, capsys):
    best = run.folder / 'best.pt'
    monkeypatch.setattr(sys, 'argv', ['consensus', str(best), '--cocoapi-loc', str(dataset)])
    command.main()
    assert f'{best.with_name("best.consensus.pt")}: 0.' in capsys.readouterr().out
    captioner, data = load_captioner(best, 'cpu'), CaptionData(dataset)
    assert captioner.naming is None
    assert captioner.consensus.ngrams.images == len(data.images('train')) - 1
    seen, rows, _ = seen_split(captioner, data, 'train')
    references = References(data.annotation_file('train'), annotations=data.annotations('train'))
    texts = [references.tokens[image['id']] for image in data.images('train')]
    own = captioner.support(seen, [texts[row] for row in rows], rows)
    others = captioner.support(seen, [texts[row] for row in np.roll(rows, 1)], rows)
    assert np.mean(np.concatenate(own)) > 1.3 * np.mean(np.concatenate(others))
    (tmp_path / 'given').mkdir()
    export(best, tmp_path / 'given' / 'mine.pt')
    assert load_captioner(tmp_path / 'given' / 'mine.pt', 'cpu').consensus is not None


def test_the_command_learns_from_further_captions_too(run, dataset, tmp_path, monkeypatch):
    text = tmp_path / 'captions.tsv'
    text.write_text(''.join(f'{image}\ta zebra eats grass .\n{image}\ta dog runs .\n'
                            for image in range(9)), 'utf-8')
    best = run.folder / 'best.pt'
    monkeypatch.setattr(sys, 'argv', ['consensus', str(best), '--cocoapi-loc', str(dataset),
                                      '--text', str(text)])
    with pytest.raises(ValueError, match='Nothing is recognized'):
        command.main()
    assert not best.with_name('best.consensus.pt').exists()
    monkeypatch.setattr('captioning.captioner.recognizer_for', lambda captioner: (Zebras(), ''))
    command.main()
    associations = load_captioner(best, 'cpu').consensus.associations
    assert associations.words == ['dog', 'zebra']
    assert ('eats', 'grass') in associations.ngrams.column


def test_captions_of_other_words_are_refused(run, dataset):
    captioner = load_captioner(run.folder / 'best.pt', 'cpu')
    captioner.vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a'])
    with pytest.raises(ValueError, match='knows [0-9]+% of the words in the training captions of'):
        consensus_for(captioner, CaptionData(dataset))


# ---- What it chooses ----

class Preferring:
    """A consensus for which a caption counts by how often it has a word."""

    def __init__(self, word):
        self.word = word

    def support(self, pooled, texts, recognized):
        assert len(pooled) == len(texts)
        return [np.array([20.0 * text.split().count(self.word) for text in each])
                for each in texts]


@pytest.fixture(scope='module')
def captioner():
    """An untrained one that ends its captions now and then."""
    torch.manual_seed(0)
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'dog', 'cat', 'runs', '.'])
    encoder, decoder = EncoderCNN(24, 'resnet18', None), DecoderRNN(24, 24, len(vocab))
    decoder.linear.bias.data[1] = 1
    return Captioner(encoder, decoder, vocab, encoder.transform, 'cpu')


def test_it_orders_the_captions_of_a_beam_and_no_others(captioner, monkeypatch):
    features = torch.randn(4, 512, generator=torch.Generator().manual_seed(1)).abs()
    seen = Seen(features)
    before = captioner.describe(seen, beam_size=8, count=8)
    monkeypatch.setattr(captioner, 'consensus', Preferring('cat'))
    after = captioner.describe(seen, beam_size=8, count=8, rows=[2, 0])
    for descriptions, row in zip(after, (2, 0), strict=True):
        assert {one.text for one in descriptions} == {one.text for one in before[row]}
    for descriptions in after:
        ended = [one.caption.ids[-1] == 1 for one in descriptions]
        cats = [one.text.split().count('cat') for one in descriptions]
        assert max(cats) > 0 and ended == sorted(ended, reverse=True)
        assert cats[:sum(ended)] == sorted(cats[:sum(ended)], reverse=True)
    greedy = captioner.describe(seen, 1)
    monkeypatch.setattr(captioner, 'consensus', None)
    assert captioner.describe(seen, 1) == greedy
    assert captioner.describe(seen, beam_size=8, count=8) == before


class Zebras:
    """A recognizer that is half sure of a zebra."""

    words = [Word('dog', 'dogs', 'count', 'a'), Word('zebra', '', 'count', 'a')]
    backbone_hash = None


def test_it_helps_to_choose_among_captions_with_names(captioner, monkeypatch):
    features = torch.randn(4, 512, generator=torch.Generator().manual_seed(1)).abs()
    seen = Seen(features, torch.tensor([[0.0, 0.5]] * 4))
    said = {}
    for word in ('runs', 'zebra'):
        monkeypatch.setattr(captioner, 'consensus', Preferring(word))
        naming = Naming(captioner, Zebras())
        said[word] = [best for best, in naming.describe(seen, beam_size=5, rows=[3, 1])]
        assert all(word in best.text.split() for best in said[word])
    assert all(name.word == 'zebra' for best in said['zebra'] for name in best.names)


def test_of_a_grid_it_takes_the_mean(captioner, monkeypatch):
    class Asked:
        def support(self, pooled, texts, recognized):
            return pooled

    monkeypatch.setattr(captioner, 'consensus', Asked())
    grids = torch.rand(300, 4, 6)
    for features in (grids, grids.numpy()):
        assert torch.allclose(captioner.support(Seen(features), [[]] * 300), grids.mean(dim=1))
        few = captioner.support(Seen(features), [[]] * 2, rows=[299, 7])
        assert torch.allclose(few, grids.mean(dim=1)[[299, 7]])


def test_one_of_another_encoder_is_refused(captioner, scenes, tmp_path):
    fit_consensus(*scenes, 'abc').save(tmp_path / 'a.consensus.pt')
    with pytest.raises(ValueError, match='a.consensus.pt belongs to an encoder with hash abc'):
        ask_consensus(captioner, tmp_path / 'a.consensus.pt')


def test_an_encoder_is_told_by_how_it_was_tuned(captioner):
    def started_from_abc(**untuned):
        return Captioner(copy.deepcopy(captioner.encoder), captioner.decoder, captioner.vocab,
                         captioner.encoder.transform, 'cpu', 'abc', untuned)

    assert started_from_abc().encoder_hash == 'abc'
    tuned = started_from_abc(layer4=nn.Identity())
    before = tuned.encoder_hash
    assert before.startswith('abc-')
    tuned.encoder.backbone.half().float()    # as a file keeps it
    assert tuned.encoder_hash == before
    tuned.encoder.backbone.layer4[0].conv1.weight.data += 1
    assert tuned.encoder_hash != before


# ---- The one that ships ----

def test_where_it_lies_beside_a_checkpoint_it_is_asked(tmp_path):
    assert load_captioner(SHIPPED, 'cpu').consensus is not None
    assert load_captioner(SHIPPED, 'cpu', consensus=False).consensus is None
    alone = tmp_path / 'alone.pt'
    shutil.copy(SHIPPED, alone)
    model_file = SHIPPED.with_name('model.py')
    assert load_captioner(alone, 'cpu', model_file).consensus is None
    with pytest.raises(FileNotFoundError, match='alone.consensus.pt not found'):
        load_captioner(alone, 'cpu', model_file, consensus=True)


def test_what_is_foretold_of_a_photo_suits_it():
    captioner = load_captioner(SHIPPED, 'cpu', names=False)
    seen = captioner.see(captioner.batch([PHOTOS / 'cat.jpg', PHOTOS / 'photographer.jpg']))
    texts = ['a dog runs through the grass .', 'a man in a black jacket takes a picture .', 'zzz']
    cat, photographer = captioner.support(seen, [texts] * 2)
    assert cat[0] > cat[1] and photographer[0] < photographer[1]
    assert cat[2] == photographer[2] == 0
