"""The built-in scenes: the same bytes on any number of processes, true captions, held-out colours.
"""

import json
import subprocess
import sys
from collections import Counter
from itertools import chain
from random import Random

import pytest
from nltk import word_tokenize
from PIL import Image

from captioning.files import ROOT
from captioning.scenes import VERSION, draw_scenes, make_captions, make_scene
from captioning.scenes.catalogue import COLOURS, COUNTS, KINDS, PARTS, PLACES, RELATIONS, SIZES
from captioning.scenes.shapes import shapes

SPLITS = {'train': 40, 'val': 12, 'test': 16}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """A few small scenes, drawn by one process; -> the folder that holds cocoapi/."""
    return draw_scenes(tmp_path_factory.mktemp('scenes') / 'one', **SPLITS, size=64, workers=1)


@pytest.fixture(scope='module')
def many():
    """The default data set without its pictures -> {split: [(scene, its captions), ...]}."""
    sizes = {'train': 2000, 'val': 400, 'test': 400}
    return {split: [captioned(split, index) for index in range(size)]
            for split, size in sizes.items()}


def captioned(split, index):
    scene = make_scene(0, split, index)
    return scene, make_captions(scene, Random(index))


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def read(root, name):
    return json.loads((root / f'cocoapi/annotations/{name}2014.json').read_text())


def words(caption):
    return word_tokenize(caption.lower(), preserve_line=True)


def test_same_bytes_on_any_number_of_processes(drawn, tmp_path):
    assert files(draw_scenes(tmp_path, **SPLITS, size=64, workers=2)) == files(drawn)


