"""Whatever a reader is given, it gives a result or says what is wrong: `pytest -s tests/slow/test_fuzz.py`.

Hypothesis makes the inputs: ten minutes for each of five readers, or FUZZ_SECONDS of the environment. Each runs in a
process of its own with 2 GB more memory than it starts with, and an example that takes 20 s ends it. A failure shows
the smallest example, as the arguments of its check; where the process ended, the last one.
"""

import contextlib
import faulthandler
import importlib
import io
import json
import os
import pickle
import pickletools
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get('FUZZ_SECONDS', '600'))
HANG = 20    # seconds
OPTIONS = settings(max_examples=500, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
                   suppress_health_check=list(HealthCheck))
NUMBERS = [0, 1, 7, 127, 128, 255, 2 ** 15, 2 ** 16, 2 ** 24, 2 ** 26, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1]
TEXT = st.text(st.characters())    # surrogates too, which st.text() alone leaves out
WRITTEN = st.lists(st.sampled_from([*'ab Z.\'"`$%,:;()[]<>-\t\n\u200b\u2028\u0301\u05d0', 'can', 'not', "n't", "'s",
                                    '...', '--', '<start>', '<end>', 'gonna', '5'])).map(''.join)



def mostly(usual, other):
    """Three of four times `usual`, else `other`."""
    return st.sampled_from([usual, usual, usual, other]).flatmap(lambda strategy: strategy)


# ---- Bytes and JSON ----

@st.composite
def mutated(draw, originals):
    """One of `originals` with one to four places overwritten, cut out, inserted into, or cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(content))), draw(st.sampled_from([1, 1, 2, 4, 4, 8, len(content)]))
        number = st.builds(struct.pack, st.sampled_from(['<I', '>I']), st.sampled_from(NUMBERS))
        new = draw(mostly(st.binary(min_size=1, max_size=1) | number, st.binary(max_size=8)))
        content[at:at + draw(mostly(st.just(len(new)), st.just(length)))] = new
    return bytes(content)


def json_list(items):
    return items.map(lambda texts: f'[{",".join(texts)}]')


def json_object(*fields):
    """JSON text of an object with `fields`, each a strategy for (key, text of the value); a key may come twice."""
    return st.tuples(*fields).map(
        lambda pairs: '{' + ','.join(f'{json.dumps(key)}:{text}' for key, text in pairs) + '}')


def field(name, usual):
    """A field of an object: its name and mostly `usual` texts, else any value; sometimes another name."""
    return st.tuples(st.sampled_from([name] * 20 + ['id', 'other']), mostly(st.sampled_from(usual), ANY_JSON))


SCALAR = st.one_of(
    st.sampled_from(['null', 'true', 'false', 'NaN', '-Infinity', '1e999', '1.0', '-0', '9' * 4000, '{}', '[]', '""',
                     r'"\ud800"', r'"\u0000"', '[' * 900 + ']' * 900]),
    mostly(TEXT.map(json.dumps), st.sampled_from(['9' * 5000, '01', '"', '[' * 10 ** 5])),
    TEXT.map(lambda text: json.dumps(text, ensure_ascii=False)), st.integers().map(str), st.floats().map(json.dumps))
ANY_JSON = st.recursive(SCALAR, lambda value: st.one_of(
    json_list(st.lists(value, max_size=4)), json_object(st.tuples(TEXT, value), st.tuples(TEXT, value))), max_leaves=6)
IDS, CAPTIONS = ['1', '1', '2', '"a"'], ['"A dog."', '"a cat"', r'"\u65e5\u672c"', '"  "', '5', '["a"]']
IMAGES = json_list(st.lists(json_object(field('id', IDS), field('file_name', ['"a.png"', '"b.png"'])), max_size=3))
ENTRIES = json_list(st.lists(json_object(field('image_id', IDS), field('caption', CAPTIONS)), max_size=5))
ANNOTATIONS = json_object(st.tuples(st.just('images'), mostly(IMAGES, ANY_JSON)),
                          st.tuples(st.just('annotations'), mostly(ENTRIES, ANY_JSON)))
WHOLE = json.dumps({'images': [{'id': 1, 'file_name': 'a.png'}, {'id': 2, 'file_name': 'b.png'}],
                    'annotations': [{'image_id': 1, 'caption': 'A dog.'}, {'image_id': 2, 'caption': 'a cat'}]})
RESULTS = json.dumps([{'image_id': 1, 'caption': 'a dog'}, {'image_id': 2, 'caption': 'a cat'}])


def json_files(texts, original):
    """Bytes: mostly of `texts`, also damaged ones of `original`, and any."""
    texts = texts.map(lambda text: text.encode('utf-8', 'surrogatepass'))
    damaged = mutated([original.encode(code) for code in ('utf-8', 'utf-8-sig', 'utf-16')])
    return mostly(texts, damaged | st.binary())


# ---- Pickles ----

class Vocabulary:
    """Stands for the classes that wrote old files."""


def real_pickles():
    """What the course's notebooks (protocol 3) and the older build_vocab.py (0) write, and protocols between."""
    old = Vocabulary()
    words = ['<start>', '<end>', '<unk>', 'a', 'dog']
    old.word2idx, old.idx2word, old.idx = {w: i for i, w in enumerate(words)}, dict(enumerate(words)), len(words)
    old.start_word, old.annotations_hash, old.vocab_threshold = '<start>', '0' * 64, 5
    return [pickle.dumps(old, protocol) for protocol in (0, 1, 2, 3, 4)]    # its module is __main__ in the child


