"""What goes wrong on real machines: what is said, and whether the same command then goes on.

    pytest -s tests/slow/test_faults.py     # prints a table of them

Small runs on drawn squares; a few minutes. Full and read-only disks are small tmpfs mounts, which
need root.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import driver_of, make_dataset
from PIL import Image

from captioning.checkpoint import read_checkpoint
from captioning.files import ROOT

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='needs mounts of Linux')

TABLE = []
RUN = 'runs/squares'
FEATURES_PART = 'cache/*/*/*.part.npy'    # while features are computed
SLOW_PHOTOS = '''
import time
from captioning import encoding
encoding.loading_workers = lambda *_: 2
load_image = encoding.load_image
encoding.load_image = lambda *photo: (time.sleep(0.2), load_image(*photo))[1]
'''


class Place:
    """A folder for runs and caches, and the command that trains there."""

    def __init__(self, root, data, weights):
        self.root, self.data, self.weights = root, data, weights
        root.mkdir()

    def command(self, before=''):
        driver = self.root / 'driver.py'
        driver.write_text(driver_of(self.root, before))
        return [str(driver), '--name', 'squares', '--cocoapi-loc', str(self.data),
                '--backbone', 'resnet18', '--weights', self.weights, '--vocab-threshold', '1',
                '--batch-size', '16', '--epochs', '20', '--patience', '99',
                '--save-seconds', '0.2', '--device', 'cpu', '--embed-size', '128',
                '--hidden-size', '128']

    def start(self, before='', launcher=()):
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
        return subprocess.Popen([sys.executable, *launcher, *self.command(before)], cwd=ROOT,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True, env=environment)

    def train(self, before=''):
        """What `ended` gives of a training run."""
        return ended(self.start(before))

    def wait_for(self, pattern, process):
        end = time.monotonic() + 90
        while not list(self.root.glob(pattern)):
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.01)

    def weights_in_checkpoint(self):
        state = read_checkpoint(self.root / RUN / 'last.pt')
        return {key: value for part in ('encoder', 'decoder')
                for key, value in state[part]['state'].items()}


def run_command(*arguments):
    return subprocess.Popen([sys.executable, '-m', *arguments], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process, seconds=150):
    """-> (exit status, all that was printed, the last line of stderr); fails for a traceback."""
    out, errors = process.communicate(timeout=seconds)
    assert 'Traceback' not in errors, errors
    lines = [line for line in errors.replace('\r', '\n').splitlines() if line.strip()]
    return process.returncode, out + errors, lines[-1] if lines else ''


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, small_weights):
    """The Place of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp('faults')
    data = make_dataset(folder / 'squares', {'train': 60, 'val': 6, 'test': 3})
    place = Place(folder / 'undisturbed', data, small_weights)
    assert place.train()[0] == 0
    return place


@pytest.fixture
def place(undisturbed, tmp_path):
    return Place(tmp_path / 'root', undisturbed.data, undisturbed.weights)


@pytest.fixture(scope='module', autouse=True)
def table():
    yield
    width = max(len(row[0]) for row in TABLE)
    for fault, said, then in TABLE:
        print(f'\n{fault:{width}}  {said}\n{"":{width}}  -> {then}', end='')
    print()


def row(fault, said, then):
    TABLE.append((fault, said[:160], then))


def same(place, undisturbed):
    """The same command goes on to the end, with the weights of the undisturbed run."""
    status, _, error = place.train()
    assert status == 0, error
    expected, weights = undisturbed.weights_in_checkpoint(), place.weights_in_checkpoint()
    assert expected.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in expected.items())
    assert not list((place.root / 'runs').rglob('*.tmp'))
    assert not list((place.root / 'cache').rglob('*.part.npy'))
    return 'the same command goes on; weights equal to the bit'


