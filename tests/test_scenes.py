"""The built-in scenes: the same bytes on any number of processes, held-out colours kept apart, true captions."""

import json
from collections import Counter
from random import Random

import pytest
from nltk import word_tokenize
from PIL import Image

from scripts.scenes import COLOURS, KINDS, PLACES, RELATIONS, VERSION, draw_scenes, make_captions, make_scene, shapes

COUNTS = {'train': 40, 'val': 12, 'test': 16}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """A few small scenes, drawn by one process; -> the folder that holds cocoapi/."""
    return draw_scenes(tmp_path_factory.mktemp('scenes') / 'one', **COUNTS, size=64, workers=1)


@pytest.fixture(scope='module')
def many():
    """The default data set without its pictures -> {split: [(scene, its captions), ...]}."""
    sizes = {'train': 2000, 'val': 400, 'test': 400}
    return {split: [(make_scene(0, split, index), make_captions(make_scene(0, split, index), Random(index)))
                    for index in range(size)] for split, size in sizes.items()}


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def read(root, name):
    return json.loads((root / f'cocoapi/annotations/{name}2014.json').read_text())


def words(caption):
    return word_tokenize(caption.lower(), preserve_line=True)


def test_same_bytes_on_any_number_of_processes(drawn, tmp_path):
    assert files(draw_scenes(tmp_path, **COUNTS, size=64, workers=2)) == files(drawn)


def test_another_seed_gives_other_pictures(drawn, tmp_path):
    other, same = files(draw_scenes(tmp_path, 1, 1, 1, seed=1, size=64, workers=1)), files(drawn)
    name = next(name for name in other if 'train2014_' in name.name)
    assert other[name] != same[name]


def test_files_are_laid_out_as_coco(drawn):
    image_ids, annotation_ids, names = [], [], []
    for split, count in COUNTS.items():
        content = read(drawn, f'captions_{split}')
        assert {'info', 'licenses', 'images', 'annotations'} <= set(content)
        assert len(content['images']) == count and len(content['annotations']) == 5 * count
        assert Counter(a['image_id'] for a in content['annotations']) == {i['id']: 5 for i in content['images']}
        image_ids += [image['id'] for image in content['images']]
        annotation_ids += [annotation['id'] for annotation in content['annotations']]
        names += [drawn / f'cocoapi/images/{split}2014' / image['file_name'] for image in content['images']]
    assert len(set(image_ids)) == len(image_ids) == sum(COUNTS.values())
    assert len(set(annotation_ids)) == len(annotation_ids)
    assert sorted(names) == sorted((drawn / 'cocoapi/images').rglob('*.jpg'))
    assert [*drawn.iterdir()] == [drawn / 'cocoapi']


def test_image_info_has_no_captions(drawn):
    content, scored = read(drawn, 'image_info_test'), read(drawn, 'captions_test')
    assert 'annotations' not in content and content['images'] == scored['images']
    assert not {a['caption'] for a in scored['annotations']} & set(json.dumps(content).split('"'))


def test_captions_describe_the_scene_of_their_image(drawn):
    content = read(drawn, 'captions_train')
    for index, image in enumerate(content['images']):
        assert image['scene'] == make_scene(0, 'train', index)
        for caption in (a['caption'] for a in content['annotations'] if a['image_id'] == image['id']):
            assert set(words(caption)) & set(image['scene']['objects'][0]['nouns'])


def test_pictures_are_rgb_and_as_large_as_asked(drawn, tmp_path):
    for root, size in ((drawn, 64), (draw_scenes(tmp_path, 2, 1, 1, workers=1), 256)):
        for path in (root / 'cocoapi/images').rglob('*.jpg'):
            with Image.open(path) as image:
                assert (image.mode, image.size) == ('RGB', (size, size))


def test_what_is_there_is_neither_drawn_again_nor_replaced(drawn):
    before, at = files(drawn), (drawn / 'cocoapi').stat().st_ino
    draw_scenes(drawn, **COUNTS, size=64)
    assert (drawn / 'cocoapi').stat().st_ino == at
    with pytest.raises(ValueError, match='holds other data'):
        draw_scenes(drawn, **COUNTS, size=64, seed=1)
    assert files(drawn) == before


