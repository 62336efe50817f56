"""Whatever a reader is given, it gives a result or says what is wrong.

    pytest -s tests/slow/test_fuzz.py

Hypothesis makes the inputs (fuzz_inputs.py): ten minutes for each of five readers, or FUZZ_SECONDS
of the environment. Each runs in a process with 2 GB more memory than it starts with, and an example
that takes 20 s ends it. A failure shows the smallest example, as the arguments of its check; where
the process ended, the last one.
"""

import contextlib
import faulthandler
import importlib
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from fuzz_inputs import (
    ANNOTATIONS,
    ANY_JSON,
    ENTRIES,
    GOOD_ANNOTATIONS,
    GOOD_RESULTS,
    LONG,
    TEXT,
    WRITTEN,
    json_files,
    mostly,
    pictures,
    vocabulary_files,
)
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get('FUZZ_SECONDS', '600'))
HANG = 20    # seconds
OPTIONS = settings(max_examples=500, deadline=None, database=None,
                   phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck))
FIELDS = {'images': ('id', 'file_name'), 'annotations': ('image_id', 'caption')}
SPECIAL = ['<start>', '<end>', '<unk>']


class Vocabulary:
    """Stands for the classes that wrote old files; in the child its module is __main__."""


# ---- What is promised ----

def or_said(call, *arguments, kinds=ValueError, named):
    """What `call` gives; None where it raises one of `kinds` with a message that names `named`."""
    try:
        return call(*arguments)
    except kinds as error:
        assert named in str(error), f'the message does not name it: {error!r}'


def check_tokens(text, words, ids):
    from vocabulary import Vocabulary, tokenize
    tokens = tokenize(text)
    assert all(type(token) is str and token for token in tokens)
    assert not any(map(str.isspace, ''.join(tokens)))
    assert tokens == tokenize(text)
    others = [word for word in dict.fromkeys([*tokens[::2], *words]) if word not in SPECIAL]
    vocab = Vocabulary.from_words([*SPECIAL, *others])
    encoded = vocab.encode(text)
    assert encoded == [0, *(vocab(token) for token in tokens), 1]
    assert set(encoded) <= set(vocab.idx2word)
    known = [(i, token) for i, token in zip(encoded[1:], tokens, strict=False) if i != 2]
    assert all(vocab.idx2word[i] == token for i, token in known)
    for numbers in ([i % len(vocab) for i in ids], encoded):
        sentence = vocab.decode(numbers)
        assert type(sentence) is str and sentence == vocab.decode([*numbers, 1, 2])
        if not any('<' in word or '>' in word for word in others):
            assert '<start>' not in sentence and '<end>' not in sentence


def check_vocabulary(content):
    from vocabulary import Vocabulary
    Path('vocab.pkl').write_bytes(content)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir('called')
    CALLED.clear()
    vocab = or_said(lambda: Vocabulary(None, 'vocab.pkl', annotations_file='vocab.pkl',
                                       vocab_from_file=True), named='vocab.pkl')
    assert not CALLED and not os.path.exists('called'), f'it was called: {CALLED}'
    if vocab is not None:
        numbers = list(range(len(vocab)))
        assert all(type(word) is str for word in vocab.word2idx)
        assert sorted(vocab.word2idx.values()) == sorted(vocab.idx2word) == numbers
        assert vocab.encode('a zebra')[::3] == [vocab.start_id, vocab.end_id]
        assert type(vocab.decode(numbers)) is str


def check_annotations(content):
    from captioning.caption_data import CaptionData
    for split in ('train', 'test'):
        file = CaptionData('.').annotation_file(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        folder = CaptionData('.').image_folder(split)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 3)).save(folder / 'a.png')
    try:
        check_captions(CaptionData('.').annotation_file('train'))
        for mode in ('train', 'test'):
            check_dataset(mode, CaptionData('.'))
        check_loader()
    finally:
        for kept in Path().glob('*.tokens.npz'):
            kept.unlink()


def check_captions(file):
    """Of an annotation file: each entry has its fields, and the tokens are kept as they were."""
    from captioning.annotations import caption_tokens, read_annotations
    from vocabulary import tokenize
    annotations = or_said(read_annotations, file, named=file.name)
    for key, fields in FIELDS.items() if annotations else ():
        entries = annotations[key]
        assert all(entry[field] is not None for entry in entries for field in fields)
    tokens = or_said(caption_tokens, str(file), tokenize, '', named=file.name)
    if tokens:
        again = caption_tokens(str(file), tokenize, '')    # what was kept
        assert all(list(old) == list(new) for old, new in zip(tokens, again, strict=True))
        assert len(tokens.ends) == len(annotations['annotations'])


