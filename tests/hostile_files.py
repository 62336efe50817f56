"""The list of hostile files: FILES, which test_hostile.py gives to what reads them.

A row is (kind, name, words, content): what it pretends to be, what is wrong with it, what the
message that refuses it says, and its bytes, or a function that makes them. A row without words may
be refused or read safely. Such a file would run code, is damaged, or lies about its size.
"""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
import zlib

import torch
from PIL import Image, PngImagePlugin

import model
from captioning.checkpoint import model_state, weights_hash
from vocabulary import Vocabulary

MARK = 'ran.txt'             # which a file that is run would leave in the working folder
WEIGHTS = 'resnet18.pt'      # of the encoder, in the working folder
WORDS = ['<start>', '<end>', '<unk>', 'a', 'dog']


# ---- Code that would be run ----

class Runs:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function=os.system, *arguments):
        self.call = function, arguments or (f'touch {MARK}',)

    def __reduce__(self):
        return self.call


TOUCH = b'touch ' + MARK.encode()
POSTSCRIPT = (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
              b'(ran.txt) (w) file closefile\nshowpage\n')


# ---- Vocabularies ----

def of_class(state, module='vocabulary', name='Vocabulary', protocol=3):
    """Pickle of an instance of module.name with these attributes, whatever they are."""
    bare = type(name, (), {'__module__': module})
    before, there = sys.modules.get(module), types.ModuleType(module)
    setattr(there, name, bare)
    sys.modules[module] = there
    try:
        one = bare()
        one.__dict__.update(state)
        return pickle.dumps(one, protocol)
    finally:
        if before is not None:
            sys.modules[module] = before
        else:
            del sys.modules[module]


def endless():
    """word2idx is a class whose iterator never ends."""
    name = b'cvocabulary\nVocabulary\n'
    inner = name + b'(N}(V__next__\n' + name + b'utb'
    outer = name + b'(N}(V__iter__\n' + inner + b'utb'
    return b'\x80\x02' + name + b')\x81}(Vword2idx\n' + outer + b')\x81ub.'


PLAIN = {'word2idx': {'<start>': 0, '<end>': 1, '<unk>': 2}}
LIST_FOR_A_WORD = (b'\x80\x02cvocabulary\nVocabulary\n)\x81}(Vword2idx\n'
                   b'}(V<start>\nK\x00V<end>\nK\x01V<unk>\nK\x02uVstart_word\n}ub.')
DOTTED_NAME = (b'\x80\x04\x8c\x0avocabulary\x8c\x09os.system\x93\x8c' + bytes([len(TOUCH)])
               + TOUCH + b'\x85R.')
VOCABULARIES = [
    ('empty', 'not a vocabulary', b''),
    ('text', 'not a vocabulary', b'a dog'),
    ('cut short', 'not a vocabulary', lambda: of_class(PLAIN)[:-9]),
    ('calls os.system', 'not a vocabulary', lambda: pickle.dumps(Runs())),
    ('calls it in protocol 0', 'not a vocabulary', lambda: pickle.dumps(Runs(), 0)),
    ('calls eval', 'not a vocabulary',
     lambda: pickle.dumps(Runs(eval, f'open({MARK!r}, "w")'), 2)),
    ('INST of os.system', 'not a vocabulary', b"(S'" + TOUCH + b"'\niposix\nsystem\n."),
    ('OBJ of os.system', 'not a vocabulary', b"(cposix\nsystem\nS'" + TOUCH + b"'\no."),
    ('dotted name', 'not a vocabulary', DOTTED_NAME),
    ('attribute of its class', 'not a vocabulary',
     b'\x80\x04\x8c\x0avocabulary\x8c\x13Vocabulary.__init__\x93.'),
    ('persistent id', 'not a vocabulary', b'Pmine\n.'),
    ('extension registry', 'not a vocabulary', b'\x80\x02\x82\x01.'),
    ('doubled a thousand times', 'not a vocabulary',
     b'(lp0\n' + b'(h\x00h\x00lq\x00' * 1000 + b'.'),
    ('length of 2 ** 62', 'not a vocabulary', b'\x80\x04\x8d' + struct.pack('<Q', 2 ** 62) + b'.'),
    ('place 2 ** 26 of the memo', 'LONG_BINPUT', b'Nr\xff\xff\xff\x03.'),
    ('tuples of tuples as a key', 'TUPLE2',
     b'\x80\x02N' + b'q\x00h\x00\x86' * 40 + b'}h\x00K\x00s.'),
    ('the same of plain tuples', 'TUPLE',
     b'\x80\x02N' + b'q\x00(h\x00h\x00t' * 40 + b'}h\x00K\x00s.'),
    ('words that never end', 'TUPLE', endless()),
    ('an empty list for a special word', 'start_word is no text', LIST_FOR_A_WORD),
    ('ids with gaps', 'does not map words to 0, 1, 2',
     lambda: of_class({'word2idx': {'<start>': 0, '<end>': 5}})),
    ('words that are numbers', 'does not map words',
     lambda: of_class({'word2idx': {1: 0, 2: 1}})),
    ('no special words', "has no word '<start>'", lambda: of_class({'word2idx': {'a': 0}})),
    ('special words that are lists', 'not a vocabulary',
     lambda: of_class({**PLAIN, 'start_word': ['<start>']})),
]


