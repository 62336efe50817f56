"""Conversion of small copies of the files as they are out there, with the faults they have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioning.convert import convert

ROOT = Path(__file__).parent.parent


@pytest.fixture
def images(tmp_path):
    """A folder with photos 0.jpg ... 9.jpg."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in range(10):
        Image.new('RGB', (8, 8), (number * 20, 0, 0)).save(folder / f'{number}.jpg')
    return folder


def source(folder, content, name='captions'):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def layout(output):
    """{split: {file name: captions}} of what was written, after checking that its parts agree."""
    captions = {}
    for split in ('train', 'val', 'test'):
        data = json.loads((output / f'cocoapi/annotations/captions_{split}2014.json').read_text())
        names = {image['id']: image['file_name'] for image in data['images']}
        assert len(names) == len(data['images'])
        assert len({entry['id'] for entry in data['annotations']}) == len(data['annotations'])
        captions[split] = {name: [] for name in names.values()}
        for entry in data['annotations']:
            captions[split][names[entry['image_id']]].append(entry['caption'])
        folder = output / f'cocoapi/images/{split}2014'
        files = [path for path in folder.rglob('*') if path.is_file()]
        assert {path.relative_to(folder).as_posix() for path in files} == set(names.values())
    info = json.loads((output / 'cocoapi/annotations/image_info_test2014.json').read_text())
    assert [image['file_name'] for image in info['images']] == list(captions['test'])
    assert 'annotations' not in info
    return captions


def all_photos(output):
    return {name: captions for photos in layout(output).values()
            for name, captions in photos.items()}


def test_flickr8k_with_its_lists(tmp_path, images, capsys):
    lines = [f'{photo}.jpg#{number}\tPhoto {photo} ,  caption {number} .\n'
             for photo in (*range(9), '9.jpg.1') for number in range(5)]
    tokens = source(tmp_path, ''.join(lines), 'Flickr8k.token.txt')
    source(tmp_path, '3.jpg\n1.jpg\r\n4.jpg\n', 'Flickr_8k.trainImages.txt')
    source(tmp_path, '5.jpg\n', 'Flickr_8k.devImages.txt')
    source(tmp_path, '0.jpg\n2.jpg', 'Flickr_8k.testImages.txt')
    captions = layout(convert(tokens, images, tmp_path / 'out'))
    assert {split: list(photos) for split, photos in captions.items()} == {
        'train': ['1.jpg', '3.jpg', '4.jpg'], 'val': ['5.jpg'], 'test': ['0.jpg', '2.jpg']}
    assert captions['val']['5.jpg'] == [f'Photo 5 , caption {number} .' for number in range(5)]
    printed = capsys.readouterr().out
    assert f'1 photos are not in {images}, left out: 9.jpg.1' in printed
    assert '3 photos have no split or no caption, left out: 6.jpg, 7.jpg, 8.jpg' in printed
    assert 'train: 3 photos, 15 captions' in printed


def test_a_photo_in_two_lists_is_an_error(tmp_path, images):
    tokens = source(tmp_path, '1.jpg#0\ta\n2.jpg#0\tb\n')
    source(tmp_path, '1.jpg\n2.jpg\n', 'Flickr_8k.trainImages.txt')
    source(tmp_path, '2.jpg\n', 'Flickr_8k.testImages.txt')
    with pytest.raises(ValueError, match='trainImages.txt: 2.jpg is in another list'):
        convert(tokens, images, tmp_path / 'out')


def test_flickr30k_of_kaggle_with_its_faulty_line(tmp_path, images):
    results = source(tmp_path, 'image_name| comment_number| comment\r\n'
                               '1.jpg| 0| A dog , "big" | small .\r\n'
                               '1.jpg| 4   A dog runs across the grass .\r\n'
                               '2.jpg| 0| Two men\r\n')
    assert all_photos(convert(results, images, tmp_path / 'out')) == {
        '1.jpg': ['A dog , "big" | small .', 'A dog runs across the grass .'],
        '2.jpg': ['Two men']}