GLOBALS = [('vocabulary', 'Vocabulary'), ('__main__', 'Vocabulary'), ('copy_reg', '_reconstructor'),
           ('__builtin__', 'object'), ('copyreg', '_reconstructor'), ('os', 'mkdir'), ('os', 'system'),
           ('builtins', 'eval'), ('__builtin__', 'eval'), ('subprocess', 'Popen'), ('vocabulary', 'os.mkdir'),
           ('vocabulary', 'Vocabulary.__init__'), ('builtins', 'getattr')]
NAMES = ['word2idx', 'idx2word', 'start_word', 'end_word', 'annotations_hash', '<start>', '<end>', '<unk>', 'called',
         'mkdir called', '__import__("os").mkdir("called")', '__iter__', '__next__', '__bool__', '__hash__', '__eq__',
         '__dict__', '__init__', '__new__', '__setstate__', '__getitem__', '__class__', '__del__', 'append', 'é\ud800']
COUNTS = st.one_of(st.integers(0, 4), st.sampled_from(NUMBERS))
GLOBAL = mostly(*(st.sampled_from([f'c{module}\n{name}\n'.encode() for module, name in names])
                  for names in (GLOBALS[:4], GLOBALS[4:])))    # the first four are allowed
NAME = st.sampled_from([b'X' + struct.pack('<I', len(raw)) + raw
                        for raw in (name.encode('utf-8', 'surrogatepass') for name in NAMES)])
WORDS = pickle.dumps({'<start>': 0, '<end>': 1, '<unk>': 2}, protocol=2)[2:-1]
CALLS = [b'cos\nmkdir\n(Vcalled\ntR', b'(Vcalled\nios\nmkdir\n', b'(cos\nmkdir\nVcalled\no',
         b'cos\nmkdir\nVcalled\n\x85\x81', b'Vos\nVmkdir\n\x93Vcalled\n\x85R', b'cos\nsystem\n(Vmkdir called\ntR',
         b'cbuiltins\neval\n(V__import__("os").mkdir("called")\ntR']


def argument(kind):
    """Bytes of an opcode's argument, of a kind of pickletools; lengths are sometimes wrong."""
    if kind is None:
        return st.just(b'')
    if kind.name == 'stringnl_noescape_pair':
        return st.sampled_from([f'{module}\n{name}\n'.encode() for module, name in GLOBALS])
    if kind.n == pickletools.UP_TO_NEWLINE:
        return st.one_of(COUNTS.map(str), COUNTS.map('{}L'.format), st.sampled_from(NAMES).map(repr),
                         st.sampled_from(NAMES), TEXT).map(lambda text: text.encode('utf-8', 'surrogatepass') + b'\n')
    if kind.n >= 0:
        return st.binary(min_size=kind.n, max_size=kind.n) | COUNTS.map(
            lambda count: (count % 256 ** kind.n).to_bytes(kind.n, 'little'))
    size = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(kind.n, 4)
    raw = st.sampled_from(NAMES).map(lambda name: name.encode('utf-8', 'surrogatepass')) | st.binary(max_size=9)
    length = mostly(st.none(), COUNTS | st.integers(0, 256 ** size - 1))
    return st.builds(lambda raw, wrong: ((len(raw) if wrong is None else wrong) % 256 ** size).to_bytes(size, 'little')
                     + raw, raw, length)


def stack_after(stack, opcode):
    """The stack behind an opcode, a string of ( for marks and x for objects; None where the opcode does not fit."""
    before, push = opcode.stack_before, ''.join('(' if thing is pickletools.markobject else 'x'
                                                for thing in opcode.stack_after)
    below = before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
    if below < len(before):
        if '(' not in stack:
            return None
        stack = stack[:stack.rindex('(')]
    return stack[:len(stack) - below] + push if stack.endswith('x' * below) else None


