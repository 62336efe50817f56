"""What goes wrong on real machines, each with what it says and whether the same command then goes on, in one table:

    pytest -s tests/slow/test_faults.py

Small runs on drawn squares; a few minutes. Full and read-only disks are small tmpfs mounts, which need root.
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

from data_loader import ROOT
from scripts.checkpoint import read_checkpoint

TABLE = []
SLOW_PHOTOS = '''
import scripts.features, time
scripts.features.loading_workers = lambda device: 2
read = scripts.features.load_image
scripts.features.load_image = lambda path: (time.sleep(0.2), read(path))[1]
'''


class Place:
    """A folder with runs and caches of its own, and the command that trains there."""

    def __init__(self, root, loc, weights):
        self.root, self.loc, self.weights = root, loc, weights
        root.mkdir()

    def command(self, before=''):
        driver = self.root / 'driver.py'
        driver.write_text(driver_of(self.root, before))
        return [str(driver), '--name', 'squares', '--cocoapi-loc', str(self.loc), '--backbone', 'resnet18', '--weights',
                self.weights, '--vocab-threshold', '1', '--batch-size', '16', '--epochs', '20', '--patience', '99',
                '--save-seconds', '0.2', '--device', 'cpu', '--embed-size', '128', '--hidden-size', '128']

    def start(self, before='', launcher=()):
        return subprocess.Popen([sys.executable, *launcher, *self.command(before)], cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})

    def train(self, before=''):
        """-> (exit status, all that it printed, the last line of stderr); a traceback fails the test."""
        return ended(self.start(before))

    def wait_for(self, pattern, process, count=1):
        end = time.monotonic() + 90
        while len(list(self.root.glob(pattern))) < count:
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.01)

    def state(self):
        state = read_checkpoint(self.root / 'runs' / 'squares' / 'last.pt')
        return {key: value for part in ('encoder', 'decoder') for key, value in state[part]['state'].items()}


def ended(process, seconds=150):
    out, errors = process.communicate(timeout=seconds)
    assert 'Traceback' not in errors, errors
    lines = [line for line in errors.replace('\r', '\n').splitlines() if line.strip()]
    return process.returncode, out + errors, lines[-1] if lines else ''


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """What a run gives that nothing disturbs: a Place."""
    from torchvision.models import resnet18
    folder = tmp_path_factory.mktemp('faults')
    torch.manual_seed(5)
    torch.save(resnet18().state_dict(), folder / 'resnet18.pt')
    loc = make_dataset(folder / 'squares', {'train': 60, 'val': 6, 'test': 3})
    place = Place(folder / 'whole', loc, str(folder / 'resnet18.pt'))
    assert place.train()[0] == 0
    return place


@pytest.fixture
def place(whole, tmp_path):
    return Place(tmp_path / 'root', whole.loc, whole.weights)


@pytest.fixture(scope='module', autouse=True)
def table():
    yield
    width = max(len(row[0]) for row in TABLE)
    print('\n' + '\n'.join(f'{fault:{width}}  {said}\n{"":{width}}  -> {then}' for fault, said, then in TABLE))


def row(fault, said, then):
    TABLE.append((fault, said[:160], then))


def same(place, whole):
    """The same command goes on to the end, with the weights of the undisturbed run."""
    status, _, error = place.train()
    assert status == 0, error
    expected, found = whole.state(), place.state()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert not list((place.root / 'runs').rglob('*.tmp')) and not list((place.root / 'data').rglob('*.part.npy'))
    return 'the same command goes on; weights equal to the bit'


@contextlib.contextmanager
def mounted(folder, options):
    """A tmpfs at `folder` -> a function that mounts it anew with other options."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(options):
        return subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], capture_output=True)

    if mount(options).returncode:
        pytest.skip('a small disk needs root')
    try:
        yield lambda options: mount(f'remount,{options}')
    finally:
        subprocess.run(['umount', '-l', folder])


# ---- Disks ----

@pytest.mark.parametrize(('what', 'folder', 'size'), [
    ('runs', 'runs', '2m'), ('runs, at the start', 'runs', '4k'), ('features', 'data/cache', '60k')])
def test_disk_full(what, folder, size, place, whole):
    with mounted(place.root / folder, f'size={size}') as again:
        status, _, said = place.train()
        assert status == 1 and ('No space left' in said or 'no room' in said), said
        again('size=100m')
        row(f'disk full: {what}', said, same(place, whole))


@pytest.mark.parametrize('folder', ['runs', 'data/cache'])
def test_read_only_folder(folder, place, whole):
    with mounted(place.root / folder, 'ro,size=100m') as again:
        status, _, said = place.train()
        assert status == 1 and 'Read-only' in said and folder in said, said
        again('rw')
        row(f'read-only {folder}', said, same(place, whole))


def test_disk_full_for_captions(tmp_path):
    with mounted(tmp_path / 'disk', 'size=4k') as again:
        output = tmp_path / 'disk' / 'captions.json'
        (tmp_path / 'disk' / 'filler').write_bytes(bytes(4096))
        command = [sys.executable, '-m', 'scripts.sample', '--image', 'images/photos', '--output', str(output)]
        status, _, said = ended(subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1))
        assert status == 1 and 'No space left' in said, said
        again('size=1m')
        assert ended(subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1))[0] == 0
        assert len(json.loads(output.read_text())) == 5
        row('disk full: sample --output', said, 'the same command captions all')


