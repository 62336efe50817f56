"""sample, resize, build_vocab, evaluate, package and checkpoint, as their users call them."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import default_encodings, make_dataset
from PIL import Image

import model
from captioning import decoding, files
from captioning.captioner import export, load_captioner
from captioning.checkpoint import model_state, read_checkpoint, save_checkpoint, weights_hash
from captioning.files import ROOT, file_hash, write_json
from captioning.photo_captions import CaptionFile
from captioning.photos import find_photos
from scripts import build_vocab, checkpoint, evaluate, resize, sample
from scripts import package as packaging
from vocabulary import Vocabulary

WORDS = ['<start>', '<end>', '<unk>', *'a red green blue square dog runs on grass .'.split()]


@pytest.fixture
def small(tmp_path, small_weights):
    """A checkpoint of a small model with random weights."""
    torch.manual_seed(1)
    encoder_sizes = {'embed_size': 8, 'backbone': 'resnet18', 'weights': small_weights,
                     'image_size': 64}
    decoder_sizes = {'embed_size': 8, 'hidden_size': 8, 'vocab_size': len(WORDS)}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), model.DecoderRNN(**decoder_sizes)
    state = model_state(encoder, decoder, Vocabulary.from_words(WORDS), encoder_sizes,
                        decoder_sizes, weights_hash(encoder.backbone))
    state['settings'] = {'cocoapi_loc': '/home/somebody'}
    save_checkpoint(tmp_path / 'run' / 'best.pt', state)
    return tmp_path / 'run' / 'best.pt'


@pytest.fixture
def album(tmp_path):
    """A folder: three photos, one of them turned and in a folder within, a damaged one, a text."""
    folder = tmp_path / 'album'
    (folder / 'more').mkdir(parents=True)
    half = Image.new('RGB', (60, 40), 'red')
    half.paste('blue', (0, 0, 30, 40))
    half.save(folder / 'one_001.jpg')
    Image.new('L', (300, 10), 7).save(folder / 'two_002.PNG')
    exif = Image.Exif()
    exif[0x0112] = 6    # to be turned by 90 degrees
    half.save(folder / 'more' / 'three_003.jpg', exif=exif)
    (folder / 'bad_004.jpg').write_bytes((folder / 'one_001.jpg').read_bytes()[:300])
    (folder / 'notes.txt').write_text('no photo')
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    def call(command, *arguments):
        """-> (exit status or message, what was printed, what was printed to stderr)"""
        monkeypatch.setattr(sys, 'argv', [command.__name__, *map(str, arguments)])
        try:
            status = command.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()
    return call


def run_module(*command, cwd=ROOT):
    """`python COMMAND`, as in a shell, in the repository."""
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True,
                          cwd=cwd, timeout=300)


# ---- sample ----

def test_photos_are_found_in_files_folders_and_patterns(album, monkeypatch):
    monkeypatch.chdir(album)
    three = str(Path('more/three_003.jpg'))
    everything = ['bad_004.jpg', three, 'one_001.jpg', 'two_002.PNG']
    assert find_photos(['.']) == everything
    assert find_photos(['*_00[12].*', 'one_001.jpg']) == ['one_001.jpg', 'two_002.PNG']
    assert find_photos(['missing.jpg', '**/three*']) == ['missing.jpg', three]
    (album / 'a[1].jpg').write_bytes(b'')
    assert find_photos(['a[1].jpg']) == ['a[1].jpg']
    for nothing in ('*.gif', str(album.parent / 'empty')):
        (album.parent / 'empty').mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match='no photos in'):
            find_photos([nothing])


def test_text_names_each_photo_and_what_cannot_be_read(small, album, call):
    arguments = ['--checkpoint', small, '--image', album, album / 'none.jpg']
    status, output, errors = call(sample, *arguments)
    told = dict(line.split(': ', 1) for line in output.splitlines())
    names = [str(album / name) for name in ('more/three_003.jpg', 'one_001.jpg', 'two_002.PNG')]
    assert sorted(told) == names
    assert list(told.values()) == load_captioner(small).caption(names, beam_size=3)
    assert status == '2 of 5 photos could not be read' and 'bad_004.jpg cannot be read' in errors
    assert 'none.jpg not found' in errors and 'Traceback' not in errors


def test_json_has_more_captions_each_with_its_chance(small, album, call):
    _, output, _ = call(sample, '--checkpoint', small, '--image', album / 'one_001.jpg',
                        '--format', 'json', '--num-captions', 3, '--beam-size', 2)
    (one,) = json.loads(output)
    assert one['image'] == str(album / 'one_001.jpg')
    assert len({caption['caption'] for caption in one['captions']}) == 3
    assert all(caption['log_prob'] < 0 for caption in one['captions'])


def test_coco_results_are_continued_and_kept_where_it_stops(
        small, album, call, monkeypatch, tmp_path):
    output = tmp_path / 'results.json'

    def write_results(photos):
        return call(sample, '--checkpoint', small, '--image', photos, '--format', 'coco',
                    '--output', output)

    write_results(album / 'two_002.PNG')
    first = json.loads(output.read_text())
    assert [set(one) for one in first] == [{'image_id', 'caption'}] and first[0]['image_id'] == 2
    first[0]['caption'] = 'kept'
    output.write_text(json.dumps(first))

    read, seen = sample.caption_photos, []

    def stopped(captioner, paths, *rest):
        for one in read(captioner, paths, *rest):
            seen.append(one[0])
            yield one
            if one[1]:
                raise KeyboardInterrupt

    monkeypatch.setattr(sample, 'caption_photos', stopped)
    with pytest.raises(KeyboardInterrupt):
        write_results(album)
    assert len(json.loads(output.read_text())) == 2
    assert not any('two_002' in path for path in seen)
    monkeypatch.setattr(sample, 'caption_photos', read)
    status, _, errors = write_results(album)
    results = {one['image_id']: one['caption'] for one in json.loads(output.read_text())}
    assert results.keys() == {1, 2, 3} and results[2] == 'kept'
    assert status == '1 of 2 photos could not be read' and '3 photos are captioned' in errors


@pytest.mark.skipif(os.name == 'nt', reason='torchrun does not start with PyTorch for Windows')
def test_two_processes_share_the_photos(small, album, tmp_path):
    output = tmp_path / 'shared.json'
    ran = run_module('-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone',
                     '-m', 'scripts.sample', '--checkpoint', small, '--image', album,
                     '--output', output)
    assert 'bad_004.jpg cannot be read' in ran.stderr and '1 of 4 photos' in ran.stderr
    names = [Path(one['image']).name for one in json.loads(output.read_text())]
    assert names == ['three_003.jpg', 'one_001.jpg', 'two_002.PNG']
    assert [path.name for path in tmp_path.glob('shared.json*')] == ['shared.json']


def test_parts_of_processes_that_were_killed_are_not_lost(tmp_path):
    output = tmp_path / 'captions.json'
    for rank, photo in enumerate('ca'):
        write_json(f'{output}.rank{rank}', [{'image': photo}])
    opened = CaptionFile(output, ['a', 'b', 'c'])
    assert opened.missing == ['b']
    assert json.loads(output.read_text()) == [{'image': 'a'}, {'image': 'c'}]
    assert [path.name for path in tmp_path.iterdir()] == ['captions.json']


@pytest.mark.skipif(os.name == 'nt', reason='names of files are text there')
def test_a_name_that_is_no_text_is_kept_as_it_is(small, album, call, tmp_path):
    photo = os.fsdecode(os.fsencode(album) + b'/caf\xe9.jpg')
    (album / 'one_001.jpg').rename(photo)
    output = tmp_path / 'captions.json'
    call(sample, '--checkpoint', small, '--image', album, '--output', output)
    assert photo in [one['image'] for one in json.loads(output.read_text())]
    _, _, errors = call(sample, '--checkpoint', small, '--image', photo, '--output', output)
    assert '1 of 1 photos are in' in errors


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--output', 'x.txt', '--format', 'text'], '--output is for'),
    (['--format', 'coco', '--image', 'name_1.png', 'other-01.png'], 'end in the same number'),
    (['--output', 'list.json'], 'is not the output of this command'),
    (['--beam-size', '0'], 'a number from 1'), (['--format', 'coco'], 'has no number'),
    (['--output', 'other.json'], 'is not the output of this command')])
def test_sample_says_what_it_cannot_do(small, tmp_path, call, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path('other.json').write_text('{"a": 1}')
    Path('list.json').write_text('[{"a": 1}, {"a": 2}]')
    Image.new('RGB', (9, 9)).save('name.png')
    try:
        _, _, errors = call(sample, '--checkpoint', small, '--image', 'name.png', *arguments)
    except ValueError as error:
        errors = str(error)
    assert told in errors


# ---- As on Windows ----

def test_sample_needs_no_code_page_and_imports_little(small, album, tmp_path, monkeypatch):
    """A name that the code page lacks is printed all the same, and no text is read by it."""
    code = """