ARGUMENTS = {opcode: argument(opcode.arg) for opcode in pickletools.opcodes}


@st.composite
def programs(draw):
    """A pickle of opcodes of every kind, each where the stack allows it."""
    content, stack = bytearray(), ''
    for _ in range(draw(st.integers(1, 25))):
        fitting = [op for op in pickletools.opcodes if op.name != 'STOP' and stack_after(stack, op) is not None]
        opcode = draw(st.sampled_from(fitting))
        content += opcode.code.encode('latin-1') + draw(ARGUMENTS[opcode])
        stack = stack_after(stack, opcode)
    return bytes(content + b'.')


def joined(*parts):
    """The bytes of the parts, strategies or bytes, one behind the other."""
    return st.tuples(*(st.just(part) if isinstance(part, bytes) else part for part in parts)).map(b''.join)


def containers(thing):
    """Opcodes that build something of things: containers, calls, instances, attributes of instances and classes."""
    attributes = st.lists(joined(NAME, thing), min_size=1, max_size=3).map(b''.join)
    return st.one_of(
        joined(b'(', st.lists(thing, max_size=3).map(b''.join), st.sampled_from([b't', b'l', b'd', b'o', b'\x90'])),
        joined(thing, b'(', thing, b't', st.sampled_from([b'R', b'\x81'])),
        joined(GLOBAL, b')', st.sampled_from([b'R', b'\x81'])),
        joined(GLOBAL, b'(N}(', attributes, b'utb', st.sampled_from([b'', b')\x81', b')R'])),    # of the class
        joined(thing, b'}(', attributes, b'ub'),
        st.builds(lambda thing, times: b'(' + thing + b'\x940' + b'h\x00h\x00\x86q\x000' * times + b'h\x00t',
                  thing, st.integers(0, 40)),    # a tree of pairs, each twice the one before
        joined(thing, joined(b'r', COUNTS.map(lambda count: struct.pack('<I', count)))))


VALUE = mostly(st.sampled_from([b'N', b'\x88', b'K\x00', b'K\x01', b')', b']', b'}', WORDS]), st.sampled_from(CALLS))
THING = st.recursive(st.one_of(VALUE, GLOBAL, NAME), containers, max_leaves=6)
ATTRIBUTES = st.lists(joined(NAME, THING), max_size=3).map(b''.join)
VOCABULARIES = joined(b'\x80\x02cvocabulary\nVocabulary\n)\x81}(Vword2idx\n', st.just(WORDS) | THING, ATTRIBUTES,
                      b'ub.')

# ---- Pictures ----


def real_pictures():
    """Small files of every format and mode that Pillow writes here, with EXIF and transparency where they hold them."""
    Image.init()
    exif, files, frames = Image.Exif(), [], io.BytesIO()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, 'x', {0x9286: b'y'}    # turned, a text, a table inside
    for mode in [*Image.MODES, 'I;16B']:
        image = Image.frombytes(mode, (9, 7), bytes(range(252))[:len(Image.new(mode, (9, 7)).tobytes())])
        if mode in ('P', 'PA'):
            image.putpalette(bytes(range(256)) * 3)
        for form in sorted(Image.SAVE):
            for options in [{}, {'exif': exif}, {'transparency': 3}] if mode in ('L', 'P', 'RGB') else [{}]:
                file = io.BytesIO()
                with contextlib.suppress(Exception):    # few formats hold every mode
                    image.save(file, form, **options)
                    files.append(file.getvalue())
    image = Image.linear_gradient('L').resize((9, 7))
    image.save(frames, 'GIF', save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    return sorted(content for content in {*files, frames.getvalue()} if len(content) < 5000)


def png(width, height, depth, colour, chunks):
    """A PNG with a right checksum in its header, so that what it says of its size is believed."""
    header = struct.pack('>IIBBBBB', width % 2 ** 32, height % 2 ** 32, depth, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
        for name, content in [(b'IHDR', header), *chunks, (b'IEND', b'')])


def pictures():
    files, sizes = real_pictures(), st.one_of(st.integers(1, 9), st.sampled_from([8000, 13000, 20000, *NUMBERS]))
    chunk = st.tuples(st.sampled_from([b'IDAT', b'IDAT', b'PLTE', b'tRNS', b'eXIf', b'iCCP', b'zTXt', b'acTL']),
                      st.binary(max_size=20) | st.binary(max_size=99).map(zlib.compress))
    ascii_ppm = st.builds('P{} {} {} {} '.format, st.integers(1, 7), sizes, sizes, sizes).map(str.encode)
    return st.one_of(
        mutated(files), st.builds(lambda file, n, rest: file[:n] + rest, st.sampled_from(files), st.integers(2, 40),
                                  st.binary(max_size=200)),
        st.builds(png, sizes, sizes, st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0, 2, 3, 4, 6]),
                  st.lists(chunk, max_size=4)), joined(ascii_ppm, st.binary(max_size=50)))