# ---- Signals ----

@pytest.mark.parametrize(('kind', 'words'), [('SIGTERM', 'interrupted'), ('SIGINT', 'interrupted'), ('SIGKILL', '')])
@pytest.mark.parametrize('moment', ['runs/squares/last.pt', 'data/cache/*/*/*.part.npy'])
def test_signals(kind, words, moment, place, whole):
    process = place.start(SLOW_PHOTOS if 'cache' in moment else '')
    place.wait_for(moment, process)
    time.sleep(0.7)
    os.killpg(process.pid, getattr(signal, kind)) if kind == 'SIGKILL' else process.send_signal(getattr(signal, kind))
    status, _, said = ended(process)
    assert status == (-9 if kind == 'SIGKILL' else 1) and (words in said or 'terminated' in said), said
    row(f'{kind} while {"training" if "last" in moment else "features are computed"}', said or '(nothing can be said)',
        same(place, whole))


def test_a_killed_worker(place, whole):
    process = place.start(SLOW_PHOTOS)
    place.wait_for('data/cache/*/*/*.part.npy', process)
    end = time.monotonic() + 30
    while not (workers := subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True).stdout.split()):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    os.kill(int(workers[-1]), signal.SIGKILL)
    status, _, said = ended(process)
    assert status == 1 and 'worker' in said, said
    row('a killed worker that loads photos', said, same(place, whole))


def test_a_killed_rank(place, whole):
    process = place.start(launcher=('-m', 'torch.distributed.run', '--nproc-per-node', '2', '--standalone'))
    place.wait_for('runs/squares/last.pt', process)
    ranks = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert subprocess.run(['pgrep', '-f', str(place.root / 'driver.py')]).returncode == 1    # none is left
    status, printed, said = place.train()
    assert status == 0 and 'continues after' in printed, said
    row('a killed rank of two', 'torchrun ends the other one', 'the same run goes on, here with one rank')


def test_two_runs_with_one_name(place, whole):
    first = place.start()
    place.wait_for('runs/squares/last.pt', first)
    first.send_signal(signal.SIGSTOP)    # or it might be finished too soon
    status, _, said = place.train()
    assert status == 1 and 'trained by another process' in said, said
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    row('two runs with one name', said, same(place, whole))


# ---- Damaged files ----

@pytest.mark.parametrize('damage', ['cut short', 'one bit flipped', 'gone'])
@pytest.mark.parametrize(('what', 'pattern'), [
    ('features', 'data/cache/*/*/train*.npy'), ('tokens', 'data/cache/*/*train*.tokens.npz')])
def test_damaged_caches(what, pattern, damage, place, whole):
    process = place.start()
    place.wait_for('runs/squares/last.pt', process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    file, = place.root.glob(pattern)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.unlink() if damage == 'gone' else file.write_bytes(data[:-100] if damage == 'cut short' else data)
    status, printed, said = place.train()
    assert status == 0, said
    told = next((line for line in printed.splitlines() if 'damaged' in line), '')
    assert told or damage == 'gone', printed
    row(f'{what} {damage}', told.partition('root')[2] or '(nothing)', 'computed again; ' + same(place, whole))


@pytest.mark.parametrize('name', ['last.pt', 'settings.json'])
def test_a_damaged_run(name, place, whole):
    process = place.start()
    place.wait_for('runs/squares/last.pt', process)
    process.send_signal(signal.SIGTERM)
    ended(process)
    file = place.root / 'runs' / 'squares' / name
    good = file.read_bytes()
    file.write_bytes(good[:len(good) // 2])
    status, _, said = place.train()
    assert status == 1 and name in said, said
    file.write_bytes(good)
    row(f'{name} cut short', said.replace(str(place.root), ''), same(place, whole))


# ---- Other commands ----

def test_captioning_killed_and_continued(tmp_path):
    album, output = tmp_path / 'album', tmp_path / 'captions.json'
    album.mkdir()
    for number in range(900):
        Image.new('RGB', (64, 64), (number % 256, number // 4, 90)).save(album / f'{number:03}.png')
    command = [sys.executable, '-m', 'scripts.sample', '--image', str(album), '--output', str(output)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1)
    end = time.monotonic() + 90
    while not output.exists():    # it saves every ten seconds
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.communicate()
    first = json.loads(output.read_text())
    assert 0 < len(first) < 900
    status, _, said = ended(subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1))
    found = json.loads(output.read_text())
    assert status == 0 and len(found) == 900 and all(one in found for one in first), said
    row('SIGKILL while captioning', f'{len(first)} of 900 are kept', 'the same command captions the others')


def test_an_interrupted_installation(tmp_path):
    shutil.copyfile(ROOT / 'Makefile', tmp_path / 'Makefile')
    (tmp_path / 'requirements.txt').write_text('tqdm\nfilelock\npillow\nnumpy\n')
    command = ['make', '.venv/installed', f'PYTHON={sys.executable}']
    process = subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, start_new_session=True)
    while not list(tmp_path.glob('.venv/lib/*/site-packages/tqdm*')) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / '.venv' / 'installed').exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / '.venv' / 'installed').exists(), done.stderr
    subprocess.run([tmp_path / '.venv/bin/python', '-c', 'import tqdm, filelock, PIL, numpy'], check=True)
    row('an interrupted installation', '(nothing: make writes its mark last)', 'the same command installs the rest')