def check_dataset(mode, caption_data):
    from data_loader import CoCoDataset
    from vocabulary import Vocabulary
    vocab = Vocabulary.from_words([*SPECIAL, 'a', 'dog'])
    data = or_said(CoCoDataset, size_of, mode, 2, vocab, caption_data, '',
                   kinds=(ValueError, FileNotFoundError),
                   named=caption_data.annotation_file(mode).name)
    for row in range(len(data or ())):
        path = data.paths[row if mode == 'test' else data.image_rows[row]]
        or_said(data.__getitem__, row, kinds=OSError, named=str(path))


def check_loader():
    from data_loader import get_loader
    loader = or_said(lambda: get_loader(size_of, 'train', 2, 1, vocab_from_file=False,
                                        cocoapi_loc='.'),
                     kinds=(ValueError, FileNotFoundError), named='captions_train2014.json')
    assert loader is None or len(loader.dataset) == len(loader.dataset.caption_lengths) > 0


def size_of(image):
    """In the place of a transform."""
    return image.size


def check_image(content):
    from captioning.photos import load_image
    Path('photo').write_bytes(content)
    image = or_said(load_image, 'photo', kinds=OSError, named='photo')
    if image is not None:
        assert isinstance(image, Image.Image) and image.mode == 'RGB'
        assert image.tobytes() is not None


def check_results(content, annotations):
    from captioning.annotations import read_annotations
    from captioning.scoring import read_results
    Path('annotations.json').write_bytes(annotations)
    Path('results.json').write_bytes(content)
    annotations = or_said(read_annotations, 'annotations.json', named='annotations.json')
    for as_empty in (False, True) if annotations else ():
        results = or_said(read_results, 'results.json', annotations, as_empty, named='.json')
        for result in results or ():
            assert type(result['caption']) is str
            assert result['image_id'] in [image['id'] for image in annotations['images']]


TARGETS = {
    'tokens': lambda: (check_tokens, st.one_of(TEXT, WRITTEN, LONG), st.lists(TEXT, max_size=5),
                       st.lists(st.integers(0, 20), max_size=9)),
    'vocabulary': lambda: (check_vocabulary, vocabulary_files(Vocabulary)),
    'annotations': lambda: (check_annotations, json_files(ANNOTATIONS, GOOD_ANNOTATIONS)),
    'image': lambda: (check_image, pictures()),
    'results': lambda: (check_results, json_files(mostly(ENTRIES, ANY_JSON), GOOD_RESULTS),
                        st.just(GOOD_ANNOTATIONS.encode())
                        | json_files(ANNOTATIONS, GOOD_ANNOTATIONS)),
}
MODULES = {'tokens': ['vocabulary', 'nltk.tokenize.treebank'], 'vocabulary': ['vocabulary'],
           'annotations': ['data_loader', 'nltk.tokenize'], 'image': ['captioning.photos'],
           'results': ['captioning.scoring']}
# GB, by one example
MEMORY = {'tokens': 0.5, 'vocabulary': 0.5, 'annotations': 0.5, 'image': 1.5, 'results': 0.5}


# ---- One target in one process ----

CALLED = []    # what a pickle made happen
FOREIGN = {'pickle.find_class', 'os.system', 'os.mkdir', 'subprocess.Popen'}


def note_call(event, arguments):
    if event in FOREIGN:
        CALLED.append(f'{event}{arguments}')


def peak():
    """Largest resident memory of this process, in GB, since 5 was last written to clear_refs."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 2 ** 20


def limit_memory():
    """To 2 GB more than this process has."""
    import resource  # here: Windows has none
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = 4096 * pages + 2 * 2 ** 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(name):
    """Check examples until the time is over; one that fails is made smaller and printed."""
    faulthandler.enable()    # a crash of the interpreter shows where
    warnings.simplefilter('ignore')
    for module in MODULES[name]:
        importlib.import_module(module)
    check, *strategies = TARGETS[name]()
    sys.addaudithook(note_call)
    limit_memory()
    spent, peaks, started = [], [peak()], time.monotonic()

    def example_passes(example):
        Path('example.txt').write_text(repr(example))    # for the parent, should this process end
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
    rate = len(spent) / (time.monotonic() - started)
    print(f'{name}: {len(spent):,} examples, {rate:.0f} a second, the longest {max(spent):.1f} s; '
          f'memory {peaks[0]:.2f} GB, at most {max(peaks):.2f} GB')


@pytest.mark.parametrize('name', TARGETS)
def test_fuzz(name, tmp_path):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    longest = SECONDS + 900    # Hypothesis may take minutes to make an example smaller
    run = subprocess.run([sys.executable, __file__, name], cwd=tmp_path, capture_output=True,
                         text=True, errors='replace', timeout=longest, env=environment)
    print(run.stdout)
    example = (tmp_path / 'example.txt').read_text()[:20000]
    assert run.returncode == 0, f'{run.stderr[-20000:]}\nlast example: {example}'


if __name__ == '__main__':
    fuzz(sys.argv[1])