# ---- The targets: what is promised ----

def or_said(call, *arguments, kinds=ValueError, named):
    """What `call` gives; None where it raises one of `kinds` with a message that names `named`."""
    try:
        return call(*arguments)
    except kinds as error:
        assert named in str(error), f'the message does not name it: {error!r}'


def check_tokens(text, words, ids):
    from vocabulary import Vocabulary, tokenize
    tokens = tokenize(text)
    assert all(type(token) is str and token and not any(map(str.isspace, token)) for token in tokens)
    assert tokens == tokenize(text)
    special = ['<start>', '<end>', '<unk>']
    vocab = Vocabulary.from_words([*special, *(w for w in dict.fromkeys([*tokens[::2], *words]) if w not in special)])
    encoded = vocab.encode(text)
    assert encoded == [0, *(vocab(token) for token in tokens), 1] and set(encoded) <= set(vocab.idx2word)
    assert all(vocab.idx2word[i] == token for i, token in zip(encoded[1:], tokens, strict=False) if i != 2)
    ids = [i % len(vocab) for i in ids]
    for numbers in (ids, encoded):
        said = vocab.decode(numbers)
        assert type(said) is str and said == vocab.decode([*numbers, 1, 2])
        if not any('<' in word or '>' in word for word in vocab.word2idx.keys() - set(special)):
            assert '<start>' not in said and '<end>' not in said


def check_vocabulary(content):
    from vocabulary import Vocabulary
    Path('vocab.pkl').write_bytes(content)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir('called')
    CALLED.clear()
    vocab = or_said(lambda: Vocabulary(None, 'vocab.pkl', annotations_file='vocab.pkl', vocab_from_file=True),
                    named='vocab.pkl')
    assert not CALLED and not os.path.exists('called'), f'it was called: {CALLED}'
    if vocab is not None:
        assert all(type(word) is str for word in vocab.word2idx)
        assert sorted(vocab.word2idx.values()) == sorted(vocab.idx2word) == list(range(len(vocab)))
        assert vocab.encode('a zebra')[::3] == [vocab.start_id, vocab.end_id]
        assert type(vocab.decode(range(len(vocab)))) is str


def check_annotations(content):
    from data_loader import CoCoDataset, get_loader
    from scripts.annotations import caption_tokens, read_annotations
    from vocabulary import Vocabulary, tokenize
    name = 'captions_train2014.json'
    file = Path('cocoapi/annotations', name)
    for part in ('annotations', 'images/train2014'):
        Path('cocoapi', part).mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    found = or_said(read_annotations, file, named=name)
    for key, fields in {'images': ('id', 'file_name'), 'annotations': ('image_id', 'caption')}.items():
        assert found is None or all(entry[field] is not None for entry in found[key] for field in fields)
    Image.new('RGB', (4, 3)).save('cocoapi/images/train2014/a.png')
    kinds, vocab = (ValueError, FileNotFoundError), Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'dog'])
    try:
        if tokens := or_said(caption_tokens, str(file), tokenize, '', named=name):
            again = caption_tokens(str(file), tokenize, '')    # what was kept
            assert all(list(old) == list(new) for old, new in zip(tokens, again, strict=True))
            assert len(tokens[2]) == len(found['annotations'])
        for mode in ('train', 'test'):
            data = or_said(CoCoDataset, to_tensor, mode, 2, vocab, str(file), 'cocoapi/images/train2014', '',
                           kinds=kinds, named=name)
            for row in range(len(data or ())):
                path = data.paths[row if mode == 'test' else data.image_rows[row]]
                or_said(data.__getitem__, row, kinds=OSError, named=path)
        loader = or_said(lambda: get_loader(to_tensor, 'train', 2, 1, vocab_from_file=False, cocoapi_loc='.'),
                         kinds=kinds, named=name)
        assert loader is None or len(loader.dataset) == len(loader.dataset.caption_lengths) > 0
    finally:
        for kept in Path().glob('*.tokens.npz'):
            kept.unlink()


def to_tensor(image):
    return image.size


def check_image(content):
    from data_loader import load_image
    Path('photo').write_bytes(content)
    image = or_said(load_image, 'photo', kinds=OSError, named='photo')
    assert image is None or (isinstance(image, Image.Image) and image.mode == 'RGB' and image.tobytes() is not None)


