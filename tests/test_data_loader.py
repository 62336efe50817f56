"""The public interface of get_loader, and what it says of wrong arguments and damaged data."""

import hashlib
import json
import os
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import captions_of, make_dataset, write_json
from PIL import Image
from torch.utils.data import SubsetRandomSampler
from torchvision import transforms

from captioning import caption_data, files
from captioning.caption_data import CaptionData, find_folder
from captioning.photos import load_image
from data_loader import get_loader
from vocabulary import tokenize

TRANSFORM = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
DEFAULT_CACHE = files.CACHE    # before a test names another


def train_loader(dataset, **options):
    defaults = {'mode': 'train', 'batch_size': 6, 'vocab_threshold': 1, 'vocab_from_file': False,
                'cocoapi_loc': str(dataset)}
    return get_loader(TRANSFORM, **{**defaults, **options})


def train_photo(dataset):
    return CaptionData(dataset).image_folder('train') / 'train_000.jpg'


def test_train_batches_are_of_one_length_with_start_and_end(dataset):
    loader = train_loader(dataset)
    assert loader.batch_sampler.batch_size == 6
    images, captions = next(iter(loader))
    assert images.shape == (6, 3, 224, 224) and images.dtype == torch.float32
    assert captions.ndim == 2 and captions.shape[0] == 6 and captions.dtype == torch.int64
    assert (captions[:, 0] == 0).all() and (captions[:, -1] == 1).all()
    assert not (captions[:, 1:-1] <= 1).any()


def test_caption_lengths_are_ints_without_start_and_end(dataset):
    lengths = train_loader(dataset).dataset.caption_lengths
    expected = Counter(len(tokenize(c)) for _ in range(12) for c in captions_of('red'))
    assert type(lengths) is list and type(lengths[0]) is int
    assert Counter(lengths) == expected


def test_assigned_sampler_is_served_exactly(dataset):
    loader = train_loader(dataset)
    data = loader.dataset
    for _ in range(10):
        indices = data.get_train_indices()
        assert len(indices) == 6 and len({data.caption_lengths[i] for i in indices}) == 1
        loader.batch_sampler.sampler = SubsetRandomSampler(indices=indices)
        _, captions = next(iter(loader))
        expected = [data.caption_ids(i).tolist() for i in indices]
        assert sorted(captions.tolist()) == sorted(expected)


def test_lengths_are_drawn_by_their_frequency(dataset):
    np.random.seed(0)
    data = train_loader(dataset).dataset
    drawn = Counter(data.caption_lengths[data.get_train_indices()[0]] for _ in range(4000))
    for length, count in Counter(data.caption_lengths).items():
        assert abs(drawn[length] / 4000 - count / len(data)) < 0.03


def test_captions_belong_to_their_image(dataset):
    data = train_loader(dataset).dataset
    for index in range(len(data)):
        image, ids = data[index]
        words = data.vocab.decode(ids).replace('.', ' ').replace(',', ' ').split()
        colour, = {'red', 'green', 'blue', 'yellow', 'white', 'black'} & set(words)
        expected = torch.tensor(Image.new('RGB', (1, 1), colour).getpixel((0, 0))) / 255
        assert torch.allclose(image[:, 112, 112], expected, atol=0.1)


def test_test_mode_gives_original_and_transformed(dataset):
    train_loader(dataset)
    loader = get_loader(TRANSFORM, mode='test', cocoapi_loc=str(dataset))
    original, image = next(iter(loader))
    assert original.shape == (1, 30, 40, 3) and original.dtype == torch.uint8
    assert image.shape == (1, 3, 224, 224) and image.dtype == torch.float32
    colours = {tuple(next(iter(loader))[0][0, 15, 20].tolist()) for _ in range(40)}
    assert len(colours) == 3    # a new image each time


def test_val_mode_serves_each_caption_once_in_file_order_padded_with_end(dataset):
    vocab = train_loader(dataset).dataset.vocab
    loader = get_loader(TRANSFORM, mode='val', batch_size=7, cocoapi_loc=str(dataset))
    annotations = CaptionData(dataset).annotations('val')['annotations']
    rows = [row for images, captions in loader for row in captions.tolist()]
    assert len(rows) == len(annotations) == 20
    for row, entry in zip(rows, annotations, strict=True):
        ids = vocab.encode(entry['caption'])
        assert row[:len(ids)] == ids and set(row[len(ids):]) <= {vocab.end_id}


def test_many_captions_at_once_equal_one_by_one(dataset):
    data = train_loader(dataset).dataset
    indices = np.random.default_rng(0).permutation(len(data))[:17]
    captions, lengths = data.padded_ids(indices)
    for row, length, index in zip(captions, lengths, indices, strict=True):
        assert torch.equal(row[:length], data.caption_ids(index))
        assert (row[length:] == data.vocab.end_id).all()


