"""The public interface of get_loader, and what it says of wrong arguments and damaged data."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import captions_of, make_dataset, write_json
from PIL import Image
from torch.utils.data import SubsetRandomSampler
from torchvision import transforms

import data_loader
from data_loader import annotation_file, get_loader, image_folder, load_image, resolve_cocoapi_loc
from vocabulary import tokenize

TRANSFORM = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])


def train_loader(dataset, **options):
    return get_loader(TRANSFORM, **{'mode': 'train', 'batch_size': 6, 'vocab_threshold': 1, 'vocab_from_file': False,
                                    'cocoapi_loc': str(dataset), **options})


def test_train_batches_are_of_one_length_with_start_and_end(dataset):
    loader = train_loader(dataset)
    assert loader.batch_sampler.batch_size == 6
    images, captions = next(iter(loader))
    assert images.shape == (6, 3, 224, 224) and images.dtype == torch.float32
    assert captions.ndim == 2 and captions.shape[0] == 6 and captions.dtype == torch.int64
    assert (captions[:, 0] == 0).all() and (captions[:, -1] == 1).all() and not (captions[:, 1:-1] <= 1).any()


def test_caption_lengths_are_ints_without_start_and_end(dataset):
    loader = train_loader(dataset)
    expected = Counter(len(tokenize(c)) for i in range(12) for c in captions_of('red'))
    assert type(loader.dataset.caption_lengths) is list and type(loader.dataset.caption_lengths[0]) is int
    assert Counter(loader.dataset.caption_lengths) == expected


def test_assigned_sampler_is_served_exactly(dataset):
    loader = train_loader(dataset)
    for _ in range(10):
        indices = loader.dataset.get_train_indices()
        assert len(indices) == 6 and len({loader.dataset.caption_lengths[i] for i in indices}) == 1
        loader.batch_sampler.sampler = SubsetRandomSampler(indices=indices)
        _, captions = next(iter(loader))
        expected = [loader.dataset.caption_ids(i).tolist() for i in indices]
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
    assert len({tuple(next(iter(loader))[0][0, 15, 20].tolist()) for _ in range(40)}) == 3    # a new image each time


def test_val_mode_serves_each_caption_once_in_file_order_padded_with_end(dataset):
    vocab = train_loader(dataset).dataset.vocab
    loader = get_loader(TRANSFORM, mode='val', batch_size=7, cocoapi_loc=str(dataset))
    annotations = json.loads(annotation_file(dataset, 'val').read_text())['annotations']
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
        assert torch.equal(row[:length], data.caption_ids(index)) and (row[length:] == data.vocab.end_id).all()


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
    ({'mode': 'test', 'vocab_from_file': True, 'batch_size': 4}, ValueError, ['batch_size=4', 'test']),
    ({'mode': 'test', 'batch_size': 1}, ValueError, ['vocab_from_file=False', 'train']),
    ({'vocab_threshold': None}, ValueError, ['vocab_threshold=None', 'such as 5']),
    ({'vocab_from_file': True}, FileNotFoundError, ['vocab.pkl', 'vocab_from_file=False']),
    ({'cocoapi_loc': 'nowhere'}, FileNotFoundError, ['nowhere', 'scripts.scenes', 'scripts.download']),
    ({'start_word': '<go>', 'vocab_from_file': True, 'built': True}, None, []),    # the file knows its own words
])
def test_wrong_arguments_are_named(dataset, options, error, words):
    if options.pop('built', False):
        train_loader(dataset)
    options = {'transform': TRANSFORM, 'mode': 'train', 'batch_size': 6, 'vocab_threshold': 1, 'vocab_from_file': False,
               'cocoapi_loc': str(dataset), **options}
    if error is None:
        assert get_loader(**options).dataset.vocab.start_word == '<start>'
        return
    with pytest.raises(error) as caught:
        get_loader(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_location_is_argument_then_variable_then_here_then_scenes(dataset, monkeypatch, capsys):
    monkeypatch.setattr(data_loader, '_announced', set())
    assert resolve_cocoapi_loc() == data_loader.SCENES
    (dataset.parent / 'work' / 'cocoapi' / 'annotations').mkdir(parents=True)
    assert str(resolve_cocoapi_loc()) == '.'
    monkeypatch.setenv('COCOAPI_LOC', 'from-variable')
    assert str(resolve_cocoapi_loc()) == 'from-variable'
    assert str(resolve_cocoapi_loc('given')) == 'given'
    resolve_cocoapi_loc('given')
    assert capsys.readouterr().out.count('given') == 2    # name and reason, printed once


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
    path = image_folder(dataset, 'train') / 'train_000.jpg'
    damage(path)
    image = load_image(path)
    assert image.mode == 'RGB' and image.size == (40, 30)
    assert np.abs(np.array(image)[15, 20].astype(int) - READABLE[damage]).max() <= 3


@pytest.mark.parametrize('damage', [missing, truncated, empty, text])
def test_unreadable_images_are_named(dataset, damage):
    path = image_folder(dataset, 'train') / 'train_000.jpg'
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
    path = annotation_file(dataset, 'train')
    damage(path)
    with pytest.raises(error) as caught:
        train_loader(dataset)
    assert all(word in str(caught.value) for word in ['captions_train2014.json', *words]), str(caught.value)


def test_captions_without_image_or_words_are_left_out_and_counted(dataset, capsys):
    path = annotation_file(dataset, 'train')
    content = json.loads(path.read_text())
    content['annotations'] += [{'image_id': 999, 'caption': 'a lost caption'}, {'image_id': 1, 'caption': ' '}]
    content['images'].append({'id': 500, 'file_name': 'without_caption.jpg'})
    write_json(path, content)
    data = train_loader(dataset).dataset
    assert len(data) == 60
    told = capsys.readouterr().out
    assert '1 captions of images that it does not list' in told and '1 captions without a word' in told


def test_each_data_set_has_its_own_cache(dataset, tmp_path):
    other = make_dataset(tmp_path / 'other' / 'squares', {'train': 5, 'val': 1, 'test': 1})
    assert data_loader.dataset_cache(dataset) != data_loader.dataset_cache(other)