# ---- Archives ----

def of_zip(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', **options) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


PHOTO = 'val2014/COCO_val2014_000000000001.jpg'
LINK = zipfile.ZipInfo(PHOTO)
LINK.external_attr = 0xA1FF << 16
ARCHIVES = [
    ('a member that points outside', 'not a plain file',
     lambda: of_zip([('val2014/../../../' + MARK, b'x')])),
    ('an absolute name', 'not a plain file', lambda: of_zip([('/tmp/' + MARK, b'x')])),
    ('a link', 'not a plain file', lambda: of_zip([(LINK, '/etc/passwd')])),
    ('text', 'is damaged', b'<html>404</html>'),
    ('too few files', 'files instead of', lambda: of_zip([(PHOTO, b'x')])),
]


# ---- Checkpoints and weights ----

def of_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def of_torch_zip(data):
    """What torch.save writes, with the pickle `data` in it."""
    return of_zip([('archive/data.pkl', data), ('archive/version', '3\n'),
                   ('archive/byteorder', 'little')])


def inflated():
    """A checkpoint whose tensor is packed: 1 GB of zeros in 1 MB."""
    plain = of_torch({'encoder': 0, 'decoder': torch.zeros(7), 'vocab': 0, 'transform': 0})
    with zipfile.ZipFile(io.BytesIO(plain)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    tensor, = (name for name in members if name.endswith('data/0'))
    members[tensor] = bytes(2 ** 28)
    return of_zip(members.items(), compression=zipfile.ZIP_DEFLATED)


def small_state():
    """The state of a small captioner, which is nothing but good."""
    torch.manual_seed(0)
    encoder_sizes = {'embed_size': 8, 'backbone': 'resnet18', 'weights': WEIGHTS}
    decoder_sizes = {'embed_size': 8, 'hidden_size': 8, 'vocab_size': len(WORDS)}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), model.DecoderRNN(**decoder_sizes)
    return model_state(encoder, decoder, Vocabulary.from_words(WORDS), encoder_sizes,
                       decoder_sizes, weights_hash(encoder.backbone))


def changed(*keys, value):
    """The bytes of a checkpoint in which the value at `keys` is another."""
    def build():
        state = small_state()
        part = state
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        return of_torch(state)
    return build


def flipped():
    data = bytearray(of_torch(small_state()))
    data[data.index(b'decoder') + len(data) // 2] ^= 16
    return bytes(data)


CHECKPOINTS = [
    ('empty', 'is not a checkpoint', b''),
    ('text', 'is not a checkpoint', b'PK\x03\x04 and no more'),
    ('calls os.system', 'is not a checkpoint', lambda: of_torch(Runs())),
    ('a bare pickle that does', 'is not a checkpoint', lambda: pickle.dumps(Runs())),
    ('calls it in an archive made by hand', 'is not a checkpoint',
     lambda: of_torch_zip(pickle.dumps(Runs(), 2))),
    ('a pickled module', 'is not a checkpoint', lambda: of_torch(torch.nn.Linear(2, 2))),
    ('a state dict', 'no encoder, decoder',
     lambda: of_torch(torch.nn.Linear(2, 2).state_dict())),
    ('cut short', 'is not a checkpoint', lambda: of_torch(small_state())[:-500]),
    ('one bit flipped', 'is damaged', flipped),
    ('1 GB packed into 1 MB', 'is packed', inflated),
    ('says that it is huge', 'sizes',
     changed('decoder', 'sizes', 'hidden_size', value=2 ** 30)),
    ('says that it is as large as memory', 'does not fit',
     changed('decoder', 'sizes', 'hidden_size', value=50_000)),
    ('a huge tensor of one number', 'that hold what they show',
     changed('decoder', 'state', 'linear.weight', value=torch.zeros(1).expand(2 ** 40))),
    ('an unknown size', 'does not fit', changed('decoder', 'sizes', 'colour', value=3)),
    ('a size that is a text', 'does not fit',
     changed('decoder', 'sizes', 'hidden_size', value='8')),
    ('more words than the decoder', 'words',
     changed('vocab', 'words', value=[f'w{i}' for i in range(9)])),
    ('words that are numbers', 'words', changed('vocab', 'words', value=[1, 2, 3, 4, 5])),
    ('huge images', 'transform', changed('transform', 'size', value=10 ** 6)),
    ('a list for the vocabulary', 'is not a checkpoint', changed('vocab', value=[1])),
    ('another backbone', "backbone='system'",
     changed('encoder', 'sizes', 'backbone', value='system')),
]
ENCODER_WEIGHTS = [
    ('calls os.system', 'no state dict that can be read safely', lambda: of_torch(Runs())),
    ('text', 'no state dict', b'text'),
    ('of another network', 'do not fit', lambda: of_torch(torch.nn.Linear(2, 2).state_dict())),
    ('a list', 'no state dict', lambda: of_torch([1, 2])),
]


# ---- Annotations, results, and captions to convert ----

ANNOTATIONS = [
    ('empty', 'is not JSON', b''),
    ('cut short', 'is not JSON', b'{"images": [{"id": 1,'),
    ('nested 100,000 deep', 'is not JSON', b'[' * 100_000),
    ('a list', "no 'images' list", b'[]'),
    ('not UTF-8', 'is not JSON', b'{"images": "\xff\xfe"}'),
    ('image ids that are lists', "'images'",
     b'{"images": [{"id": [], "file_name": "a"}], "annotations": []}'),
    ('of instances', 'Is it an instances file?',
     b'{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}'),
    ('a file name that is a number', "'images'",
     b'{"images": [{"id": 1, "file_name": 7}], "annotations": []}'),
    ('a whole number of 5,000 digits', 'is not JSON', b'{"images": ' + b'9' * 5000 + b'}'),
]
RESULTS = [
    ('cut short', 'is not JSON', b'[{"image_id": 1'),
    ('an annotation file', 'not a list', b'{"images": []}'),
    ('a caption that is a list', 'entry 1 of 1', b'[{"image_id": 1, "caption": ["a"]}]'),
    ('an id that is a list', 'entry 1 of 1', b'[{"image_id": [1], "caption": "a"}]'),
    ('an unknown image', 'do not list', b'[{"image_id": 9, "caption": "a"}]'),
    ('nested 100,000 deep', 'is not JSON', b'[' * 100_000),
]
CAPTIONS = [
    ('not UTF-8', 'not UTF-8', b'image,caption\na.jpg,\xff\n'),
    ('no known format', 'begins no format', b'\x00\x01\x02'),
    ('a name that points outside', None, b'image,caption\n../../a.jpg,a dog\na.jpg,one\n'),
    ('a field that never ends', 'line', b'image,caption\na.jpg,"' + b'x' * 200_000),
    ('Karpathy JSON with texts for lists', 'no Karpathy-split JSON',
     b'{"images": [{"filename": 1, "imgid": 0, "sentences": "abc"}]}'),
]


# ---- Photos ----

def of_photo(form='PNG', size=(40, 30), mode='RGB', **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **options)
    return buffer.getvalue()


def with_text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text('comment', 'x' * 80_000_000, zip=True)
    return of_photo(pnginfo=info)


def headed(width, height):
    """A PNG that says it is that large, and ends there."""
    chunk = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 6, 0, 0, 0)
    checksum = struct.pack('>I', zlib.crc32(chunk))
    return b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + chunk + checksum


TIFF_OF_STRIPS = (b'II*\x00\x08\x00\x00\x00\x01\x00\x11\x01\x04\x00'
                  b'\xff\xff\xff\x7f\x08\x00\x00\x00\x00\x00\x00\x00')
PHOTOS = [
    ('empty', 'cannot be read', b''),
    ('text', 'cannot be read', b'this is no photo'),
    ('HTML', 'cannot be read', b'<html>404</html>'),
    ('cut short', 'cannot be read', lambda: of_photo('JPEG', (300, 300))[:900]),
    ('400 megapixels in 50 kB', 'decompression bomb',
     lambda: of_photo(size=(20_000, 20_000), mode='1')),
    ('120 megapixels', 'megapixels', lambda: of_photo(size=(12_000, 10_000), mode='L')),
    ('a header of 2 ** 31 x 2 ** 31', 'cannot be read', headed(2 ** 31 - 1, 2 ** 31 - 1)),
    ('a header alone', 'cannot be read', headed(300, 300)),
    ('80 MB of comment in 80 kB', 'cannot be read', with_text_bomb),
    ('PostScript, a program', 'cannot be read', POSTSCRIPT),
    ('SVG', 'cannot be read',
     b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'),
    ('a GIF without a frame', 'cannot be read', b'GIF89a\x05\x00\x05\x00\x00\x00\x00;'),
    ('random behind a JPEG header', 'cannot be read',
     b'\xff\xd8\xff\xe0' + bytes(range(256)) * 4),
    ('a TIFF of two billion strips', 'cannot be read', TIFF_OF_STRIPS),
]


KINDS = {'vocabulary': VOCABULARIES, 'checkpoint': CHECKPOINTS, 'weights': ENCODER_WEIGHTS,
         'annotations': ANNOTATIONS, 'results': RESULTS, 'captions': CAPTIONS,
         'archive': ARCHIVES, 'photo': PHOTOS}
FILES = [(kind, *row) for kind, rows in KINDS.items() for row in rows]
