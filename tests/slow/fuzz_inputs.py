"""Inputs for test_fuzz.py, as strategies of Hypothesis: texts, JSON, pickles and pictures.

Most of them are almost right, since a reader refuses pure noise at its first byte.
"""

import contextlib
import io
import json
import pickle
import pickletools
import struct
import zlib

from hypothesis import strategies as st
from PIL import Image

NUMBERS = [0, 1, 7, 127, 128, 255, 2 ** 15, 2 ** 16, 2 ** 24, 2 ** 26, 2 ** 31 - 1, 2 ** 31,
           2 ** 32 - 1]
TEXT = st.text(st.characters())    # surrogates too, which st.text() alone leaves out
PIECES = [*'ab Z.\'"`$%,:;()[]<>-\t\n\u200b\u2028\u0301\u05d0', 'can', 'not', "n't", "'s", '...',
          '--', '<start>', '<end>', 'gonna', '5']
WRITTEN = st.lists(st.sampled_from(PIECES)).map(''.join)
LONG = st.builds(str.__mul__, TEXT | WRITTEN, st.sampled_from([100, 3000]))


def mostly(usual, other):
    """Three of four times `usual`, else `other`."""
    return st.sampled_from([usual, usual, usual, other]).flatmap(lambda strategy: strategy)


def encoded(text):
    return text.encode('utf-8', 'surrogatepass')


# ---- Bytes and JSON ----

@st.composite
def mutated(draw, originals):
    """One of `originals`, one to four places of it overwritten, cut out, inserted or cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 1, 2, 4, 4, 8, len(content)]))
        number = st.builds(struct.pack, st.sampled_from(['<I', '>I']), st.sampled_from(NUMBERS))
        one_byte = st.binary(min_size=1, max_size=1)
        new = draw(mostly(one_byte | number, st.binary(max_size=8)))
        content[at:at + draw(mostly(st.just(len(new)), st.just(length)))] = new
    return bytes(content)


def json_list(items):
    return items.map(lambda texts: f'[{",".join(texts)}]')


def json_object(*fields):
    """JSON text of an object with `fields`, each a strategy for (key, text of the value).

    A key may come twice.
    """
    def as_text(pairs):
        return '{' + ','.join(f'{json.dumps(key)}:{text}' for key, text in pairs) + '}'
    return st.tuples(*fields).map(as_text)


def field(name, usual):
    """A field of an object: its name and mostly `usual` texts, else any value.

    Sometimes it has another name.
    """
    names = st.sampled_from([name] * 20 + ['id', 'other'])
    return st.tuples(names, mostly(st.sampled_from(usual), ANY_JSON))


ODD_VALUES = ['null', 'true', 'false', 'NaN', '-Infinity', '1e999', '1.0', '-0', '9' * 4000, '{}',
              '[]', '""', r'"\ud800"', r'"\u0000"', '[' * 900 + ']' * 900]
BROKEN_VALUES = ['9' * 5000, '01', '"', '[' * 10 ** 5]
SCALAR = st.one_of(
    st.sampled_from(ODD_VALUES), mostly(TEXT.map(json.dumps), st.sampled_from(BROKEN_VALUES)),
    TEXT.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.integers().map(str), st.floats().map(json.dumps))
ANY_JSON = st.recursive(
    SCALAR, lambda value: st.one_of(
        json_list(st.lists(value, max_size=4)),
        json_object(st.tuples(TEXT, value), st.tuples(TEXT, value))), max_leaves=6)

IDS, FILE_NAMES = ['1', '1', '2', '"a"'], ['"a.png"', '"b.png"']
CAPTIONS = ['"A dog."', '"a cat"', r'"\u65e5\u672c"', '"  "', '5', '["a"]']
IMAGE = json_object(field('id', IDS), field('file_name', FILE_NAMES))
IMAGES = json_list(st.lists(IMAGE, max_size=3))
ENTRY = json_object(field('image_id', IDS), field('caption', CAPTIONS))
ENTRIES = json_list(st.lists(ENTRY, max_size=5))
ANNOTATIONS = json_object(st.tuples(st.just('images'), mostly(IMAGES, ANY_JSON)),
                          st.tuples(st.just('annotations'), mostly(ENTRIES, ANY_JSON)))
GOOD_ANNOTATIONS = json.dumps({
    'images': [{'id': 1, 'file_name': 'a.png'}, {'id': 2, 'file_name': 'b.png'}],
    'annotations': [{'image_id': 1, 'caption': 'A dog.'}, {'image_id': 2, 'caption': 'a cat'}]})
GOOD_RESULTS = json.dumps([{'image_id': 1, 'caption': 'a dog'},
                           {'image_id': 2, 'caption': 'a cat'}])


def json_files(texts, original):
    """Bytes: mostly of `texts`, also damaged ones of `original`, and any."""
    damaged = mutated([original.encode(code) for code in ('utf-8', 'utf-8-sig', 'utf-16')])
    return mostly(texts.map(encoded), damaged | st.binary())


# ---- Pickles ----

def real_pickles(kind):
    """What the course's notebooks (protocol 3) and the older build_vocab.py (0) write.

    And the protocols between. kind: a class that stands for the one that wrote them.
    """
    old = kind()
    words = ['<start>', '<end>', '<unk>', 'a', 'dog']
    old.word2idx = {word: idx for idx, word in enumerate(words)}
    old.idx2word, old.idx = dict(enumerate(words)), len(words)
    old.start_word, old.annotations_hash, old.vocab_threshold = '<start>', '0' * 64, 5
    return [pickle.dumps(old, protocol) for protocol in (0, 1, 2, 3, 4)]


ALLOWED = [('vocabulary', 'Vocabulary'), ('__main__', 'Vocabulary'),
           ('copy_reg', '_reconstructor'), ('__builtin__', 'object')]
REFUSED = [('copyreg', '_reconstructor'), ('os', 'mkdir'), ('os', 'system'), ('builtins', 'eval'),
           ('__builtin__', 'eval'), ('subprocess', 'Popen'), ('vocabulary', 'os.mkdir'),
           ('vocabulary', 'Vocabulary.__init__'), ('builtins', 'getattr')]
NAMES = ['word2idx', 'idx2word', 'start_word', 'end_word', 'annotations_hash', '<start>', '<end>',
         '<unk>', 'called', 'mkdir called', '__import__("os").mkdir("called")', '__iter__',
         '__next__', '__bool__', '__hash__', '__eq__', '__dict__', '__init__', '__new__',
         '__setstate__', '__getitem__', '__class__', '__del__', 'append', 'é\ud800']
COUNTS = st.one_of(st.integers(0, 4), st.sampled_from(NUMBERS))


def one_global(names):
    return st.sampled_from([f'c{module}\n{name}\n'.encode() for module, name in names])


GLOBAL = mostly(one_global(ALLOWED), one_global(REFUSED))
NAME = st.sampled_from([b'X' + struct.pack('<I', len(raw)) + raw for raw in map(encoded, NAMES)])
WORDS = pickle.dumps({'<start>': 0, '<end>': 1, '<unk>': 2}, protocol=2)[2:-1]
CALLS = [b'cos\nmkdir\n(Vcalled\ntR', b'(Vcalled\nios\nmkdir\n', b'(cos\nmkdir\nVcalled\no',
         b'cos\nmkdir\nVcalled\n\x85\x81', b'Vos\nVmkdir\n\x93Vcalled\n\x85R',
         b'cos\nsystem\n(Vmkdir called\ntR',
         b'cbuiltins\neval\n(V__import__("os").mkdir("called")\ntR']


def argument(kind):
    """Bytes of an opcode's argument, of a kind of pickletools; lengths are sometimes wrong."""
    if kind is None:
        return st.just(b'')
    if kind.name == 'stringnl_noescape_pair':
        pairs = [f'{module}\n{name}\n'.encode() for module, name in ALLOWED + REFUSED]
        return st.sampled_from(pairs)
    if kind.n == pickletools.UP_TO_NEWLINE:
        names = st.sampled_from(NAMES)
        texts = st.one_of(COUNTS.map(str), COUNTS.map('{}L'.format), names.map(repr), names, TEXT)
        return texts.map(lambda text: encoded(text) + b'\n')
    if kind.n >= 0:
        def as_bytes(count):
            return (count % 256 ** kind.n).to_bytes(kind.n, 'little')
        return st.binary(min_size=kind.n, max_size=kind.n) | COUNTS.map(as_bytes)
    return _counted(kind)


