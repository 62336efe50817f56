"""The captioners in models/: small enough, whole, and independent of what becomes of model.py."""

import json
from pathlib import Path

import pytest

import model
from scripts.checkpoint import SHIPPED, load_captioner, read_checkpoint
from scripts.sample import find_photos

ROOT = Path(__file__).resolve().parent.parent
NAMES = {'plain': 12, 'best': 60}    # megabytes that they may have


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_captioner_works_whatever_becomes_of_model_py(name, monkeypatch):
    monkeypatch.setattr(model, 'DecoderRNN', None)
    monkeypatch.setattr(model, 'EncoderCNN', None)
    path = SHIPPED.with_name(f'flickr8k_{name}.pt')
    captioner = load_captioner(path, 'cpu')
    captions = captioner.caption(find_photos([str(ROOT / 'images' / 'photos')]), beam_size=3)
    assert len(captions) == 5 and all(4 <= len(caption.split()) <= 19 for caption in captions)
    assert len(set(captions)) == 5    # it does look at the photo
    assert path.stat().st_size < NAMES[name] * 1e6


@pytest.mark.parametrize('name', NAMES)
def test_a_shipped_checkpoint_tells_its_recipe_and_no_folder_of_its_maker(name):
    settings = read_checkpoint(SHIPPED.with_name(f'flickr8k_{name}.pt'))['settings']
    assert settings['seed'] == 0 and settings['reward_epochs'] > 0 and settings['cocoapi_loc'] is None
    assert not any(str(value).startswith(('/', '..')) for value in settings.values())


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('method', ['greedy', 'beam'])
def test_captions_of_the_test_images_are_a_results_file(name, method):
    results = json.loads(SHIPPED.with_name(f'flickr8k_test_{name}_{method}.json').read_text())
    assert len({result['image_id'] for result in results}) == len(results) == 1000
    assert all(set(result) == {'image_id', 'caption'} and result['caption'].strip() for result in results)