@contextlib.contextmanager
def mounted(folder, options):
    """A tmpfs at `folder` -> a function that mounts it anew with other options."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(options):
        command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder]
        return subprocess.run(command, capture_output=True)

    if mount(options).returncode:
        pytest.skip('a small disk needs root')
    try:
        yield lambda options: mount(f'remount,{options}')
    finally:
        subprocess.run(['umount', '-l', folder])


# ---- Disks ----

@pytest.mark.parametrize(('what', 'folder', 'size'), [
    ('runs', 'runs', '2m'), ('runs, at the start', 'runs', '4k'), ('features', 'cache', '60k')])
def test_disk_full(what, folder, size, place, undisturbed):
    with mounted(place.root / folder, f'size={size}') as again:
        status, _, said = place.train()
        assert status == 1 and ('No space left' in said or 'no room' in said), said
        again('size=100m')
        row(f'disk full: {what}', said, same(place, undisturbed))


@pytest.mark.parametrize('folder', ['runs', 'cache'])
def test_read_only_folder(folder, place, undisturbed):
    with mounted(place.root / folder, 'ro,size=100m') as again:
        status, _, said = place.train()
        assert status == 1 and 'Read-only' in said and str(place.root / folder) in said, said
        again('rw')
        row(f'read-only {folder}', said, same(place, undisturbed))


def test_disk_full_for_captions(tmp_path):
    with mounted(tmp_path / 'disk', 'size=4k') as again:
        output = tmp_path / 'disk' / 'captions.json'
        (tmp_path / 'disk' / 'filler').write_bytes(bytes(4096))
        command = ['scripts.sample', '--image', 'images/photos', '--output', str(output)]
        status, _, said = ended(run_command(*command))
        assert status == 1 and 'No space left' in said, said
        again('size=1m')
        assert ended(run_command(*command))[0] == 0
        assert len(json.loads(output.read_text())) == 5
        row('disk full: sample --output', said, 'the same command captions all')


# ---- Signals ----

@pytest.mark.parametrize('kind', ['SIGTERM', 'SIGINT', 'SIGKILL'])
@pytest.mark.parametrize(('moment', 'pattern', 'before'), [
    ('training', f'{RUN}/last.pt', ''), ('features are computed', FEATURES_PART, SLOW_PHOTOS)])
def test_signals(kind, moment, pattern, before, place, undisturbed):
    process = place.start(before)
    place.wait_for(pattern, process)
    time.sleep(0.7)
    if kind == 'SIGKILL':
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.send_signal(getattr(signal, kind))
    status, _, said = ended(process)
    if kind == 'SIGKILL':
        assert status == -9, said
    else:
        assert status == 1 and ('interrupted' in said or 'terminated' in said), said
    row(f'{kind} while {moment}', said or '(nothing can be said)', same(place, undisturbed))


def children(process):
    """Ids of the processes that a process has started, in order."""
    listed = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True)
    return [int(pid) for pid in listed.stdout.split()]


def test_a_killed_worker(place, undisturbed):
    process = place.start(SLOW_PHOTOS)
    place.wait_for(FEATURES_PART, process)
    end = time.monotonic() + 30
    while not (workers := children(process)):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    os.kill(workers[-1], signal.SIGKILL)
    status, _, said = ended(process)
    assert status == 1 and 'worker' in said, said
    row('a killed worker that loads photos', said, same(place, undisturbed))


def test_a_killed_rank(place):
    process = place.start(launcher=(
        '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone'))
    place.wait_for(f'{RUN}/last.pt', process)
    os.kill(children(process)[-1], signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    left = subprocess.run(['pgrep', '-f', str(place.root / 'driver.py')])
    assert left.returncode == 1    # none is left
    status, printed, said = place.train()
    assert status == 0 and 'continues after' in printed, said
    row('a killed rank of two', 'torchrun ends the other one',
        'the same run goes on, here with one rank')


def test_two_runs_with_one_name(place, undisturbed):
    first = place.start()
    place.wait_for(f'{RUN}/last.pt', first)
    first.send_signal(signal.SIGSTOP)    # or it might be finished too soon
    status, _, said = place.train()
    assert status == 1 and 'trained by another process' in said, said
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    row('two runs with one name', said, same(place, undisturbed))


# ---- Damaged files ----

def cut_short(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip_one_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


DAMAGES = {'cut short': cut_short, 'one bit flipped': flip_one_bit, 'gone': os.unlink}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize(('what', 'pattern'), [
    ('features', 'cache/*/*/train*.npy'), ('tokens', 'cache/*/*train*.tokens.npz')])
def test_damaged_caches(what, pattern, damage, place, undisturbed):
    process = place.start()
    place.wait_for(f'{RUN}/last.pt', process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    file, = place.root.glob(pattern)
    DAMAGES[damage](file)
    status, printed, said = place.train()
    assert status == 0, said
    told = next((line for line in printed.splitlines() if 'damaged' in line), '')
    assert told or damage == 'gone', printed
    told = told.replace(str(place.root), '') or '(nothing)'
    row(f'{what} {damage}', told, 'computed again; ' + same(place, undisturbed))


@pytest.mark.parametrize('name', ['last.pt', 'settings.json'])
def test_a_damaged_run(name, place, undisturbed):
    process = place.start()
    place.wait_for(f'{RUN}/last.pt', process)
    process.send_signal(signal.SIGTERM)
    ended(process)
    file = place.root / RUN / name
    good = file.read_bytes()
    file.write_bytes(good[:len(good) // 2])
    status, _, said = place.train()
    assert status == 1 and name in said, said
    file.write_bytes(good)
    row(f'{name} cut short', said.replace(str(place.root), ''), same(place, undisturbed))


# ---- Other commands ----

def test_captioning_killed_and_continued(tmp_path):
    album, output = tmp_path / 'album', tmp_path / 'captions.json'
    album.mkdir()
    for number in range(900):
        image = Image.new('RGB', (64, 64), (number % 256, number // 4, 90))
        image.save(album / f'{number:03}.png')
    command = ['scripts.sample', '--image', str(album), '--output', str(output)]
    process = run_command(*command)
    end = time.monotonic() + 90
    while not output.exists():    # it saves every ten seconds
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.communicate()
    first = json.loads(output.read_text())
    assert 0 < len(first) < 900
    status, _, said = ended(run_command(*command), seconds=1200)    # an old CPU takes 10 minutes
    captioned = json.loads(output.read_text())
    assert status == 0 and len(captioned) == 900, said
    assert all(one in captioned for one in first)
    row('SIGKILL while captioning', f'{len(first)} of 900 are kept',
        'the same command captions the others')


def test_an_interrupted_installation(tmp_path):
    shutil.copyfile(ROOT / 'Makefile', tmp_path / 'Makefile')
    (tmp_path / 'requirements.txt').write_text('tqdm\nfilelock\npillow\nnumpy\n')
    command = ['make', '.venv/installed', f'PYTHON={sys.executable}']
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, start_new_session=True)
    first_package = '.venv/lib/*/site-packages/tqdm*'
    while not list(tmp_path.glob(first_package)) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / '.venv' / 'installed').exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / '.venv' / 'installed').exists(), done.stderr
    python = tmp_path / '.venv' / 'bin' / 'python'
    subprocess.run([python, '-c', 'import tqdm, filelock, PIL, numpy'], check=True)
    row('an interrupted installation', '(nothing: make writes its mark last)',
        'the same command installs the rest')