def karpathy(**changes):
    entries = [{'filename': f'{number}.jpg', 'filepath': 'val2014', 'split': split, 'imgid': number,
                'cocoid': 1000 - number,
                'sentences': [{'raw': f' Caption {number}.', 'tokens': ['x']}]}
               for number, split in enumerate(('train', 'restval', 'val', 'test'))]
    entries[2] |= changes
    return json.dumps({'dataset': 'coco', 'images': entries})


@pytest.mark.parametrize('folder', ['photos', '.'])
def test_karpathy_json(tmp_path, images, folder):
    if folder == '.':
        images.rename(tmp_path / 'val2014')    # as --images coco/images, which holds train2014 too
    output = convert(source(tmp_path, karpathy()), tmp_path / folder, tmp_path / 'out')
    assert layout(output) == {'train': {'0.jpg': ['Caption 0.'], '1.jpg': ['Caption 1.']},
                              'val': {'2.jpg': ['Caption 2.']}, 'test': {'3.jpg': ['Caption 3.']}}
    ids = json.loads((output / 'cocoapi/annotations/captions_train2014.json').read_text())['images']
    assert [image['id'] for image in ids] == [1000, 999]


@pytest.mark.parametrize('text', [
    '\ufeffimage,caption\r\n1.jpg,"A dog, ""Rex"", runs"\r\n2.jpg,Two\r\n\r\n2.jpg,\r\n2.jpg\r\n',
    'File_Name;x;Caption\n1.jpg;0;A dog, "Rex", runs\n2.jpg;1;Two\n2.jpg;2;  \n2.jpg;3\n',
    'comment\tfilename\n"A dog,\n ""Rex"", runs"\t1.jpg\nTwo\t2.jpg\n\t2.jpg\n \t2.jpg\n'])
def test_csv(tmp_path, images, text, capsys):
    captions = all_photos(convert(source(tmp_path, text), images, tmp_path / 'out'))
    assert captions == {'1.jpg': ['A dog, "Rex", runs'], '2.jpg': ['Two']}
    assert '2 entries without a caption, left out' in capsys.readouterr().out


def test_csv_with_splits_and_a_test_photo_without_caption(tmp_path, images):
    text = ('image,caption,split\n1.jpg,One,train\n1.jpg,Again,Train\n2.jpg,Two,validation\n'
            '3.jpg,,test\n4.jpg,,train\n')
    assert layout(convert(source(tmp_path, text), images, tmp_path / 'out')) == {
        'train': {'1.jpg': ['One', 'Again']}, 'val': {'2.jpg': ['Two']}, 'test': {'3.jpg': []}}


@pytest.mark.parametrize('folder', ['..', '../photos/..', 'x/../..', 'ABSOLUTE'])
def test_a_folder_in_json_does_not_lead_outside(tmp_path, images, folder):
    source(tmp_path, 'secret', 'secret.jpg')
    folder = str(tmp_path) if folder == 'ABSOLUTE' else folder
    path = source(tmp_path, karpathy(filename='secret.jpg', filepath=folder))
    output = convert(path, images, tmp_path / 'out')
    assert 'secret.jpg' not in all_photos(output)


def captions_of(numbers):
    lines = [f'{number}.jpg,caption {word}\n' for word in 'ab' for number in numbers]
    return 'image,caption\n' + ''.join(lines)


def test_photos_are_dealt_out_whole_and_the_same_way_every_time(tmp_path, images):
    straight, backwards = (source(tmp_path, captions_of(numbers), f'{numbers}.csv')
                           for numbers in (range(10), range(9, -1, -1)))
    sizes = {'val_images': 3, 'test_images': 2}
    first, second = (layout(convert(path, images, tmp_path / path.name[:-4], **sizes))
                     for path in (straight, backwards))
    assert first == second
    assert [len(first[split]) for split in ('train', 'val', 'test')] == [5, 3, 2]
    assert len(all_photos(tmp_path / 'range(0, 10)')) == 10
    assert all(len(captions) == 2 for photos in first.values() for captions in photos.values())
    other = layout(convert(straight, images, tmp_path / 'seed 1', **sizes, seed=1))
    assert any(other[split].keys() != first[split].keys() for split in ('val', 'test'))
    default = layout(convert(straight, images, tmp_path / 'tenths'))
    assert [len(default[split]) for split in ('train', 'val', 'test')] == [8, 1, 1]


