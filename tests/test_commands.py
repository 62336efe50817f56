"""sample, resize, build_vocab, package and checkpoint, as their users call them."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import model
from scripts import build_vocab, checkpoint, resize, sample
from scripts import package as packaging
from scripts.checkpoint import load_captioner, model_state, read_checkpoint, save_checkpoint
from scripts.features import weights_hash
from vocabulary import Vocabulary

WORDS = ['<start>', '<end>', '<unk>', *'a red green blue square dog runs on grass .'.split()]


@pytest.fixture
def small(tmp_path, small_weights):
    """A checkpoint of a small model with random weights."""
    torch.manual_seed(1)
    encoder_sizes = {'embed_size': 8, 'backbone': 'resnet18', 'weights': small_weights}
    decoder_sizes = {'embed_size': 8, 'hidden_size': 8, 'vocab_size': len(WORDS)}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), model.DecoderRNN(**decoder_sizes)
    state = model_state(encoder, decoder, Vocabulary.from_words(WORDS), encoder_sizes, decoder_sizes,
                        weights_hash(encoder.backbone))
    save_checkpoint(tmp_path / 'run' / 'best.pt', {**state, 'settings': {'cocoapi_loc': '/home/somebody'}})
    return tmp_path / 'run' / 'best.pt'


@pytest.fixture
def photos(tmp_path):
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


# ---- sample ----

def test_photos_are_found_in_files_folders_and_patterns(photos, monkeypatch):
    monkeypatch.chdir(photos)
    everything = ['bad_004.jpg', 'more/three_003.jpg', 'one_001.jpg', 'two_002.PNG']
    assert sample.find_photos(['.']) == everything
    assert sample.find_photos(['*_00[12].*', 'one_001.jpg']) == ['one_001.jpg', 'two_002.PNG']
    assert sample.find_photos(['missing.jpg', '**/three*']) == ['missing.jpg', 'more/three_003.jpg']
    (photos / 'a[1].jpg').write_bytes(b'')
    assert sample.find_photos(['a[1].jpg']) == ['a[1].jpg']
    for nothing in ('*.gif', str(photos.parent / 'empty')):
        (photos.parent / 'empty').mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match='no photos in'):
            sample.find_photos([nothing])


def test_text_names_each_photo_and_what_cannot_be_read(small, photos, call):
    status, output, errors = call(sample, '--checkpoint', small, '--image', photos, photos / 'none.jpg')
    told = dict(line.split(': ', 1) for line in output.splitlines())
    names = [str(photos / name) for name in ('more/three_003.jpg', 'one_001.jpg', 'two_002.PNG')]
    assert sorted(told) == names
    assert list(told.values()) == load_captioner(small).caption(names, beam_size=3)
    assert status == '2 of 5 photos could not be read' and 'bad_004.jpg cannot be read' in errors
    assert 'none.jpg not found' in errors and 'Traceback' not in errors


def test_json_has_more_captions_each_with_its_chance(small, photos, call):
    _, output, _ = call(sample, '--checkpoint', small, '--image', photos / 'one_001.jpg', '--format', 'json',
                        '--num-captions', 3, '--beam-size', 2)
    (one,) = json.loads(output)
    chances = [caption['log_prob'] for caption in one['captions']]
    assert one['image'] == str(photos / 'one_001.jpg') and len({c['caption'] for c in one['captions']}) == 3
    assert all(chance < 0 for chance in chances)


def test_coco_results_are_continued_and_kept_where_it_stops(small, photos, call, monkeypatch, tmp_path):
    output = tmp_path / 'results.json'
    call(sample, '--checkpoint', small, '--image', photos / 'two_002.PNG', '--format', 'coco', '--output', output)
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
        call(sample, '--checkpoint', small, '--image', photos, '--format', 'coco', '--output', output)
    assert len(json.loads(output.read_text())) == 2 and not any('two_002' in path for path in seen)
    monkeypatch.setattr(sample, 'caption_photos', read)
    status, _, errors = call(sample, '--checkpoint', small, '--image', photos, '--format', 'coco', '--output', output)
    results = {one['image_id']: one['caption'] for one in json.loads(output.read_text())}
    assert results.keys() == {1, 2, 3} and results[2] == 'kept'
    assert status == '1 of 2 photos could not be read' and '3 photos are captioned' in errors


def test_two_processes_share_the_photos(small, photos, tmp_path):
    output = tmp_path / 'shared.json'
    ran = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone', '-m', 'scripts.sample',
         '--checkpoint', small, '--image', photos, '--output', output], capture_output=True, text=True, timeout=300,
        cwd=Path(sample.__file__).parent.parent)
    assert 'bad_004.jpg cannot be read' in ran.stderr and '1 of 4 photos' in ran.stderr
    assert [Path(one['image']).name for one in json.loads(output.read_text())] == ['three_003.jpg', 'one_001.jpg',
                                                                                  'two_002.PNG']
    assert [path.name for path in tmp_path.glob('shared.json*')] == ['shared.json']


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--output', 'x.txt', '--format', 'text'], '--output is for'), (['--beam-size', '0'], 'a number from 1'),
    (['--format', 'coco'], 'has no number'), (['--output', 'other.json'], 'is not the output of this command')])
def test_sample_says_what_it_cannot_do(small, photos, tmp_path, call, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path('other.json').write_text('{"a": 1}')
    Image.new('RGB', (9, 9)).save('name.png')
    try:
        _, _, errors = call(sample, '--checkpoint', small, '--image', 'name.png', *arguments)
    except ValueError as error:
        errors = str(error)
    assert told in errors


def test_sample_imports_neither_matplotlib_nor_pycocotools(small, photos):
    code = ("import sys; sys.argv = ['sample', '--checkpoint', sys.argv[1], '--image', sys.argv[2]]\n"
            'import scripts.sample; scripts.sample.main()\n'
            "print([name for name in ('matplotlib', 'pycocotools', 'pandas', 'IPython') if name in sys.modules])")
    ran = subprocess.run([sys.executable, '-c', code, small, photos / 'one_001.jpg'], capture_output=True, text=True,
                         cwd=Path(sample.__file__).parent.parent)
    assert ran.stdout.splitlines()[-1] == '[]', ran.stdout + ran.stderr


# ---- For readers of older READMEs ----

def test_resize_keeps_the_aspect_turns_upright_and_skips_what_is_done(photos, tmp_path, call):
    small = tmp_path / 'small'
    status, output, _ = call(resize, '--image_dir', photos, '--output_dir', small, '--image_size', 20)
    assert '3 photos' in output and 'bad_004.jpg' in status and '1 of 4' in status
    sizes = {path.name: Image.open(path).size for path in small.rglob('*.*')}
    assert sizes == {'one_001.jpg': (30, 20), 'two_002.PNG': (300, 10), 'three_003.jpg': (20, 30)}
    before = {path: path.stat().st_mtime_ns for path in small.rglob('*.*')}
    call(resize, '--image_dir', photos, '--output_dir', small, '--image_size', 20)
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob('*.*')}


def test_build_vocab_writes_what_training_reads(dataset, call, tmp_path):
    captions = dataset / 'cocoapi' / 'annotations' / 'captions_train2014.json'
    _, output, _ = call(build_vocab, '--caption_path', captions, '--vocab_path', tmp_path / 'new' / 'v.pkl',
                        '--threshold', 4)
    vocab = Vocabulary(4, str(tmp_path / 'new' / 'v.pkl'), vocab_from_file=True)
    assert f'{len(vocab)} words' in output and 'square' in vocab.word2idx and 'nothing' not in vocab.word2idx


# ---- To give away ----

def test_a_checkpoint_of_half_the_size_captions_alike_and_names_no_folder(small, photos, call, tmp_path):
    _, output, _ = call(checkpoint, small, '--output', tmp_path / 'out' / 'half.pt')
    half = read_checkpoint(tmp_path / 'out' / 'half.pt')
    assert 'MB' in output and half['settings']['cocoapi_loc'] is None
    assert {value.dtype for value in half['decoder']['state'].values()} == {torch.float16}
    assert (tmp_path / 'out' / 'model.py').read_text() == Path(model.__file__).read_text()
    paths = [photos / 'one_001.jpg', photos / 'two_002.PNG']
    features = [load_captioner(path).encoder.embed(load_captioner(path).features(paths))
                for path in (small, tmp_path / 'out' / 'half.pt')]
    assert torch.allclose(*features, atol=0.02, rtol=0.02)


def test_a_package_captions_where_it_is_unpacked(small, photos, call, tmp_path):
    run = small.parent
    (run / 'notebooks').mkdir()
    (run / 'notebooks' / '2_Training.html').write_text('<p>trained</p>')
    (run / 'scores.json').write_text(json.dumps({'CIDEr': 0.5, 'images': 4}))
    (run / 'model.py').write_text(Path(model.__file__).read_text() + '\n# as it was in the run\n')
    _, output, _ = call(packaging, small, '--output', tmp_path / 'give.zip')
    assert 'MB' in output and 'without notebooks' not in output
    with zipfile.ZipFile(tmp_path / 'give.zip') as archive:
        archive.extractall(tmp_path / 'elsewhere')
    folder = tmp_path / 'elsewhere' / 'run'
    assert 'as it was in the run' in (folder / 'model.py').read_text()
    assert 'CIDEr: 50.0' in (folder / 'README.md').read_text()
    assert (folder / 'notebooks' / '2_Training.html').is_file() and (folder / 'results' / 'scores.json').is_file()
    ran = subprocess.run([sys.executable, '-m', 'scripts.sample', '--checkpoint', 'run.pt', '--image',
                          photos / 'one_001.jpg'], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith(f'{photos / "one_001.jpg"}: '), ran.stderr
