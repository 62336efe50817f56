"""Things of the scenes that no training caption names, and captions that say what is not there."""

import os

import numpy as np
import pytest
import torch
from training_helpers import TINY

from captioning.caption_data import CaptionData
from captioning.features import split_features
from captioning.held_out import f1, without_words
from captioning.naming import Description
from captioning.scenes import draw_scenes, unseen
from captioning.scenes.catalogue import KINDS
from captioning.scenes.unseen import Described, share_absent, unseen_table, word_of
from captioning.scoring.hallucination import says
from captioning.training import make_settings
from vocabulary import tokenize

pytestmark = pytest.mark.usefixtures('cpu_in_float32')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A few small scenes -> CaptionData."""
    folder = draw_scenes(tmp_path_factory.mktemp('scenes'), 60, 12, 1, size=32, workers=1)
    return CaptionData(folder)


def most_drawn(data):
    """The kind of thing that most training scenes show."""
    counts = unseen.drawn_kinds(data.images('train')).sum(axis=0)
    return list(KINDS)[counts.argmax()]


def scene_of(*kinds):
    things = [{'kind': kind, 'nouns': KINDS[kind].nouns} for kind in kinds]
    return {'id': 1, 'file_name': 'a.jpg', 'scene': {'objects': things}}


# ---- Words and what is drawn ----

def test_a_word_has_the_nouns_that_name_its_kind_alone():
    assert word_of('cat').forms == ('cat', 'cats', 'kitten', 'kittens')
    assert 'kid' in word_of('boy').forms and 'child' not in word_of('boy').forms
    assert word_of('elephant').article == 'an'
    with pytest.raises(ValueError, match="'unicorn' is no kind.* boy, girl"):
        word_of('unicorn')


def test_things_are_absent_unless_an_object_or_an_act_shows_them():
    girl, cat = scene_of('girl'), scene_of('cat', 'chair')
    assert share_absent([girl], ['a child is flying a kite']) == 0
    assert share_absent([girl], ['a kid is flying a kite']) == 0.5
    assert share_absent([cat, girl], ['two kittens on a chair', 'a woman with a cat']) == 0.5
    assert share_absent([cat], ['it is snowing']) == 0


def test_f1_is_of_each_word():
    said = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    true = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], bool)
    assert f1(said, true).tolist() == [0.5, 0]


# ---- Left out of training ----

def test_just_the_captions_with_a_word_are_left_out(scenes, isolated_root, tmp_path):
    forms = word_of(most_drawn(scenes)).forms
    copy, kept = without_words(scenes, [word_of(most_drawn(scenes))], tmp_path / 'copy')

    def captions(data):
        return {entry['id']: entry['caption'] for entry in data.annotations('train')['annotations']}

    left_out = captions(scenes).keys() - captions(copy).keys()
    assert len(left_out) + kept == 300 and 0 < len(left_out) < 300
    for number, caption in captions(scenes).items():
        assert says(' '.join(tokenize(caption)), forms) == (number in left_out), caption
    assert copy.images('train') == scenes.images('train')
    assert all(path.exists() for path in (*copy.image_paths('train'), *copy.image_paths('val')))
    assert copy.annotations('val') == scenes.annotations('val')


def test_features_serve_the_copy(scenes, isolated_root, tmp_path):
    features = scenes.cache_folder / 'features-1'
    features.mkdir(parents=True, exist_ok=True)
    (features / 'val2014.npy').write_text('features')
    for _ in range(2):    # again, where the links are there
        copy, _ = without_words(scenes, [word_of('cat')], tmp_path / 'copy')
    assert copy.cache_folder != scenes.cache_folder
    assert (copy.cache_folder / 'features-1' / 'val2014.npy').read_text() == 'features'


def test_where_no_folder_may_be_linked_its_files_are(scenes, isolated_root, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError('a required privilege is not held by the client')

    monkeypatch.setattr(os, 'symlink', refused)
    features = scenes.cache_folder / 'features-1'
    features.mkdir(parents=True, exist_ok=True)
    (features / 'val2014.npy').write_text('features')
    killed = tmp_path / 'copy/cocoapi/images/train2014.tmp'    # a process that linked photos
    killed.mkdir(parents=True)
    (killed / 'COCO_train2014_000000000001.jpg').write_bytes(b'')
    copy, _ = without_words(scenes, [word_of('cat')], tmp_path / 'copy')
    assert (copy.cache_folder / 'features-1' / 'val2014.npy').read_text() == 'features'
    for split in ('train', 'val'):
        for photo, linked in zip(scenes.image_paths(split), copy.image_paths(split), strict=True):
            assert linked.samefile(photo)
    assert not killed.exists()


def test_a_thing_is_named_that_no_caption_had(scenes, isolated_root, small_weights, monkeypatch):
    kind = most_drawn(scenes)
    forms = word_of(kind).forms
    values = {**TINY, 'weights': small_weights, 'vocab_threshold': 1}

    def tiny(**given):
        return make_settings(**{**values, **given})

    monkeypatch.setattr(unseen, 'make_settings', tiny)
    run = unseen.train_without(scenes, [kind], epochs=2)
    assert run.finished and run.epoch == 2
    assert not set(run.model.vocab.word2idx) & set(forms)
    captioner = unseen.naming_captioner(run.folder / 'best.pt', run.data)
    recognizer = captioner.naming.recognizer
    assert [word.word for word in recognizer.words] == [word_of(each).word for each in KINDS]
    column = list(KINDS).index(kind)
    probabilities = recognizer.probabilities

    def certain(features):    # a random CNN of twelve scenes tells little: here it tells all
        given = probabilities(features) * 0
        given[:, column] = 0.999
        return given

    monkeypatch.setattr(recognizer, 'probabilities', certain)
    described = unseen.describe_scenes(captioner, run.data, beam_size=2)
    assert len(described.entries) == len(described.plain) == len(described.named) == 12
    assert not any(says(one.text.rstrip(' .'), forms) for one in described.plain)
    assert all(says(one.text.rstrip(' .'), forms) for one in described.named)
    true = unseen.drawn_kinds(described.entries)[:, column].sum()
    _, scores, cider, names, absent = unseen_table(described, run.data, [kind])
    assert scores == (f'F1 of {kind}, in {true} scenes', '0.00', f'{2 * true / (12 + true):.2f}')
    assert names[2] == f'{true} of 12' and float(absent[2]) > 0 and len(cider) == 3


def test_a_recognizer_learns_what_is_drawn(scenes, isolated_root, small_weights, monkeypatch):
    monkeypatch.setattr(unseen, 'make_settings', lambda **given: make_settings(
        **{**TINY, 'weights': small_weights, **given}))
    run = unseen.train_without(scenes, ['cake'], epochs=1)
    captioner = unseen.naming_captioner(run.folder / 'best.pt', run.data)
    features, _, entries = split_features(captioner.encoder, run.data, 'train')
    likely = captioner.naming.recognizer.probabilities(torch.from_numpy(np.array(features)))
    drawn = unseen.drawn_kinds(entries)
    assert likely.numpy()[drawn].mean() > 4 * likely.numpy()[~drawn].mean()
    captioner.untuned = {'7': None}
    with pytest.raises(ValueError, match='is tuned'):
        unseen.train_recognizer(captioner, run.data)


def test_scenes_with_the_thing_come_first():
    entries = [scene_of('cat'), scene_of('dog'), scene_of('chair', 'dog'), scene_of('boy')]
    texts = [Description('a dog', None)] * 4
    assert Described(entries, texts, texts).with_kind('dog') == [1, 2, 0, 3]