def test_workers_serve_the_same(dataset):
    loader = train_loader(dataset, num_workers=2)
    indices = loader.dataset.get_train_indices()
    loader.batch_sampler.sampler = SubsetRandomSampler(indices=indices)
    assert next(iter(loader))[1].shape[0] == len(indices)


@pytest.mark.parametrize(('options', 'error', 'words'), [
    ({'mode': 'training'}, ValueError, ["mode='training'", "'train'"]),
    ({'transform': None}, ValueError, ['transform=None', 'function']),
    ({'batch_size': 0}, ValueError, ['batch_size=0']),
    ({'batch_size': 2.5}, ValueError, ['batch_size=2.5']),
    ({'mode': 'test', 'vocab_from_file': True, 'batch_size': 4}, ValueError,
     ['batch_size=4', 'test']),
    ({'mode': 'test', 'batch_size': 1}, ValueError, ['vocab_from_file=False', 'train']),
    ({'vocab_threshold': None}, ValueError, ['vocab_threshold=None', 'such as 5']),
    ({'vocab_from_file': True}, FileNotFoundError, ['vocab.pkl', 'vocab_from_file=False']),
    ({'cocoapi_loc': 'nowhere'}, FileNotFoundError,
     ['nowhere', 'scripts.scenes', 'scripts.download']),
])
def test_wrong_arguments_are_named(dataset, options, error, words):
    options = {'transform': TRANSFORM, 'mode': 'train', 'batch_size': 6, 'vocab_threshold': 1,
               'vocab_from_file': False, 'cocoapi_loc': str(dataset), **options}
    with pytest.raises(error) as caught:
        get_loader(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_vocabulary_file_knows_its_special_words(dataset):
    train_loader(dataset)
    loader = train_loader(dataset, start_word='<go>', vocab_from_file=True)
    assert loader.dataset.vocab.start_word == '<start>'


# ---- Where the data is, and what is computed from it ----

def test_location_is_argument_then_variable_then_here_then_scenes(dataset, monkeypatch):
    assert find_folder()[0] == files.SCENES
    (dataset.parent / 'work' / 'cocoapi' / 'annotations').mkdir(parents=True)
    assert str(find_folder()[0]) == '.'
    monkeypatch.setenv('COCOAPI_LOC', 'from-variable')
    assert str(find_folder()[0]) == 'from-variable'
    assert str(find_folder('given')[0]) == 'given'


def test_what_was_chosen_and_why_is_printed_once(dataset, monkeypatch, capsys):
    monkeypatch.setattr(caption_data, '_announced', set())
    assert caption_data.find_data('given').folder.name == 'given'
    assert caption_data.find_data('given').folder.name == 'given'
    assert capsys.readouterr().out == 'data: given (given)\n'


def test_data_may_lie_on_another_drive(dataset, monkeypatch, capsys):
    def refused(path, start=os.curdir):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")    # as Windows says it

    monkeypatch.setattr(os.path, 'relpath', refused)
    monkeypatch.setattr(caption_data, '_announced', set())
    assert caption_data.find_data(dataset).folder == dataset
    assert capsys.readouterr().out == f'data: {dataset} (given)\n'


def test_folders_of_caches_are_called_as_they_always_were(dataset, isolated_root):
    """NAME-HASH, of the training captions: what runs of before have computed stays valid."""
    data = CaptionData(dataset)
    digits = hashlib.sha256(data.annotation_file('train').read_bytes()).hexdigest()[:8]
    assert data.cache_folder == isolated_root / 'cache' / f'squares-{digits}'
    assert files.ROOT / 'data' / 'cache' == DEFAULT_CACHE


@pytest.mark.parametrize('split', ['val', 'test'])
def test_without_training_captions_the_cache_is_of_the_first_split_there_is(
        tmp_path, isolated_root, split):
    data = CaptionData(make_dataset(tmp_path / 'photos', {split: 2}))
    digits = hashlib.sha256(data.annotation_file(split).read_bytes()).hexdigest()[:8]
    assert data.cache_folder == isolated_root / 'cache' / f'photos-{digits}'


def test_without_any_captions_the_training_captions_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match='captions_train2014.json not found.*COCOAPI_LOC'):
        _ = CaptionData(tmp_path).cache_folder


def test_each_data_set_has_its_own_cache(dataset, tmp_path):
    counts = {'train': 5, 'val': 1, 'test': 1}
    other = make_dataset(tmp_path / 'other' / 'squares', counts)
    assert CaptionData(dataset).cache_folder != CaptionData(other).cache_folder


# ---- Damage: what is done about each kind, and that the message names the file ----

