"""Files from strangers: each is refused with a message that names it, or read safely.

Nothing in it is run. The list of these files is in hostile_files.py.
"""

import importlib
import sys

import pytest
from hostile_files import FILES, MARK, WEIGHTS, changed, small_state
from PIL import Image

import model
from captioning import coco_download
from captioning.annotations import read_annotations
from captioning.captioner import load_captioner
from captioning.convert import convert
from captioning.photos import load_image
from captioning.scoring import read_results
from scripts import run_main
from vocabulary import Vocabulary

# ---- What reads them ----

def read_captions(path):
    photos = path.parent / 'photos'
    photos.mkdir()
    Image.new('RGB', (9, 9)).save(photos / 'a.jpg')
    convert(path, photos, path.parent / 'out')


def read_archive(path):
    zipped = path.parent / 'val2014.zip'
    path.rename(zipped)
    row, = (row for row in coco_download.ARCHIVES if row[0] == 'val')
    archive = coco_download.Archive(path.parent, 'http://127.0.0.1', *row)
    coco_download.unpack(zipped, archive)


READERS = {
    'vocabulary': lambda path: Vocabulary(None, vocab_file=path, vocab_from_file=True),
    'checkpoint': load_captioner,
    'weights': lambda path: model.EncoderCNN(4, 'resnet18', path),
    'annotations': read_annotations,
    'results': lambda path: read_results(path, {'images': [{'id': 1}, {'id': 2}]}),
    'captions': read_captions,
    'archive': read_archive,
    'photo': load_image,
}


@pytest.fixture
def work(tmp_path, monkeypatch, small_weights):
    """The working folder, where the weights of a small encoder are."""
    folder = tmp_path / 'work'
    folder.mkdir()
    (folder / WEIGHTS).hardlink_to(small_weights)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(('kind', 'name', 'words', 'content'), FILES,
                         ids=[f'{kind}: {name}' for kind, name, *_ in FILES])
def test_a_file_from_a_stranger_is_refused_and_not_run(kind, name, words, content, work):
    path = work / 'strange.bin'
    path.write_bytes(content() if callable(content) else content)
    try:
        READERS[kind](path)
    except (ValueError, OSError) as error:
        message = str(error)
        named = 'val2014.zip' if kind == 'archive' else 'strange.bin'
        assert words and words in message, f'it said: {message}'
        assert named in message, f'it names no file: {message}'
    else:
        assert words is None, 'it was taken'
    folder = work.parent
    assert not list(folder.rglob(MARK)), 'it was run'
    assert {entry.name for entry in folder.iterdir()} == {'work'}, 'it wrote outside'


def test_the_checkpoint_that_the_others_are_made_from_is_good(work):
    words = small_state()['vocab']['words']
    (work / 'good.pt').write_bytes(changed('vocab', 'words', value=words)())
    assert load_captioner('good.pt').vocab.word2idx['dog'] == 4


# ---- No traceback reaches a user ----

@pytest.mark.parametrize(('command', 'arguments'), [
    ('sample', ['--image', 'x', '--checkpoint', 'strange']),
    ('sample', ['--image', 'strange', '--beam-size', '1']),
    ('evaluate', ['strange']),
    ('evaluate', ['--results', 'strange', '--annotations', 'strange']),
    ('convert', ['strange', '--images', '.', '--output', 'out']),
    ('checkpoint', ['strange', '--output', 'out.pt']),
    ('package', ['strange']),
    ('resize', ['--image_dir', 'folder', '--output_dir', 'out']),
    ('build_vocab', ['--caption_path', 'strange', '--vocab_path', 'v.pkl']),
    ('train', ['--weights', 'strange', '--cocoapi-loc', '.']),
    ('features', ['--cocoapi-loc', '.']),
    ('serve', ['--checkpoint', 'strange'])])
def test_commands_answer_damaged_files_in_a_line(command, arguments, tmp_path, monkeypatch):
    (tmp_path / 'folder').mkdir()
    for file in ('strange', 'folder/strange.jpg'):
        (tmp_path / file).write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [command, *arguments])
    main = importlib.import_module(f'scripts.{command}').main
    with pytest.raises(SystemExit) as end:    # any other error would be a traceback
        run_main(main)
    message = end.value.code
    if command == 'serve' and 'gradio' in message:
        pytest.skip('needs gradio')
    assert message.splitlines()[-1].startswith(('error: ', '1 of 1 photos'))
    assert 'unforeseen' not in message


def test_an_unforeseen_error_is_a_line_and_debug_shows_it(monkeypatch):
    def fails():
        raise KeyError('place')
    monkeypatch.setattr(sys, 'argv', ['sample'])
    with pytest.raises(SystemExit, match="unforeseen KeyError: 'place'.*--debug"):
        run_main(fails)
    monkeypatch.setattr(sys, 'argv', ['sample', '--debug'])
    with pytest.raises(KeyError):
        run_main(fails)
    assert sys.argv == ['sample']    # the command does not meet the flag