import sys
checkpoint, album, output = sys.argv[1:]
import scripts.sample
for more in ([], ['--output', output]):
    sys.argv = ['sample', '--checkpoint', checkpoint, '--image', album, *more]
    try:
        scripts.run_main(scripts.sample.main)
    except SystemExit as end:
        assert '1 of 4 photos' in str(end), end
heavy = ('matplotlib', 'pycocotools', 'pandas', 'IPython')
print([name for name in heavy if name in sys.modules])
"""
    (album / 'one_001.jpg').rename(album / '\N{CAT FACE}.jpg')
    monkeypatch.setenv('PYTHONIOENCODING', 'cp1252')    # of what is written to a file or pipe there
    output = tmp_path / 'captions.json'
    ran = run_module('-X', 'warn_default_encoding', '-c', code, small, album, output)
    assert ran.stdout.count('.jpg: ') == 2 and '\\U0001f431.jpg: ' in ran.stdout, ran.stderr
    assert ran.stdout.splitlines()[-1] == '[]', ran.stdout + ran.stderr
    assert not default_encodings(ran.stderr, ROOT)
    assert len(json.loads(output.read_text('utf-8'))) == 3


# ---- evaluate ----

def test_a_folder_with_a_validation_split_alone_can_be_evaluated(
        small, call, tmp_path, isolated_root):
    """The training captions are not asked for, not even to name the cache folder."""
    folder = make_dataset(tmp_path / 'coco80', {'val': 4})
    results_file, scores_file = tmp_path / 'captions.json', tmp_path / 'scores.json'
    status, output, _ = call(evaluate, small, '--cocoapi-loc', folder, '--no-java',
                             '--results-out', results_file, '--json', scores_file)
    assert status is None and 'CIDEr' in output
    assert len(json.loads(results_file.read_text())) == 4
    assert 'CIDEr' in scores_file.read_text()
    kept = results_file.read_bytes()
    with pytest.raises(ValueError, match='give another file by --results-out'):
        call(evaluate, small, '--cocoapi-loc', folder, '--no-java', '--results-out', results_file,
             '--against', results_file)
    assert results_file.read_bytes() == kept
    captions = folder / 'cocoapi' / 'annotations' / 'captions_val2014.json'
    cached, = (isolated_root / 'cache').glob('coco80-*')
    assert cached.name == f'coco80-{file_hash(captions)[:8]}'
    assert list(cached.glob('features-*/val2014-*.npy'))


# ---- For readers of older READMEs ----

def test_what_earlier_readmes_import_is_still_there():
    from scripts.checkpoint import load_captioner as loader
    from scripts.decoding import beams, sample
    assert loader is load_captioner
    assert (beams, sample) == (decoding.beams, decoding.sample)


def test_resize_keeps_the_aspect_turns_upright_and_skips_what_is_done(album, tmp_path, call):
    small = tmp_path / 'small'
    arguments = ['--image_dir', album, '--output_dir', small, '--image_size', 20]
    status, output, _ = call(resize, *arguments)
    assert '3 photos' in output and 'bad_004.jpg' in status and '1 of 4' in status
    sizes = {path.name: Image.open(path).size for path in small.rglob('*.*')}
    assert sizes == {'one_001.jpg': (30, 20), 'two_002.PNG': (300, 10), 'three_003.jpg': (20, 30)}
    before = {path: path.stat().st_mtime_ns for path in small.rglob('*.*')}
    call(resize, *arguments)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob('*.*')}


@pytest.mark.skipif(os.name == 'nt', reason='Windows does not tell whether a process runs')
def test_what_a_killed_resize_left_goes(album, tmp_path, call):
    small = tmp_path / 'small'
    small.mkdir()
    killed = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'],
                            capture_output=True, text=True, check=True).stdout.strip()
    left = small / f'.one_001.jpg.{files.HOST}.{killed}.1.tmp'
    left.touch()
    call(resize, '--image_dir', album, '--output_dir', small)
    assert not left.exists() and (small / 'one_001.jpg').exists()


def test_build_vocab_writes_what_training_reads(dataset, call, tmp_path):
    captions = dataset / 'cocoapi' / 'annotations' / 'captions_train2014.json'
    vocab_file = tmp_path / 'new' / 'v.pkl'
    _, output, _ = call(build_vocab, '--caption_path', captions, '--vocab_path', vocab_file,
                        '--threshold', 4)
    vocab = Vocabulary(4, str(vocab_file), vocab_from_file=True)
    assert f'{len(vocab)} words' in output
    assert 'square' in vocab.word2idx and 'nothing' not in vocab.word2idx


# ---- To give away ----

def test_a_checkpoint_of_half_the_size_captions_alike_and_names_no_folder(
        small, album, call, tmp_path):
    output_file = tmp_path / 'out' / 'half.pt'
    _, output, _ = call(checkpoint, small, '--output', output_file)
    half = read_checkpoint(output_file)
    assert 'MB' in output and half['settings']['cocoapi_loc'] is None
    assert {value.dtype for value in half['decoder']['state'].values()} == {torch.float16}
    of_model = Path(model.__file__).read_text()
    assert (tmp_path / 'out' / 'model.py').read_text() == of_model
    paths, embedded = [album / 'one_001.jpg', album / 'two_002.PNG'], []
    for path in (small, output_file):
        captioner = load_captioner(path)
        embedded.append(captioner.encoder.embed(captioner.features(paths)))
    assert torch.allclose(*embedded, atol=0.02, rtol=0.02)


def test_a_package_captions_where_it_is_unpacked(small, album, call, tmp_path):
    run = small.parent
    (run / 'notebooks').mkdir()
    (run / 'notebooks' / '2_Training.html').write_text('<p>trained</p>')
    (run / 'scores.json').write_text(json.dumps({'CIDEr': 0.5, 'images': 4}))
    of_model = Path(model.__file__).read_text()
    (run / 'model.py').write_text(of_model + '\n# as it was in the run\n')
    _, output, _ = call(packaging, small, '--output', tmp_path / 'give.zip')
    assert 'MB' in output and 'without notebooks' not in output
    with zipfile.ZipFile(tmp_path / 'give.zip') as archive:
        archive.extractall(tmp_path / 'elsewhere')
    folder = tmp_path / 'elsewhere' / 'run'
    assert 'as it was in the run' in (folder / 'model.py').read_text()
    assert 'CIDEr: 50.0' in (folder / 'README.md').read_text()
    assert (folder / 'notebooks' / '2_Training.html').is_file()
    assert (folder / 'results' / 'scores.json').is_file()
    photo = album / 'one_001.jpg'
    ran = run_module('-m', 'scripts.sample', '--checkpoint', 'run.pt', '--image', photo,
                     cwd=folder)
    assert ran.returncode == 0 and ran.stdout.startswith(f'{photo}: '), ran.stderr


def test_a_package_has_the_model_file_with_what_it_imports(small, album, call, tmp_path):
    run, imports = small.parent, small.parent / 'imports'
    imports.mkdir()
    shutil.copy(model.__file__, imports / 'model.py')
    text = 'from model import DecoderRNN, EncoderCNN\n\nNAMES = DecoderRNN, EncoderCNN\n'
    (run / 'model.py').write_text(text)
    call(packaging, small, '--output', tmp_path / 'give.zip')
    with zipfile.ZipFile(tmp_path / 'give.zip') as archive:
        archive.extractall(tmp_path / 'elsewhere')
    folder = tmp_path / 'elsewhere' / 'run'
    assert (folder / 'run.py').read_text() == text
    assert (folder / 'imports' / 'model.py').is_file()
    command, = (line for line in (folder / 'README.md').read_text().splitlines()
                if 'scripts.sample' in line)
    photo = album / 'one_001.jpg'
    arguments = command.split()[1:]
    arguments[arguments.index('photo.jpg')] = photo
    ran = run_module(*arguments, cwd=folder)
    assert ran.returncode == 0 and ran.stdout.startswith(f'{photo}: '), ran.stderr
    # Given away again, it is the same.
    again = export(folder / 'run.pt', tmp_path / 'again' / 'mine.pt')
    names = {file.relative_to(tmp_path / 'again').as_posix() for file in again}
    assert names == {'mine.pt', 'mine.py', 'imports/model.py'}
    assert (tmp_path / 'again' / 'mine.py').read_text() == text


def test_a_checkpoint_given_away_replaces_no_other_model_file(small, tmp_path):
    here = tmp_path / 'here'
    here.mkdir()
    (here / 'model.py').write_text('# mine, edited since\n')
    written = export(small, here / 'given.pt')
    assert [file.name for file in written] == ['given.pt', 'given.py']
    assert (here / 'model.py').read_text() == '# mine, edited since\n'
    assert export(small, here / 'given.pt') == written    # the same again
    with pytest.raises(FileExistsError, match='model.py is there'):
        export(small, here / 'model.pt')
    assert not (here / 'model.pt').exists()
    # Given away again after an edit: its own file, and the one that is found beside it.
    (small.parent / 'model.py').write_text(Path(model.__file__).read_text() + '# edited again\n')
    assert export(small, here / 'given.pt') == written
    assert (here / 'given.py').read_text().endswith('# edited again\n')
    (here / 'model.py').unlink()
    assert export(small, here / 'given.pt') == written
    (here / 'notes.py').write_text('of mine')
    (here / 'model.py').write_text('of mine')
    with pytest.raises(FileExistsError, match='notes.py is there'):
        export(small, here / 'notes.pt')