def grey(path):
    Image.new('L', (40, 30), 128).save(path)


def cmyk(path):
    Image.new('CMYK', (40, 30), (0, 255, 255, 0)).save(path, format='JPEG')


def palette(path):
    Image.new('RGB', (40, 30), 'red').convert('P').save(path, format='PNG')


def clear(path):
    Image.new('RGBA', (40, 30), (0, 0, 0, 0)).save(path, format='PNG')


def sixteen_bit(path):
    Image.fromarray(np.full((30, 40), 257 * 128, np.uint16)).save(path, format='PNG')


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6    # to be turned by 90 degrees
    Image.new('RGB', (30, 40), 'red').save(path, format='JPEG', exif=exif)


def missing(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:400])


def empty(path):
    path.write_bytes(b'')


def text(path):
    path.write_text('not a picture')


READABLE = {grey: (128, 128, 128), cmyk: (255, 0, 0), palette: (255, 0, 0), clear: (255, 255, 255),
            sixteen_bit: (128, 128, 128), turned: (255, 0, 0)}


@pytest.mark.parametrize('damage', READABLE)
def test_unusual_images_are_seen_as_a_person_sees_them(dataset, damage):
    path = train_photo(dataset)
    damage(path)
    image = load_image(path)
    assert image.mode == 'RGB' and image.size == (40, 30)
    assert np.abs(np.array(image)[15, 20].astype(int) - READABLE[damage]).max() <= 3


@pytest.mark.parametrize('damage', [missing, truncated, empty, text])
def test_unreadable_images_are_named(dataset, damage):
    path = train_photo(dataset)
    damage(path)
    with pytest.raises(OSError, match='train_000.jpg'):
        load_image(path)
    data = train_loader(dataset).dataset
    with pytest.raises(OSError, match='train_000.jpg'):
        data[0]


def change(**changes):
    def apply(path):
        write_json(path, {**json.loads(path.read_text()), **changes})
    return apply


@pytest.mark.parametrize(('damage', 'error', 'words'), [
    (lambda path: path.unlink(), FileNotFoundError, ['not found', 'COCOAPI_LOC']),
    (lambda path: path.write_text(path.read_text()[:300]), ValueError, ['not JSON', 'Cut short']),
    (lambda path: path.write_bytes(b'\xff\xd8\xff\x00'), ValueError, ['not JSON']),
    (lambda path: path.write_text('[' * 100_000), ValueError, ['not JSON']),
    (lambda path: path.write_text('[]'), ValueError, ["no 'images' list"]),
    (change(annotations=None), ValueError, ["no 'annotations' list"]),
    (change(annotations=[{'image_id': 1, 'bbox': [0, 0, 1, 1]}]), ValueError, ['instances file']),
    (change(images=[{'id': 1}]), ValueError, ['file_name']),
    (change(annotations=[]), ValueError, ['empty']),
    (change(images=[]), ValueError, ['empty']),
    (change(annotations=[{'image_id': 1, 'caption': '  '}]), ValueError, ['empty']),
])
def test_damaged_annotation_files_are_named(dataset, damage, error, words):
    path = CaptionData(dataset).annotation_file('train')
    damage(path)
    with pytest.raises(error) as caught:
        train_loader(dataset)
    message = str(caught.value)
    assert all(word in message for word in ['captions_train2014.json', *words]), message


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
def test_images_without_their_annotation_file_and_the_file_without_its_images(dataset, mode):
    train_loader(dataset)
    data = CaptionData(dataset)
    data.annotation_file(mode).rename(dataset / 'aside.json')
    with pytest.raises(FileNotFoundError, match=f'{data.annotation_file(mode).name} not found'):
        get_loader(TRANSFORM, mode, vocab_from_file=True, cocoapi_loc=str(dataset))
    (dataset / 'aside.json').rename(data.annotation_file(mode))
    data.image_folder(mode).rename(dataset / 'images')
    with pytest.raises(FileNotFoundError, match=f'{mode}2014 not found .*scripts.scenes'):
        get_loader(TRANSFORM, mode, vocab_from_file=True, cocoapi_loc=str(dataset))


def test_captions_without_image_or_words_are_left_out_and_counted(dataset, capsys):
    path = CaptionData(dataset).annotation_file('train')
    content = json.loads(path.read_text())
    content['annotations'] += [{'image_id': 999, 'caption': 'a lost caption'},
                               {'image_id': 1, 'caption': ' '}]
    content['images'].append({'id': 500, 'file_name': 'without_caption.jpg'})
    write_json(path, content)
    data = train_loader(dataset).dataset
    assert len(data) == 60
    told = capsys.readouterr().out
    assert '1 captions of images that it does not list' in told
    assert '1 captions without a word' in told
