"""The captioners in models/: small enough, complete, and independent of later edits of model.py."""

import json

import pytest

import model
from captioning.captioner import SHIPPED, load_captioner
from captioning.checkpoint import read_checkpoint
from captioning.files import ROOT
from captioning.photos import find_photos

NAMES = {'plain': 12, 'best': 60}    # megabytes that they may have


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_captioner_works_whatever_becomes_of_model_py(name, monkeypatch):
    monkeypatch.setattr(model, 'DecoderRNN', None)
    monkeypatch.setattr(model, 'EncoderCNN', None)
    path = SHIPPED.with_name(f'flickr8k_{name}.pt')
    captioner = load_captioner(path, 'cpu')
    photos = find_photos([str(ROOT / 'images' / 'photos')])
    captions = captioner.caption(photos, beam_size=3)
    assert len(captions) == 5
    assert all(4 <= len(caption.split()) <= 19 for caption in captions)
    assert len(set(captions)) == 5    # it does look at the photo
    assert path.stat().st_size < NAMES[name] * 1e6


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_checkpoint_tells_its_recipe_and_no_folder_of_its_maker(name):
    settings = read_checkpoint(SHIPPED.with_name(f'flickr8k_{name}.pt'))['settings']
    assert settings['seed'] == 0 and settings['reward_epochs'] > 0
    assert settings['cocoapi_loc'] is None
    assert not any(str(value).startswith(('/', '..')) for value in settings.values())


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('method', ['greedy', 'beam'])
def test_captions_of_the_test_images_are_a_results_file(name, method):
    file = SHIPPED.with_name(f'flickr8k_test_{name}_{method}.json')
    results = json.loads(file.read_text())
    assert len({result['image_id'] for result in results}) == len(results) == 1000
    assert all(set(result) == {'image_id', 'caption'} for result in results)
    assert all(result['caption'].strip() for result in results)
