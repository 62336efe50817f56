"""Files from strangers: each is refused with a message that names it, or read safely; nothing in it is run.

The table is FILES: (name, what reads it, what the message says, bytes). A row without words may be read or refused.
"""

import io
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
import zlib

import pytest
import torch
from PIL import Image, PngImagePlugin

import model
from data_loader import ROOT, load_image
from scripts import convert, download, run_main
from scripts.annotations import read_annotations
from scripts.checkpoint import load_captioner, model_state
from scripts.evaluate import read_results
from scripts.features import weights_hash
from vocabulary import Vocabulary

MARK = 'ran.txt'    # which a file that is run would leave in the working folder


class Runs:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function=os.system, *arguments):
        self.call = function, arguments or (f'touch {MARK}',)

    def __reduce__(self):
        return self.call


# ---- What reads them ----

def vocabulary(path):
    Vocabulary(None, vocab_file=path, vocab_from_file=True)


def annotations(path):
    read_annotations(path)


def results(path):
    read_results(path, {'images': [{'id': 1}, {'id': 2}]})


def captions(path):
    (path.parent / 'photos').mkdir()
    Image.new('RGB', (9, 9)).save(path.parent / 'photos' / 'a.jpg')
    convert.convert(path, path.parent / 'photos', path.parent / 'out')


def archive(path):
    os.rename(path, path.parent / 'val2014.zip')
    row = next(row for row in download.ARCHIVES if row[0] == 'val')
    download.unpack(path.parent / 'val2014.zip', download.Archive(path.parent, 'http://127.0.0.1', *row))


def weights(path):
    model.EncoderCNN(4, 'resnet18', path)


checkpoint, photo = load_captioner, load_image


# ---- Bytes ----

def of_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def of_photo(form='PNG', size=(40, 30), mode='RGB', **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **options)
    return buffer.getvalue()