def test_photos_without_captions_take_no_place_in_a_split(tmp_path, images):
    text = captions_of(range(4)) + ''.join(f'{number}.jpg,\n' for number in range(4, 10))
    output = convert(source(tmp_path, text), images, tmp_path / 'out', val_images=2, test_images=1)
    captions = layout(output)
    assert [len(captions[split]) for split in ('train', 'val', 'test')] == [1, 2, 1]


def test_the_same_input_gives_the_same_bytes(tmp_path, images):
    path = source(tmp_path, captions_of(range(10)))
    first, second = (convert(path, images, tmp_path / name) for name in ('one', 'two'))
    files = sorted(file.relative_to(first) for file in first.rglob('*') if file.is_file())
    assert len(files) == 14
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_photos_are_linked_or_copied(tmp_path, images, monkeypatch):
    path = source(tmp_path, 'image,caption,split\n1.jpg,One,train\n')

    def kind(output, **options):
        converted = convert(path, images, tmp_path / output, **options)
        photo = converted / 'cocoapi/images/train2014/1.jpg'
        assert photo.read_bytes() == (images / '1.jpg').read_bytes()
        if photo.is_symlink():
            return 'link'
        return 'same' if photo.samefile(images / '1.jpg') else 'copy'

    def refused(*args):
        raise OSError('another device')
    assert kind('a') == 'same' and kind('b', copy=True) == 'copy'
    monkeypatch.setattr(os, 'link', refused)
    monkeypatch.chdir(tmp_path)
    images = Path('photos')    # a symbolic link must not depend on the folder it was made in
    assert kind('c') == 'link'
    monkeypatch.setattr(os, 'symlink', refused)
    assert kind('d') == 'copy'


def test_names_with_folders_stay_apart_and_names_that_point_outside_do_not_get_there(tmp_path,
                                                                                     images):
    for folder in ('a', 'b'):
        (images / folder).mkdir()
        shutil.copy(images / '1.jpg', images / folder / '1.jpg')
    source(tmp_path, 'secret', 'secret.jpg')
    text = ('image,caption,split\na/1.jpg,One,train\nb\\1.jpg,Two,train\n'
            '../secret.jpg,Three,train\n..,Four,train\n')
    with pytest.raises(ValueError, match="line 5: file name ''"):
        convert(source(tmp_path, text), images, tmp_path / 'out')
    text = text.replace('..,Four', f'{tmp_path}/secret.jpg,Four')
    text = text.replace('../secret', 'x/../../secret')
    text += '/elsewhere/2.jpg,Five,train\nC:\\photos\\3.jpg,Six,train\n'
    captions = layout(convert(source(tmp_path, text), images, tmp_path / 'out'))['train']
    assert captions == {'a/1.jpg': ['One'], 'b/1.jpg': ['Two'],
                        '2.jpg': ['Five'], '3.jpg': ['Six']}