def _counted(kind):
    """A text behind its length, which is sometimes wrong."""
    sizes = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}
    size = sizes.get(kind.n, 4)

    def join(raw, wrong):
        length = len(raw) if wrong is None else wrong
        return (length % 256 ** size).to_bytes(size, 'little') + raw

    raw = st.sampled_from(NAMES).map(encoded) | st.binary(max_size=9)
    wrong = COUNTS | st.integers(0, 256 ** size - 1)
    return st.builds(join, raw, mostly(st.none(), wrong))


def stack_after(stack, opcode):
    """The stack behind an opcode, a string of ( for marks and x for objects.

    None where the opcode does not fit.
    """
    mark, before = pickletools.markobject, opcode.stack_before
    pushed = ''.join('(' if thing is mark else 'x' for thing in opcode.stack_after)
    below = before.index(mark) if mark in before else len(before)
    if below < len(before):
        if '(' not in stack:
            return None
        stack = stack[:stack.rindex('(')]
    if not stack.endswith('x' * below):
        return None
    return stack[:len(stack) - below] + pushed


ARGUMENTS = {opcode: argument(opcode.arg) for opcode in pickletools.opcodes}


@st.composite
def programs(draw):
    """A pickle of opcodes of every kind, each where the stack allows it."""
    content, stack = bytearray(), ''
    for _ in range(draw(st.integers(1, 25))):
        fitting = [opcode for opcode in pickletools.opcodes
                   if opcode.name != 'STOP' and stack_after(stack, opcode) is not None]
        opcode = draw(st.sampled_from(fitting))
        content += opcode.code.encode('latin-1') + draw(ARGUMENTS[opcode])
        stack = stack_after(stack, opcode)
    return bytes(content + b'.')