def check_results(content, annotations):
    from scripts.annotations import read_annotations
    from scripts.evaluate import read_results
    Path('annotations.json').write_bytes(annotations)
    Path('results.json').write_bytes(content)
    found = or_said(read_annotations, 'annotations.json', named='annotations.json')
    for as_empty in (False, True) if found else ():
        results = or_said(read_results, 'results.json', found, as_empty, named='.json')
        for result in results or ():
            assert type(result['caption']) is str and result['image_id'] in [image['id'] for image in found['images']]


TARGETS = {
    'tokens': lambda: (check_tokens, st.one_of(TEXT, WRITTEN, st.builds(str.__mul__, TEXT | WRITTEN,
                                                                        st.sampled_from([100, 3000]))),
                       st.lists(TEXT, max_size=5), st.lists(st.integers(0, 20), max_size=9)),
    'vocabulary': lambda: (check_vocabulary, st.one_of(mutated(real_pickles()), VOCABULARIES, programs(),
                                                       joined(b'\x80\x04', THING, b'.'), st.binary())),
    'annotations': lambda: (check_annotations, json_files(ANNOTATIONS, WHOLE)),
    'image': lambda: (check_image, pictures()),
    'results': lambda: (check_results, json_files(mostly(ENTRIES, ANY_JSON), RESULTS),
                        st.just(WHOLE.encode()) | json_files(ANNOTATIONS, WHOLE)),
}

MODULES = {'tokens': ['vocabulary', 'nltk.tokenize.treebank'], 'vocabulary': ['vocabulary'],
           'annotations': ['data_loader', 'nltk.tokenize'], 'image': ['data_loader'], 'results': ['scripts.evaluate']}
MEMORY = {'tokens': 0.5, 'vocabulary': 0.5, 'annotations': 0.5, 'image': 1.5, 'results': 0.5}    # GB, by one example

# ---- One target in a process of its own ----

CALLED = []    # what a pickle made happen
FOREIGN = {'pickle.find_class', 'os.system', 'os.mkdir', 'subprocess.Popen'}


def peak():
    """Largest resident memory of this process, in GB, since the last time that 5 was written to clear_refs."""
    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 2 ** 20


def fuzz(name):
    """Check examples until the time is over; one that fails is made smaller and printed by Hypothesis."""
    faulthandler.enable()    # a crash of the interpreter shows where
    warnings.simplefilter('ignore')
    for module in MODULES[name]:
        importlib.import_module(module)
    check, *strategies = TARGETS[name]()
    sys.addaudithook(lambda event, arguments: CALLED.append(f'{event}{arguments}') if event in FOREIGN else None)
    has = 4096 * int(Path('/proc/self/statm').read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (has + 2 * 2 ** 30,) * 2)
    spent, peaks, started = [], [peak()], time.monotonic()

    def example_passes(example):
        Path('example.txt').write_text(repr(example))    # for the parent, should this process end here
        Path('/proc/self/clear_refs').write_text('5')
        before, began = peak(), time.process_time()
        faulthandler.dump_traceback_later(HANG, exit=True)
        try:
            with contextlib.redirect_stdout(None):
                check(*example)
        finally:
            faulthandler.cancel_dump_traceback_later()
            spent.append(time.process_time() - began)
            peaks.append(peak())
        assert peaks[-1] - before < MEMORY[name], f'{peaks[-1] - before:.1f} GB of memory'
        assert spent[-1] < HANG / 2, f'{spent[-1]:.0f} s'

    while time.monotonic() < started + SECONDS:
        number = random.SystemRandom().getrandbits(64)
        try:
            seed(number)(settings(OPTIONS)(given(st.tuples(*strategies))(example_passes)))()
        except BaseException:
            print(f'seed {number}', file=sys.stderr)
            raise
    print(f'{name}: {len(spent):,} examples, {len(spent) / (time.monotonic() - started):.0f} a second, '
          f'the longest {max(spent):.1f} s; memory {peaks[0]:.2f} GB, at most {max(peaks):.2f} GB')


@pytest.mark.parametrize('name', TARGETS)
def test_fuzz(name, tmp_path):
    run = subprocess.run([sys.executable, __file__, name], cwd=tmp_path, capture_output=True, text=True,
                         errors='replace', timeout=SECONDS + 900,    # Hypothesis may take minutes to shrink
                         env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
    print(run.stdout)
    assert run.returncode == 0, f'{run.stderr[-20000:]}\nlast example: {(tmp_path / "example.txt").read_text()[:20000]}'


if __name__ == '__main__':
    fuzz(sys.argv[1])