@pytest.mark.parametrize('content, message', [
    ('', r'line 1: .* begins no format'),
    ('1.jpg,A dog\n', r"line 1: '1.jpg,A dog' begins no format"),
    ('image,caption\n1.jpg,A dog, big\n',
     r'line 2: more fields than the header has. A caption with commas'),
    ('image,caption\n1.jpg,"A" dog\n', r'line 2: .*quotes'),
    ('image,caption\n1.jpg,"A dog\n2.jpg,b\n', r'line 2: .*quotes'),
    ('caption,image\nA,1.jpg\nB\n', r"line 3: file name ''"),
    ('image,caption,split\n1.jpg,A\n', r"line 2: .*split ''; known"),
    ('{"images": ' + '[' * 100_000, r'RecursionError'),
    ('image,caption\n1.jpg,A\n,B\n', r"line 3: file name ''"),
    ('image,caption,split\n1.jpg,A,train\n2.jpg,A,trian\n',
     r"line 3: .*split 'trian'; known: train"),
    ('image,caption,split\n1.jpg,A,train\n1.jpg,A,test\n',
     r'line 3: 1.jpg has split test .* above it had train'),
    (b'image,caption\n1.jpg,caf\xe9\n', r'line 2: not UTF-8'),
    ('1.jpg#0\tA\n\n2.jpg B\n', r"line 3: expected NAME#0<tab>CAPTION, found '2.jpg B'"),
    ('image_name| comment_number| comment\n1.jpg 0 A\n',
     r'line 2: expected NAME\| 0\| CAPTION, found'),
    ('nowhere.jpg#0\tA\n', r'names 1 photos and none of them is in'),
    ('{"images": [', r'captions: no Karpathy-split JSON'),
    ('{"images": [], "annotations": []}', r'names 0 photos'),
    ('{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}', r"images\[0\].*sentences"),
    (karpathy(sentences=None), r'images\[2\]: no Karpathy-split JSON, with filename'),
    (karpathy(split=7), r"images\[2\]: .*split '?7"),
    (karpathy(cocoid='seven'), r'images\[2\]: '),
    (karpathy(cocoid=1000), r'two photos have the same'),
])
def test_clear_messages(tmp_path, images, content, message):
    with pytest.raises(ValueError, match=message):
        convert(source(tmp_path, content), images, tmp_path / 'out')
    assert not (tmp_path / 'out/cocoapi').exists()


def test_sizes_of_the_splits_are_checked(tmp_path, images):
    dealt = source(tmp_path, captions_of(range(4)))
    for sizes in ({'val_images': 4}, {'val_images': -1}, {'val_images': 2, 'test_images': 2}):
        with pytest.raises(ValueError, match='of 4 photos'):
            convert(dealt, images, tmp_path / 'out', **sizes)
    given = source(tmp_path, 'image,caption,split\n1.jpg,A,train\n', 'given.csv')
    with pytest.raises(ValueError, match='has splits: leave out --val-images'):
        convert(given, images, tmp_path / 'out', val_images=1)


def test_files_and_folders_that_are_not_there(tmp_path, images):
    path = source(tmp_path, captions_of(range(4)))
    for wrong in ((tmp_path / 'no', images), (path, tmp_path / 'no'), (images, images)):
        with pytest.raises(FileNotFoundError, match='has to be a file'):
            convert(*wrong, tmp_path / 'out')


def test_nothing_is_overwritten_and_a_killed_run_can_be_repeated(tmp_path, images, monkeypatch):
    path, output = source(tmp_path, captions_of(range(4))), tmp_path / 'out'
    link, calls = os.link, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 3:
            raise SystemExit('killed')
        link(*args)
    monkeypatch.setattr(os, 'link', killed)
    with pytest.raises(SystemExit):
        convert(path, images, output)
    assert not (output / 'cocoapi').exists()
    monkeypatch.setattr(os, 'link', link)
    convert(path, images, output)
    assert len(all_photos(output)) == 4 and [path.name for path in output.iterdir()] == ['cocoapi']
    with pytest.raises(FileExistsError, match='is there already: remove it'):
        convert(path, images, output)


def test_the_command(tmp_path, images):
    path = source(tmp_path, captions_of(range(4)))
    command = [sys.executable, '-m', 'scripts.convert', str(path), '--images', str(images),
               '--output', str(tmp_path / 'out'), '--val-images', '1', '--test-images', '1',
               '--copy', '--seed', '3']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and 'train: 2 photos, 4 captions' in done.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1 and again.stderr.startswith('error: ')
    assert 'Traceback' not in again.stderr