def of_zip(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', **options) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def of_torch_zip(data):
    """What torch.save writes, with the pickle `data` in it."""
    return of_zip([('archive/data.pkl', data), ('archive/version', '3\n'), ('archive/byteorder', 'little')])


def inflated():
    """A checkpoint whose tensor is packed: 1 GB of zeros in 1 MB."""
    whole = of_torch({'encoder': 0, 'decoder': torch.zeros(7), 'vocab': 0, 'transform': 0})
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        members = [(name, bytes(2 ** 28) if name.endswith('data/0') else file.read(name)) for name in file.namelist()]
    return of_zip(members, compression=zipfile.ZIP_DEFLATED)


def stated():
    """The state of a small captioner, to be changed."""
    torch.manual_seed(0)
    words = ['<start>', '<end>', '<unk>', 'a', 'dog']
    sizes = {'embed_size': 8, 'backbone': 'resnet18', 'weights': SMALL[0]}, {
        'embed_size': 8, 'hidden_size': 8, 'vocab_size': len(words)}
    encoder, decoder = model.EncoderCNN(**sizes[0]), model.DecoderRNN(**sizes[1])
    return model_state(encoder, decoder, words_of(words), *sizes, weights_hash(encoder.backbone))


def changed(*keys, value):
    """The bytes of a checkpoint in which the value at `keys` is another."""
    def build():
        state = stated()
        at = state
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return of_torch(state)
    return build


def flipped():
    data = bytearray(of_torch(stated()))
    data[data.index(b'decoder') + len(data) // 2] ^= 16
    return bytes(data)


def with_text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text('comment', 'x' * 80_000_000, zip=True)
    return of_photo(pnginfo=info)


def headed(width, height):
    """A PNG that says it is that large, and ends there."""
    header = struct.pack('>IIBBBBB', width, height, 8, 6, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + b'IHDR' + header + struct.pack(
        '>I', zlib.crc32(b'IHDR' + header))


words_of = Vocabulary.from_words
SMALL = []    # path of the weights of a small encoder
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran.txt) (w) file closefile\nshowpage\n'
TOUCH = b'touch ' + MARK.encode()
PLAIN = {'word2idx': {'<start>': 0, '<end>': 1, '<unk>': 2}}
COCO_LINK = zipfile.ZipInfo('val2014/COCO_val2014_000000000001.jpg')
COCO_LINK.external_attr = 0xA1FF << 16


def of_class(state, module='vocabulary', name='Vocabulary', protocol=3):
    """Pickle of an instance of module.name with these attributes, whatever they are."""
    bare = type(name, (), {'__module__': module})
    was, there = sys.modules.get(module), types.ModuleType(module)
    setattr(there, name, bare)
    sys.modules[module] = there
    try:
        one = bare()
        one.__dict__.update(state)
        return pickle.dumps(one, protocol)
    finally:
        if was is not None:
            sys.modules[module] = was
        else:
            del sys.modules[module]


def endless():
    """word2idx is a class whose iterator never ends."""
    name = b'cvocabulary\nVocabulary\n'
    inner = name + b'(N}(V__next__\n' + name + b'utb'
    outer = name + b'(N}(V__iter__\n' + inner + b'utb'
    return b'\x80\x02' + name + b')\x81}(Vword2idx\n' + outer + b')\x81ub.'


FILES = [
    ('vocabulary: empty', vocabulary, 'not a vocabulary', b''),
    ('vocabulary: text', vocabulary, 'not a vocabulary', b'a dog'),
    ('vocabulary: cut short', vocabulary, 'not a vocabulary', lambda: of_class(PLAIN)[:-9]),
    ('vocabulary: calls os.system', vocabulary, 'not a vocabulary', lambda: pickle.dumps(Runs())),
    ('vocabulary: calls it in protocol 0', vocabulary, 'not a vocabulary', lambda: pickle.dumps(Runs(), 0)),
    ('vocabulary: calls eval', vocabulary, 'not a vocabulary',
     lambda: pickle.dumps(Runs(eval, f'open({MARK!r}, "w")'), 2)),
    ('vocabulary: INST of os.system', vocabulary, 'not a vocabulary',
     b"(S'" + TOUCH + b"'\niposix\nsystem\n."),
    ('vocabulary: OBJ of os.system', vocabulary, 'not a vocabulary',
     b"(cposix\nsystem\nS'" + TOUCH + b"'\no."),
    ('vocabulary: dotted name', vocabulary, 'not a vocabulary',
     b'\x80\x04\x8c\x0avocabulary\x8c\x09os.system\x93\x8c' + bytes([len(TOUCH)]) + TOUCH + b'\x85R.'),
    ('vocabulary: attribute of its class', vocabulary, 'not a vocabulary',
     b'\x80\x04\x8c\x0avocabulary\x8c\x13Vocabulary.__init__\x93.'),
    ('vocabulary: persistent id', vocabulary, 'not a vocabulary', b'Pmine\n.'),
    ('vocabulary: extension registry', vocabulary, 'not a vocabulary', b'\x80\x02\x82\x01.'),
    ('vocabulary: doubled a thousand times', vocabulary, 'not a vocabulary',
     b'(lp0\n' + b'(h\x00h\x00lq\x00' * 1000 + b'.'),
    ('vocabulary: length of 2 ** 62', vocabulary, 'not a vocabulary',
     b'\x80\x04\x8d' + struct.pack('<Q', 2 ** 62) + b'.'),
    ('vocabulary: place 2 ** 26 of the memo', vocabulary, 'LONG_BINPUT', b'Nr\xff\xff\xff\x03.'),
    ('vocabulary: tuples of tuples as a key', vocabulary, 'TUPLE2',
     b'\x80\x02N' + b'q\x00h\x00\x86' * 40 + b'}h\x00K\x00s.'),
    ('vocabulary: the same of plain tuples', vocabulary, 'TUPLE',
     b'\x80\x02N' + b'q\x00(h\x00h\x00t' * 40 + b'}h\x00K\x00s.'),
    ('vocabulary: words that never end', vocabulary, 'TUPLE', endless()),
    ('vocabulary: an empty list for a special word', vocabulary, 'start_word is no text',
     b'\x80\x02cvocabulary\nVocabulary\n)\x81}(Vword2idx\n}(V<start>\nK\x00V<end>\nK\x01V<unk>\nK\x02uV'
     b'start_word\n}ub.'),
    ('vocabulary: ids with gaps', vocabulary, 'does not map words to 0, 1, 2',
     lambda: of_class({'word2idx': {'<start>': 0, '<end>': 5}})),
    ('vocabulary: words that are numbers', vocabulary, 'does not map words',
     lambda: of_class({'word2idx': {1: 0, 2: 1}})),
    ('vocabulary: no special words', vocabulary, "has no word '<start>'", lambda: of_class({'word2idx': {'a': 0}})),
    ('vocabulary: special words that are lists', vocabulary, 'not a vocabulary',
     lambda: of_class({**PLAIN, 'start_word': ['<start>']})),

    ('checkpoint: empty', checkpoint, 'is not a checkpoint', b''),
    ('checkpoint: text', checkpoint, 'is not a checkpoint', b'PK\x03\x04 and no more'),
    ('checkpoint: calls os.system', checkpoint, 'is not a checkpoint', lambda: of_torch(Runs())),
    ('checkpoint: a bare pickle that does', checkpoint, 'is not a checkpoint', lambda: pickle.dumps(Runs())),
    ('checkpoint: calls it in an archive made by hand', checkpoint, 'is not a checkpoint',
     lambda: of_torch_zip(pickle.dumps(Runs(), 2))),
    ('checkpoint: a pickled module', checkpoint, 'is not a checkpoint', lambda: of_torch(torch.nn.Linear(2, 2))),
    ('checkpoint: a state dict', checkpoint, 'no encoder, decoder',
     lambda: of_torch(torch.nn.Linear(2, 2).state_dict())),
    ('checkpoint: cut short', checkpoint, 'is not a checkpoint', lambda: of_torch(stated())[:-500]),
    ('checkpoint: one bit flipped', checkpoint, 'is damaged', flipped),
    ('checkpoint: 1 GB packed into 1 MB', checkpoint, 'is packed', inflated),
    ('checkpoint: says that it is huge', checkpoint, 'sizes',
     changed('decoder', 'sizes', 'hidden_size', value=2 ** 30)),
    ('checkpoint: says that it is as large as memory', checkpoint, 'does not fit',
     changed('decoder', 'sizes', 'hidden_size', value=50_000)),
    ('checkpoint: a huge tensor of one number', checkpoint, 'that hold what they show', changed(
        'decoder', 'state', 'linear.weight', value=torch.zeros(1).expand(2 ** 40))),
    ('checkpoint: an unknown size', checkpoint, 'does not fit', changed('decoder', 'sizes', 'colour', value=3)),
    ('checkpoint: a size that is a text', checkpoint, 'does not fit', changed(
        'decoder', 'sizes', 'hidden_size', value='8')),
    ('checkpoint: more words than the decoder', checkpoint, 'words', changed(
        'vocab', 'words', value=[f'w{i}' for i in range(9)])),
    ('checkpoint: words that are numbers', checkpoint, 'words', changed('vocab', 'words', value=[1, 2, 3, 4, 5])),
    ('checkpoint: huge images', checkpoint, 'transform', changed('transform', 'size', value=10 ** 6)),
    ('checkpoint: a list for the vocabulary', checkpoint, 'is not a checkpoint', changed('vocab', value=[1])),
    ('checkpoint: another backbone', checkpoint, "backbone='system'", changed(
        'encoder', 'sizes', 'backbone', value='system')),

    ('weights: calls os.system', weights, 'no state dict that can be read safely', lambda: of_torch(Runs())),
    ('weights: text', weights, 'no state dict', b'text'),
    ('weights: of another network', weights, 'do not fit', lambda: of_torch(torch.nn.Linear(2, 2).state_dict())),
    ('weights: a list', weights, 'no state dict', lambda: of_torch([1, 2])),

    ('annotations: empty', annotations, 'is not JSON', b''),
    ('annotations: cut short', annotations, 'is not JSON', b'{"images": [{"id": 1,'),
    ('annotations: nested 100,000 deep', annotations, 'is not JSON', b'[' * 100_000),
    ('annotations: a list', annotations, "no 'images' list", b'[]'),
    ('annotations: not UTF-8', annotations, 'is not JSON', b'{"images": "\xff\xfe"}'),
    ('annotations: image ids that are lists', annotations, "'images'",
     b'{"images": [{"id": [], "file_name": "a"}], "annotations": []}'),
    ('annotations: of instances', annotations, 'Is it an instances file?',
     b'{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}'),
    ('annotations: a file name that is a number', annotations, "'images'",
     b'{"images": [{"id": 1, "file_name": 7}], "annotations": []}'),
    ('annotations: a whole number of 5,000 digits', annotations, 'is not JSON', b'{"images": ' + b'9' * 5000 + b'}'),

    ('results: cut short', results, 'is not JSON', b'[{"image_id": 1'),
    ('results: an annotation file', results, 'not a list', b'{"images": []}'),
    ('results: a caption that is a list', results, 'entry 1 of 1', b'[{"image_id": 1, "caption": ["a"]}]'),
    ('results: an id that is a list', results, 'entry 1 of 1', b'[{"image_id": [1], "caption": "a"}]'),
    ('results: an unknown image', results, 'do not list', b'[{"image_id": 9, "caption": "a"}]'),
    ('results: nested 100,000 deep', results, 'is not JSON', b'[' * 100_000),

    ('captions: not UTF-8', captions, 'not UTF-8', b'image,caption\na.jpg,\xff\n'),
    ('captions: no known format', captions, 'begins no format', b'\x00\x01\x02'),
    ('captions: a name that points outside', captions, None, b'image,caption\n../../a.jpg,a dog\na.jpg,one\n'),
    ('captions: a field that never ends', captions, 'line', b'image,caption\na.jpg,"' + b'x' * 200_000),
    ('captions: Karpathy JSON with texts for lists', captions, 'no Karpathy-split JSON',
     b'{"images": [{"filename": 1, "imgid": 0, "sentences": "abc"}]}'),

    ('archive: a member that points outside', archive, 'not a plain file',
     lambda: of_zip([('val2014/../../../' + MARK, b'x')])),
    ('archive: an absolute name', archive, 'not a plain file', lambda: of_zip([('/tmp/' + MARK, b'x')])),
    ('archive: a link', archive, 'not a plain file', lambda: of_zip([(COCO_LINK, '/etc/passwd')])),
    ('archive: text', archive, 'is damaged', b'<html>404</html>'),
    ('archive: too few files', archive, 'files instead of',
     lambda: of_zip([('val2014/COCO_val2014_000000000001.jpg', b'x')])),

    ('photo: empty', photo, 'cannot be read', b''),
    ('photo: text', photo, 'cannot be read', b'this is no photo'),
    ('photo: HTML', photo, 'cannot be read', b'<html>404</html>'),
    ('photo: cut short', photo, 'cannot be read', lambda: of_photo('JPEG', (300, 300))[:900]),
    ('photo: 400 megapixels in 50 kB', photo, 'decompression bomb', lambda: of_photo(size=(20_000, 20_000), mode='1')),
    ('photo: 120 megapixels', photo, 'megapixels', lambda: of_photo(size=(12_000, 10_000), mode='L')),
    ('photo: a header of 2 ** 31 x 2 ** 31', photo, 'cannot be read', headed(2 ** 31 - 1, 2 ** 31 - 1)),
    ('photo: a header alone', photo, 'cannot be read', headed(300, 300)),
    ('photo: 80 MB of comment in 80 kB', photo, 'cannot be read', with_text_bomb),
    ('photo: PostScript, a program', photo, 'cannot be read', POSTSCRIPT),
    ('photo: SVG', photo, 'cannot be read', b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'),
    ('photo: a GIF without a frame', photo, 'cannot be read', b'GIF89a\x05\x00\x05\x00\x00\x00\x00;'),
    ('photo: random behind a JPEG header', photo, 'cannot be read', b'\xff\xd8\xff\xe0' + bytes(range(256)) * 4),
    ('photo: a TIFF of two billion strips', photo, 'cannot be read',
     b'II*\x00\x08\x00\x00\x00\x01\x00\x11\x01\x04\x00\xff\xff\xff\x7f\x08\x00\x00\x00\x00\x00\x00\x00'),
]


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(('name', 'reads', 'words', 'data'), FILES, ids=[row[0] for row in FILES])
def test_a_file_from_a_stranger_is_refused_and_not_run(name, reads, words, data, tmp_path, monkeypatch, small_weights):
    SMALL[:] = [small_weights]
    work = tmp_path / 'work'
    work.mkdir()
    monkeypatch.chdir(work)
    path = work / 'strange.bin'
    path.write_bytes(data() if callable(data) else data)
    try:
        reads(path)
    except (ValueError, OSError) as error:
        assert words and words in str(error), f'it said: {error}'
        assert ('val2014.zip' if reads is archive else 'strange.bin') in str(error), f'it names no file: {error}'
    else:
        assert words is None, 'it was taken'
    assert not list(tmp_path.rglob(MARK)), 'it was run'
    assert {entry.name for entry in tmp_path.iterdir()} == {'work'}, 'it wrote outside'


def test_the_corpus_is_large():
    assert len(FILES) >= 40 and len({row[0] for row in FILES}) == len(FILES)


# ---- No traceback reaches a user ----

@pytest.mark.parametrize(('command', 'arguments'), [
    ('sample', ['--image', 'x', '--checkpoint', 'strange']), ('sample', ['--image', 'strange', '--beam-size', '1']),
    ('evaluate', ['strange']), ('evaluate', ['--results', 'strange', '--annotations', 'strange']),
    ('convert', ['strange', '--images', '.', '--output', 'out']), ('checkpoint', ['strange', '--output', 'out.pt']),
    ('package', ['strange']), ('resize', ['--image_dir', 'folder', '--output_dir', 'out']),
    ('build_vocab', ['--caption_path', 'strange', '--vocab_path', 'v.pkl']),
    ('train', ['--weights', 'strange', '--cocoapi-loc', '.']), ('features', ['--cocoapi-loc', '.']),
    ('serve', ['--checkpoint', 'strange'])])
def test_commands_answer_damaged_files_in_a_line(command, arguments, tmp_path):
    (tmp_path / 'folder').mkdir()
    for file in ('strange', 'folder/strange.jpg'):
        (tmp_path / file).write_bytes(bytes(range(256)))
    done = subprocess.run([sys.executable, '-m', f'scripts.{command}', *arguments], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=100)
    if command == 'serve' and 'gradio' in done.stderr:
        pytest.skip('needs gradio')
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(('error: ', '1 of 1 photos'))


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