def joined(*parts):
    """The bytes of the parts, strategies or bytes, one behind the other."""
    strategies = [st.just(part) if isinstance(part, bytes) else part for part in parts]
    return st.tuples(*strategies).map(b''.join)


def pair_tree(thing, times):
    """Pickle of a tree of pairs, each twice the one before."""
    return b'(' + thing + b'\x940' + b'h\x00h\x00\x86q\x000' * times + b'h\x00t'


def containers(thing):
    """Opcodes that build something of things.

    They are containers, calls, instances, attributes of instances and of classes.
    """
    things = st.lists(thing, max_size=3).map(b''.join)
    attributes = st.lists(joined(NAME, thing), min_size=1, max_size=3).map(b''.join)
    memo_place = COUNTS.map(lambda count: struct.pack('<I', count))
    return st.one_of(
        joined(b'(', things, st.sampled_from([b't', b'l', b'd', b'o', b'\x90'])),
        joined(thing, b'(', thing, b't', st.sampled_from([b'R', b'\x81'])),
        joined(GLOBAL, b')', st.sampled_from([b'R', b'\x81'])),
        joined(GLOBAL, b'(N}(', attributes, b'utb',    # attributes of the class
               st.sampled_from([b'', b')\x81', b')R'])),
        joined(thing, b'}(', attributes, b'ub'),
        st.builds(pair_tree, thing, st.integers(0, 40)),
        joined(thing, joined(b'r', memo_place)))


PLAIN_VALUES = [b'N', b'\x88', b'K\x00', b'K\x01', b')', b']', b'}', WORDS]
VALUE = mostly(st.sampled_from(PLAIN_VALUES), st.sampled_from(CALLS))
THING = st.recursive(st.one_of(VALUE, GLOBAL, NAME), containers, max_leaves=6)
ATTRIBUTES = st.lists(joined(NAME, THING), max_size=3).map(b''.join)
VOCABULARIES = joined(b'\x80\x02cvocabulary\nVocabulary\n)\x81}(Vword2idx\n',
                      st.just(WORDS) | THING, ATTRIBUTES, b'ub.')


def vocabulary_files(kind):
    return st.one_of(mutated(real_pickles(kind)), VOCABULARIES, programs(),
                     joined(b'\x80\x04', THING, b'.'), st.binary())


# ---- Pictures ----

def real_pictures():
    """Small files of every format and mode that Pillow writes here.

    With EXIF and transparency where they hold them.
    """
    Image.init()
    exif = Image.Exif()    # turned, a text, a table inside
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, 'x', {0x9286: b'y'}
    files = [_animated_gif()]
    for mode in [*Image.MODES, 'I;16B']:
        size = len(Image.new(mode, (9, 7)).tobytes())
        image = Image.frombytes(mode, (9, 7), bytes(range(252))[:size])
        if mode in ('P', 'PA'):
            image.putpalette(bytes(range(256)) * 3)
        marked = [{'exif': exif}, {'transparency': 3}] if mode in ('L', 'P', 'RGB') else []
        for form in sorted(Image.SAVE):
            for options in ({}, *marked):
                file = io.BytesIO()
                with contextlib.suppress(Exception):    # few formats hold every mode
                    image.save(file, form, **options)
                    files.append(file.getvalue())
    return sorted(content for content in set(files) if len(content) < 5000)


def _animated_gif():
    file, image = io.BytesIO(), Image.linear_gradient('L').resize((9, 7))
    frames = [image.rotate(90), image.rotate(180)]
    image.save(file, 'GIF', save_all=True, append_images=frames)
    return file.getvalue()


def png(width, height, depth, colour, chunks):
    """A PNG with a right checksum in its header, so that what it says of its size is believed."""
    header = struct.pack('>IIBBBBB', width % 2 ** 32, height % 2 ** 32, depth, colour, 0, 0, 0)
    content = b'\x89PNG\r\n\x1a\n'
    for name, data in [(b'IHDR', header), *chunks, (b'IEND', b'')]:
        checksum = struct.pack('>I', zlib.crc32(name + data))
        content += struct.pack('>I', len(data)) + name + data + checksum
    return content


def pictures():
    files = real_pictures()
    sizes = st.one_of(st.integers(1, 9), st.sampled_from([8000, 13000, 20000, *NUMBERS]))
    names = [b'IDAT', b'IDAT', b'PLTE', b'tRNS', b'eXIf', b'iCCP', b'zTXt', b'acTL']
    data = st.binary(max_size=20) | st.binary(max_size=99).map(zlib.compress)
    chunks = st.lists(st.tuples(st.sampled_from(names), data), max_size=4)
    depths, colours = st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0, 2, 3, 4, 6])
    ppm = st.builds('P{} {} {} {} '.format, st.integers(1, 7), sizes, sizes, sizes)
    begun = st.builds(lambda file, length, rest: file[:length] + rest, st.sampled_from(files),
                      st.integers(2, 40), st.binary(max_size=200))
    return st.one_of(mutated(files), begun, st.builds(png, sizes, sizes, depths, colours, chunks),
                     joined(ppm.map(str.encode), st.binary(max_size=50)))