def test_another_data_set_is_left_alone(tmp_path):
    file = tmp_path / 'cocoapi/annotations/captions_test2014.json'
    file.parent.mkdir(parents=True)
    file.write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match='holds other data'):
        draw_scenes(tmp_path, **COUNTS)
    assert [*files(tmp_path)] == [file.relative_to(tmp_path)]


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt
    monkeypatch.setattr('scripts.scenes.process_map', stop)
    with pytest.raises(KeyboardInterrupt):
        draw_scenes(tmp_path / 'scenes', **COUNTS)
    assert not [*(tmp_path / 'scenes').iterdir()]


@pytest.mark.parametrize('wrong', [{'train': 0}, {'test': -1}, {'size': 8}])
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match='cannot draw'):
        draw_scenes(tmp_path, **COUNTS | wrong)
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
    marked = {split: sum(scene['held_out'] for scene, _ in scenes) for split, scenes in many.items()}
    assert marked == {'train': 0, 'val': 0, 'test': 100}


def test_scenes_vary(many):
    assert len(KINDS) >= 24 and len(PLACES) >= 6 and VERSION
    scenes = [scene for scene, _ in many['train']]
    main = [scene['objects'][0] for scene in scenes]
    for values, of in ((KINDS, 'kind'), (COLOURS, 'colour'), ((1, 2, 3, 4), 'count'), (RELATIONS, 'relation'),
                       (('small', 'medium', 'large'), 'size')):
        found = Counter(thing[of] for thing in main)
        assert min(found[value] for value in values) >= 30, (of, found)
    assert min(Counter(scene['place'] for scene in scenes)[place] for place in PLACES) >= 100
    assert all(len(scene['objects']) == 1 + bool(scene['objects'][0]['relation']) for scene in scenes)


def test_every_image_has_five_true_captions(many):
    for scene, captions in (pair for scenes in many.values() for pair in scenes):
        main, said = scene['objects'][0], [words(caption) for caption in captions]
        assert len({' '.join(caption).rstrip(' .') for caption in said}) == 5
        assert all(set(caption) & set(main['nouns']) for caption in said)
        assert not main['colour'] or sum(main['colour'] in caption for caption in said) >= 4
        named = set(COLOURS) & {word for caption in said for word in caption}
        assert named == ({main['colour']} - {None})


def test_captions_are_grammatical(many):
    for caption in (caption for scenes in many.values() for _, captions in scenes for caption in captions):
        tokens = [word for word in words(caption) if word != '.']
        for word, following in zip(tokens, tokens[1:], strict=False):
            assert word != following and (word != 'a' or following[0] not in 'aeiou'), caption
            assert word != 'an' or following[0] in 'aeiou', caption
            assert word not in ('two', 'three', 'four') or following not in ('is', 'a'), caption
        assert '{' not in caption and '  ' not in caption and '_' not in caption


def test_size_of_the_vocabulary(many):
    counts = Counter(word for _, captions in many['train'] for caption in captions for word in words(caption))
    assert 150 <= sum(count >= 5 for count in counts.values()) <= 300


def test_words_name_what_the_truth_has(drawn, many):
    """What scripts/evaluate.py looks up: the words of a place, a count and a relation tell it from every other."""
    lists = read(drawn, 'captions_val')['info']['words']
    assert set(lists) == {'place', 'relation', 'count', 'colour'}
    for table in (lists[name] for name in ('place', 'relation', 'count')):
        every = [word for own in table.values() for word in set(own)]
        assert len(every) == len(set(every))
    for scene, captions in many['val']:
        main, *others = scene['objects']
        for said in (' '.join(words(caption)) for caption in captions):
            tokens = set(said.split())
            assert {place for place, own in lists['place'].items() if set(own) & tokens} <= {scene['place']}
            assert str(main['count']) in [count for count, own in lists['count'].items() if set(own) & tokens]
            if others:
                assert any(f' {phrase} a' in said for phrase in lists['relation'][main['relation']])


def test_drawings_stay_on_their_grid():
    for kind in KINDS.values():
        points = [point for _, _, points in shapes(kind.drawing) for point in points]
        assert min(point.real for point in points) > -25 and max(point.real for point in points) < 125
        assert min(point.imag for point in points) > -25 and max(point.imag for point in points) < 125