def test_same_bytes_of_processes_that_start_empty(drawn, tmp_path):
    """As on Windows and a Mac: they have to import what draws."""
    code = f"""import multiprocessing
from captioning.scenes import draw_scenes
multiprocessing.set_start_method('spawn')
draw_scenes({str(tmp_path)!r}, **{SPLITS}, size=64, workers=1)
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    assert files(tmp_path) == files(drawn)


def test_another_seed_gives_other_pictures(drawn, tmp_path):
    other = files(draw_scenes(tmp_path, 1, 1, 1, seed=1, size=64, workers=1))
    name = next(name for name in other if 'train2014_' in name.name)
    assert other[name] != files(drawn)[name]


def test_files_are_laid_out_as_coco(drawn):
    image_ids, annotation_ids, paths = [], [], []
    for split, count in SPLITS.items():
        content = read(drawn, f'captions_{split}')
        assert {'info', 'licenses', 'images', 'annotations'} <= set(content)
        images, annotations = content['images'], content['annotations']
        assert len(images) == count and len(annotations) == 5 * count
        captions = Counter(annotation['image_id'] for annotation in annotations)
        assert captions == {image['id']: 5 for image in images}
        image_ids += [image['id'] for image in images]
        annotation_ids += [annotation['id'] for annotation in annotations]
        folder = drawn / f'cocoapi/images/{split}2014'
        paths += [folder / image['file_name'] for image in images]
    assert len(set(image_ids)) == len(image_ids) == sum(SPLITS.values())
    assert len(set(annotation_ids)) == len(annotation_ids)
    assert sorted(paths) == sorted((drawn / 'cocoapi/images').rglob('*.jpg'))
    assert [*drawn.iterdir()] == [drawn / 'cocoapi']


def test_image_info_has_no_captions(drawn):
    content, scored = read(drawn, 'image_info_test'), read(drawn, 'captions_test')
    assert 'annotations' not in content and content['images'] == scored['images']
    captions = {annotation['caption'] for annotation in scored['annotations']}
    assert not captions & set(json.dumps(content).split('"'))


def test_captions_describe_the_scene_of_their_image(drawn):
    content = read(drawn, 'captions_train')
    for index, image in enumerate(content['images']):
        assert image['scene'] == make_scene(0, 'train', index)
        nouns = set(image['scene']['objects'][0]['nouns'])
        for annotation in content['annotations']:
            if annotation['image_id'] == image['id']:
                assert nouns & set(words(annotation['caption']))


def test_pictures_are_rgb_and_as_large_as_asked(drawn, tmp_path):
    for root, size in ((drawn, 64), (draw_scenes(tmp_path, 2, 1, 1, workers=1), 256)):
        for path in (root / 'cocoapi/images').rglob('*.jpg'):
            with Image.open(path) as image:
                assert (image.mode, image.size) == ('RGB', (size, size))


def test_what_is_there_is_neither_drawn_again_nor_replaced(drawn):
    before, at = files(drawn), (drawn / 'cocoapi').stat().st_ino
    draw_scenes(drawn, **SPLITS, size=64)
    assert (drawn / 'cocoapi').stat().st_ino == at
    with pytest.raises(ValueError, match='holds other data'):
        draw_scenes(drawn, **SPLITS, size=64, seed=1)
    assert files(drawn) == before


def test_another_data_set_is_left_alone(tmp_path):
    file = tmp_path / 'cocoapi/annotations/captions_test2014.json'
    file.parent.mkdir(parents=True)
    file.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match='holds other data'):
        draw_scenes(tmp_path, **SPLITS)
    assert [*files(tmp_path)] == [file.relative_to(tmp_path)]


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr('captioning.scenes.dataset.process_map', stop)
    with pytest.raises(KeyboardInterrupt):
        draw_scenes(tmp_path / 'scenes', **SPLITS)
    assert not [*(tmp_path / 'scenes').iterdir()]


@pytest.mark.parametrize('wrong', [{'train': 0}, {'test': -1}, {'size': 8}])
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match='cannot draw'):
        draw_scenes(tmp_path, **SPLITS | wrong)
    assert not [*tmp_path.iterdir()]


def test_held_out_colours_are_seen_nowhere_else(many):
    held_out, seen = set(), set()
    for scenes in many.values():
        for scene, _ in scenes:
            main, *others = [(thing['kind'], thing['colour']) for thing in scene['objects']]
            (held_out if scene['held_out'] else seen).add(main)
            seen.update(others)
    assert not held_out & seen
    assert {kind for kind, _ in held_out} == {name for name, kind in KINDS.items() if kind.colours}
    assert {colour for _, colour in held_out} <= {colour for _, colour in seen}
    marked = {split: sum(scene['held_out'] for scene, _ in scenes)
              for split, scenes in many.items()}
    assert marked == {'train': 0, 'val': 0, 'test': 100}


def test_scenes_vary(many):
    assert len(KINDS) >= 24 and len(PLACES) >= 6 and VERSION
    assert [*COUNTS] == [1, 2, 3, 4] and [*SIZES] == ['small', 'medium', 'large']
    scenes = [scene for scene, _ in many['train']]
    main = [scene['objects'][0] for scene in scenes]
    for values, key in ((KINDS, 'kind'), (COLOURS, 'colour'), (COUNTS, 'count'),
                        (RELATIONS, 'relation'), (SIZES, 'size')):
        frequencies = Counter(thing[key] for thing in main)
        assert min(frequencies[value] for value in values) >= 30, (key, frequencies)
    places = Counter(scene['place'] for scene in scenes)
    assert min(places[place] for place in PLACES) >= 100
    for scene in scenes:
        assert len(scene['objects']) == 1 + bool(scene['objects'][0]['relation'])


def test_every_image_has_five_true_captions(many):
    for scene, captions in (pair for scenes in many.values() for pair in scenes):
        main, said = scene['objects'][0], [words(caption) for caption in captions]
        assert len({' '.join(caption).rstrip(' .') for caption in said}) == 5
        assert all(set(caption) & set(main['nouns']) for caption in said)
        assert not main['colour'] or sum(main['colour'] in caption for caption in said) >= 4
        named = set(COLOURS) & {word for caption in said for word in caption}
        assert named == ({main['colour']} - {None})


def test_captions_are_grammatical(many):
    pairs = (pair for scenes in many.values() for pair in scenes)
    for caption in (caption for _, captions in pairs for caption in captions):
        tokens = [word for word in words(caption) if word != '.']
        for word, following in zip(tokens, tokens[1:], strict=False):
            assert word != following and (word != 'a' or following[0] not in 'aeiou'), caption
            assert word != 'an' or following[0] in 'aeiou', caption
            assert word not in ('two', 'three', 'four') or following not in ('is', 'a'), caption
        assert '{' not in caption and '  ' not in caption and '_' not in caption


def test_size_of_the_vocabulary(many):
    counts = Counter()
    for _, captions in many['train']:
        counts.update(word for caption in captions for word in words(caption))
    assert 150 <= sum(count >= 5 for count in counts.values()) <= 300


def test_words_name_what_the_truth_has(drawn, many):
    """By them captions are judged: those of a place, a count, a relation tell it from every other.
    """
    lists = read(drawn, 'captions_val')['info']['words']
    assert set(lists) == {'place', 'relation', 'count', 'colour'}
    for table in (lists[name] for name in ('place', 'relation', 'count')):
        every = [word for listed in table.values() for word in set(listed)]
        assert len(every) == len(set(every))
    for scene, captions in many['val']:
        main, *others = scene['objects']
        for said in (' '.join(words(caption)) for caption in captions):
            places = named_in(said, lists['place'])
            assert places <= {scene['place']}
            assert str(main['count']) in named_in(said, lists['count'])
            if others:
                phrases = lists['relation'][main['relation']]
                assert any(f' {phrase} a' in said for phrase in phrases)


def named_in(said, table):
    """Which entries of {name: its words} a caption names."""
    tokens = set(said.split())
    return {name for name, listed in table.items() if set(listed) & tokens}


def test_drawings_stay_on_their_grid():
    for kind in KINDS.values():
        points = [point for shape in shapes(kind.drawing) for point in shape.points]
        assert min(min(point) for point in points) > -25
        assert max(max(point) for point in points) < 125


def test_each_line_of_a_drawing_is_a_shape_or_several():
    oval, = shapes(('oval main 50,50 20,10',))
    repeated = shapes(('oval main 50,50 20,10; again 5 9',))
    for shape, shift in zip(repeated, (0, 5, 9), strict=True):
        assert shape == ('main', 0, [(x + shift, y) for x, y in oval.points])
    left, right = shapes(('blob dark 10,0 20,30 5,40; mirrored',))
    assert right.points == [(100 - x, y) for x, y in left.points]
    drawing = PARTS['umbrella']
    for reduced, shape in zip(shapes(('part umbrella 50 70,50',)), shapes(drawing), strict=True):
        assert (reduced.paint, reduced.width) == (shape.paint, shape.width / 2)
        expected = [(45 + x / 2, 25 + y / 2) for x, y in shape.points]
        assert [*chain(*reduced.points)] == pytest.approx([*chain(*expected)])


@pytest.mark.parametrize('line', [
    'egg main 50,50 20,10', 'oval main 50,50', 'box main 1,2 3', 'line main 50,50 60,60',
    'part nothing 50 50,50', 'oval main 50,50 20,10; twice', 'oval main 50,50 20,10; again left'])
def test_a_wrong_line_of_a_drawing_is_quoted(line):
    with pytest.raises(ValueError, match=f"'{line}' cannot be drawn"):
        shapes((line,))
