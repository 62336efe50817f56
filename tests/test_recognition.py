"""The table of words for ImageNet's classes, the recognizer, and the encoder that it shares."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import ResNet50_Weights

from captioning import files
from captioning.captioner import Captioner, load_captioner
from captioning.checkpoint import model_state, save_checkpoint, weights_hash
from captioning.photos import load_image
from captioning.recognition import (
    ImageNetRecognizer,
    SharedEncoder,
    Word,
    load_recognizer,
    read_table,
    recognizer_for,
    untuned_encoder,
    words_of,
)
from captioning.recognition.recognizer import CLASSIFIER
from captioning.recognition.untuned import pooled
from captioning.recognition.words import USES, ClassLine, write_table
from experiments.class_words import Synset, changes, draft_line, read_nouns, synsets_of_classes
from model import DecoderRNN, EncoderCNN
from vocabulary import Vocabulary, tokenize

MODELS = files.ROOT / 'models'
PHOTOS = files.ROOT / 'images' / 'photos'


@pytest.fixture(scope='module')
def lines():
    return read_table()


@pytest.fixture(scope='module')
def recognizer():
    return load_recognizer()


@pytest.fixture(scope='module')
def best():
    """The captioner that ships, which has tuned the last stage; computed exactly."""
    captioner = load_captioner(MODELS / 'flickr8k_best.pt', device='cpu')
    captioner.dtype = torch.float32
    return captioner


@pytest.fixture(scope='module')
def photos(best):
    """{name: image (3, S, S)} of two of the free photos."""
    return {name: best.transform(load_image(PHOTOS / f'{name}.jpg')) for name in ('cat', 'coffee')}


# ---- The table ----

def test_the_table_has_torchvisions_classes_in_order(lines):
    names = ResNet50_Weights.IMAGENET1K_V2.meta['categories']
    assert [(line.number, line.name) for line in lines] == list(enumerate(names))


def test_words_are_tokens_in_lower_case(lines):
    for word in words_of(lines)[0]:
        for form in word.forms:
            assert ' '.join(tokenize(form)) == form, word


def test_count_nouns_alone_have_a_plural_and_an_article(lines):
    for word in words_of(lines)[0]:
        assert word.use in USES
        assert bool(word.plural) == bool(word.article) == (word.use == 'count'), word


def test_forms_are_told_once(lines):
    for word in words_of(lines)[0]:
        assert len({word.word, *word.also}) == 1 + len(word.also), word
        assert word.plural not in word.also, word


def test_a_plural_belongs_to_one_word(lines):
    words, _ = words_of(lines)
    plurals = [word.plural for word in words if word.plural]
    assert len(set(plurals)) == len(plurals)
    assert not {word.word for word in words} & {word.plural for word in words
                                                if word.plural != word.word}


def test_a_silent_class_has_a_reason_and_nothing_else(lines):
    silent = [line for line in lines if not line.word]
    assert silent and all(line.note for line in silent)
    assert not any(line.plural or line.use or line.article or line.also or line.kind
                   for line in silent)


@pytest.mark.parametrize(('classes', 'word'), [
    (range(151, 269), 'dog'), (range(281, 286), 'cat'), (range(52, 69), 'snake'),
    ((2, 3, 4), 'shark'), ((101, 385, 386), 'elephant'), ((654, 779, 874), 'bus'),
    ((511, 627, 817), 'car'), ((620, 681), 'laptop'), ((982, 781, 916, 917), '')])
def test_words_of_classes(lines, classes, word):
    assert {lines[number].word for number in classes} == {word}


@pytest.mark.parametrize(('word', 'expected'), [
    ('dog', 'a'), ('elephant', 'an'), ('umbrella', 'an'), ('unicycle', 'a'), ('uniform', 'a'),
    ('hourglass', 'an'), ('corn', ''), ('jeans', '')])
def test_articles(lines, word, expected):
    words = {word.word: word for word in words_of(lines)[0]}
    assert words[word].article == expected


def test_a_table_reads_back_as_written(tmp_path, lines):
    write_table(tmp_path / 'words.tsv', lines)
    assert read_table(tmp_path / 'words.tsv') == lines


@pytest.mark.parametrize('row', ['1\tshark\tshark', '7\tx' + 7 * '\t', ''])
def test_a_wrong_line_is_named(tmp_path, lines, row):
    path = tmp_path / 'words.tsv'
    write_table(path, lines[:1])
    path.write_text(path.read_text() + row + '\n')
    with pytest.raises(ValueError, match='words.tsv, line 3: expected class 1'):
        read_table(path)


def test_foreign_columns_are_named(tmp_path):
    (tmp_path / 'words.tsv').write_text('a\tb\n')
    with pytest.raises(ValueError, match='expected the columns class, name'):
        read_table(tmp_path / 'words.tsv')


def test_one_word_used_in_two_ways_is_named():
    lines = [ClassLine(0, 'a', 'goose', 'geese', 'count'),
             ClassLine(1, 'b', 'goose', 'gooses', 'count')]
    with pytest.raises(ValueError, match=r"class 1 \(b\) has other columns for 'goose'"):
        words_of(lines)


# ---- Its draft ----

NOUNS = """  1 the licence
00000010 05 n 01 animal 0 000 | a living thing
00000020 05 n 01 cat 0 001 @ 00000010 n 0000 | it purrs
00000030 05 n 02 tabby 0 Tiger_cat 0 002 @ 00000020 n 0000 ~ 00000010 n 0000 | striped | or not
00000040 06 n 01 cat 0 000 | a tractor
"""


@pytest.fixture
def synsets(tmp_path):
    (tmp_path / 'data.noun').write_text(NOUNS)
    return read_nouns(tmp_path / 'data.noun')


def test_wordnets_nouns_are_read(synsets):
    assert synsets[30] == Synset(['tabby', 'Tiger_cat'], [20])
    assert list(synsets) == [10, 20, 30, 40]


def test_a_class_has_the_meaning_that_keeps_the_order(synsets):
    assert synsets_of_classes(['cat', 'tabby'], synsets) == [20, 30]
    assert synsets_of_classes(['tiger cat', 'unknown', 'cat'], synsets) == [30, None, 40]


@pytest.mark.parametrize(('counts', 'word'), [
    ({'tabby': 40, 'cat': 20}, 'tabby'), ({'tabby': 3, 'cat': 20, 'cats': 10}, 'cat'),
    ({'animal': 500}, '')])
def test_the_draft_has_the_most_specific_word_that_is_frequent(synsets, counts, word):
    def plural(noun):
        return f'{noun}s'

    line = draft_line(0, 'tabby', 30, synsets, Counter(counts), plural)
    assert (line.word, line.kind) == (word, 'animal')


def test_changes_of_a_draft_are_told(lines):
    draft = [line._replace(word='thing') if line.number == 282 else line for line in lines]
    assert list(changes(draft, lines)) == [' 282 tiger cat: thing -> cat']


# ---- Probabilities ----

def tiny_recognizer(channels=4, classes=3, backbone_hash=''):
    lines = [ClassLine(0, 'tabby', 'cat', 'cats', 'count'), ClassLine(1, 'groom', note='any suit'),
             ClassLine(2, 'Persian cat', 'cat', 'cats', 'count')]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, channels, generator=generator)
    return ImageNetRecognizer(weight, torch.zeros(classes), lines, backbone_hash)


def test_a_word_has_the_sum_of_its_classes():
    recognizer = tiny_recognizer()
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    classes = (features @ recognizer.weight.T).softmax(dim=1)
    assert recognizer.words == [Word('cat', 'cats', 'count', 'a')]
    torch.testing.assert_close(recognizer.probabilities(features),
                               classes[:, [0]] + classes[:, [2]])


def test_as_many_lines_as_classes():
    with pytest.raises(ValueError, match='3 lines of words for 2 classes'):
        tiny_recognizer(classes=2)


def test_probabilities_add_up_to_at_most_one(recognizer):
    features = 3 * torch.rand(50, 2048, generator=torch.Generator().manual_seed(3))
    probabilities = recognizer.probabilities(features)
    assert probabilities.shape == (50, len(recognizer.words))
    assert probabilities.min() >= 0
    assert probabilities.sum(dim=1).max() <= 1 + 1e-5


def test_a_missing_or_foreign_classifier_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='classifier.pt not found'):
        load_recognizer(tmp_path / 'classifier.pt')
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'classifier.pt')
    with pytest.raises(ValueError, match='holds no fc.weight and fc.bias'):
        load_recognizer(tmp_path / 'classifier.pt')


def test_the_classifier_is_a_small_plain_state_dict():
    assert CLASSIFIER.stat().st_size < 4.2e6
    state = torch.load(CLASSIFIER, weights_only=True)
    assert {key: list(value.shape) for key, value in state.items()} == {
        'fc.weight': [1000, 2048], 'fc.bias': [1000]}


# ---- On the free photos ----

@pytest.mark.parametrize(('name', 'expected'), [('cat', 'cat'), ('coffee', 'cup of coffee')])
def test_the_free_photos_are_recognized(best, photos, name, expected):
    recognizer, reason = recognizer_for(best)
    _, features = SharedEncoder(best).encode(photos[name][None])
    probability, word = recognizer.probabilities(features)[0].max(dim=0)
    assert (recognizer.words[word].word, reason) == (expected, '')
    assert probability > 0.9


def test_a_tuned_captioner_recognizes_as_an_untuned_encoder(best, photos, recognizer):
    images = torch.stack(list(photos.values()))
    features, untuned = SharedEncoder(best).encode(images)
    encoder = EncoderCNN(8).eval()
    with torch.no_grad():
        expected = recognizer.probabilities(encoder.backbone(images))
    torch.testing.assert_close(recognizer.probabilities(untuned), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(features, best.encode(images))
    tuned = recognizer.probabilities(pooled(features))
    assert not torch.allclose(tuned, expected, atol=1e-2)    # the tuned stage says other things


def test_an_untuned_captioner_encodes_once(photos, recognizer, encoded):
    plain = load_captioner(MODELS / 'flickr8k_plain.pt', device='cpu')
    assert not plain.untuned and recognizer_for(plain)[0] is not None
    features, untuned = SharedEncoder(plain).encode(photos['cat'][None])
    assert untuned is features and len(encoded()) == 1


# ---- Another encoder ----

@pytest.fixture
def tuned(tmp_path, small_weights):
    """A small captioner whose last stage was tuned, loaded from its checkpoint."""
    sizes = {'embed_size': 4, 'backbone': 'resnet18', 'weights': small_weights, 'grid': True}
    encoder, vocab = EncoderCNN(**sizes), Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a'])
    backbone_hash = weights_hash(encoder.backbone)
    encoder.backbone.layer4.requires_grad_(True)
    with torch.no_grad():
        for parameter in encoder.backbone.layer4.parameters():
            parameter.mul_(1.5)
    decoder_sizes = {'embed_size': 4, 'hidden_size': 4, 'vocab_size': len(vocab)}
    state = model_state(encoder, DecoderRNN(**decoder_sizes), vocab, sizes, decoder_sizes,
                        backbone_hash)
    save_checkpoint(tmp_path / 'tuned.pt', state)
    return load_captioner(tmp_path / 'tuned.pt', device='cpu')


def small_images(count=3):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(6))


def test_another_encoder_has_no_recognizer_and_is_told_why(tuned):
    recognizer, reason = recognizer_for(tuned)
    assert recognizer is None
    assert tuned.backbone_hash in reason and reason.startswith('Nothing is recognized')


def test_a_captioner_of_unknown_origin_has_no_recognizer():
    recognizer, reason = recognizer_for(SimpleNamespace(backbone_hash=None))
    assert recognizer is None and 'others' in reason


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_shared_stages_give_both_features(tuned, small_weights, dtype):
    tuned.dtype, images = dtype, small_images()
    features, untuned = SharedEncoder(tuned).encode(images)
    assert torch.equal(features, tuned.encode(images))
    before = EncoderCNN(4, 'resnet18', small_weights).eval()
    with torch.no_grad():
        expected = before.backbone(images)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(untuned, expected, rtol=tolerance, atol=tolerance)
    assert features.shape == (3, 4, 512) and untuned.shape == (3, 512)


def test_the_frozen_stages_run_once(tuned):
    tuned.dtype = torch.float32    # in others a copy of them runs
    counts = {'layer3': 0, 'layer4': 0}
    stages = {'layer3': [tuned.encoder.backbone.layer3],
              'layer4': [tuned.encoder.backbone.layer4, tuned.untuned['layer4']]}

    def counting(name):
        def count(*_):
            counts[name] += 1
        return count

    for name, modules in stages.items():
        for module in modules:
            module.register_forward_hook(counting(name))
    SharedEncoder(tuned).encode(small_images())
    assert counts == {'layer3': 1, 'layer4': 2}


def test_a_shared_encoder_follows_the_precision(tuned):
    shared, images = SharedEncoder(tuned), small_images()
    for dtype in (torch.bfloat16, torch.float32):
        tuned.dtype = dtype
        assert torch.equal(shared.encode(images)[0], tuned.encode(images))


def test_an_untuned_encoder_is_as_its_weights_file_has_it(tuned):
    assert weights_hash(untuned_encoder(tuned).backbone) == tuned.backbone_hash
    assert weights_hash(tuned.encoder.backbone) != tuned.backbone_hash    # it was a copy


def test_an_untuned_captioner_gives_its_features_pooled(encoder):
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>'])
    captioner = Captioner(encoder, DecoderRNN(4, 4, 3), vocab, encoder.transform, 'cpu')
    images = small_images()
    features, untuned = SharedEncoder(captioner).encode(images)
    assert torch.equal(untuned, captioner.encode(images)) and torch.equal(untuned, features)
