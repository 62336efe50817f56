"""The page under load, on loopback and Linux, in two or three minutes.

    pytest -s tests/slow/test_page_load.py

32 clients at once, each asking again as soon as it has its answer: good photos, huge ones, files
that are none, requests that no browser sends, connections dropped half-way. $LOAD_SECONDS and
$LOAD_CLIENTS: how long and how many.
"""

import contextlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from captioning.files import ROOT
from captioning.page import METHODS, delete_broken_uploads

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')

SECONDS = float(os.environ.get('LOAD_SECONDS', 60))
CLIENTS = int(os.environ.get('LOAD_CLIENTS', 32))
# Megabytes: the server's peak, and what the second half of the load may add to it.
MEMORY, GROWTH = 2500, 250
THREADS, FILES = 60, 10    # of the server at the end, and open files that it did not have before
PHOTOS = ROOT / 'images' / 'photos'
REFUSALS = {    # kind of request: what it is answered
    'text': 'not a photo',
    'empty': 'not a photo',
    'cut': 'damaged, or cut short',
    '56 megapixels': '56 megapixels',
    'bomb': 'far too many pixels',
    '21 MB': 'maximum allowed size',
    'no file': 'Choose a photo first',
    'path of the host': 'was not uploaded',
    'the same, unmarked': 'was not uploaded',
    'unknown method': 'not in the list of choices',
}
WEIGHTS = {    # kind of request: how often it is sent
    'good': 14,
    'huge': 2,
    **dict.fromkeys(REFUSALS, 1),
    'half an upload': 1,
    'left waiting': 1,
    'never read': 1,
}
CONSOLE = (    # how the lines begin that the server may print: all but the first are gradio's
    'http://127.0.0.1',
    'Traceback',
    'ERROR:    Exception in ASGI application',
    'starlette.requests.ClientDisconnect',
    "gradio.exceptions.Error: \"Value: 'no such method'",
)


class Refused(Exception):
    """The server's message instead of a caption."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The page's address, its process and the file with all that it prints.

    Its uploads lie in a folder in tmp_path/uploads.
    """
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'uploads'))
    (tmp_path / 'uploads').mkdir()
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'http://127.0.0.1:{free.getsockname()[1]}'
    console = tmp_path / 'console.txt'
    with open(console, 'w') as output:
        command = [sys.executable, '-m', 'scripts.serve', '--port', address.split(':')[-1]]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    for _ in range(240):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(address, trust_env=False)
            break
        assert process.poll() is None, console.read_text()
        time.sleep(0.5)
    yield address, process, console
    process.kill()
    process.wait()


def good_photos(folder):
    """{kind: paths}: the photos that ship and drawn ones; two of them of 12 and 48 megapixels."""
    rng, grid = np.random.default_rng(5), np.mgrid[:240, :320]
    drawn = {
        'snow': rng.integers(0, 256, (240, 320, 3)),
        'checks': (grid // 40).sum(0) % 2 * 255,
        'sky': grid[0],
        'rings': np.hypot(*(grid - 120)) // 15 % 2 * 255,
        'green': np.full((240, 320, 3), (20, 160, 40)),
    }
    photos = sorted(PHOTOS.glob('*.jpg'))
    huge = {folder / 'huge12.jpg': (4000, 3000), folder / 'huge48.jpg': (8000, 6000)}
    for photo, (path, size) in zip(photos[:2], huge.items(), strict=True):
        Image.open(photo).resize(size).save(path)
    good = list(photos)
    for name, pixels in drawn.items():
        good.append(folder / f'{name}.png')
        Image.fromarray(pixels.astype(np.uint8)).convert('RGB').save(good[-1])
    return {'good': good, 'huge': list(huge)}


def bad_files(folder):
    """{kind: path} of what is refused."""
    kinds = 'text', 'empty', 'cut', '56 megapixels', 'bomb', '21 MB'
    files = {kind: folder / f'{kind}.jpg' for kind in kinds}
    photo = (PHOTOS / 'cat.jpg').read_bytes()
    files['text'].write_text('this is no photo')
    files['empty'].touch()
    files['cut'].write_bytes(photo[:len(photo) // 2])
    files['21 MB'].write_bytes(photo + bytes(21 * 2 ** 20))
    Image.new('L', (8000, 7000)).save(files['56 megapixels'], 'png')
    Image.new('1', (20000, 20000)).save(files['bomb'], 'png')
    return files


def upload(http, path):
    """A file -> how a request names it."""
    answer = http.post('/upload', files={'files': (path.name, path.read_bytes())})
    if answer.status_code != 200:
        raise Refused(f'{answer.status_code} {answer.text}')
    return {'path': answer.json()[0], 'meta': {'_type': 'gradio.FileData'}}


def ask(http, *data):
    """-> where the caption can be had."""
    answer = http.post('/call/caption', json={'data': data})
    if answer.status_code != 200:
        raise Refused(f'{answer.status_code} {answer.json()["detail"]}')
    return f'/call/caption/{answer.json()["event_id"]}'


def caption(http, *data):
    """-> the caption, the table of others, the hash of the picture of where the model looked."""
    event = None
    with http.stream('GET', ask(http, *data)) as stream:
        for line in stream.iter_lines():
            if line.startswith('event: '):
                event = line.removeprefix('event: ')
            elif event in ('complete', 'error'):
                answer = json.loads(line.removeprefix('data: '))
                if event == 'error':
                    raise Refused(answer['error'])
                return answer[0], answer[1], Path(answer[2]['path']).parent.name
    raise AssertionError('the stream ended without an answer')


def send(http, text, body=b''):
    """A connection that has sent an HTTP request, `text` its first lines, or half of one."""
    connection = socket.create_connection((http.base_url.host, http.base_url.port))
    connection.sendall(text.replace('\n', '\r\n').encode() + body)
    return connection


def drop(http, kind, photo, chance, held):
    """Ask as an impatient client does."""
    if kind == 'half an upload':
        body = photo.read_bytes()
        head = ('POST /gradio_api/upload HTTP/1.1\nHost: page\n'
                'Content-Type: multipart/form-data; boundary=edge\n'
                f'Content-Length: {len(body) + 200}\n\n'
                '--edge\nContent-Disposition: form-data; name="files"; filename="half.jpg"\n\n')
        with send(http, head, body[:len(body) // 2]):
            time.sleep(chance.uniform(0, 0.2))
        return 'dropped'
    address = ask(http, upload(http, photo), METHODS[0])
    stream = send(http, f'GET /gradio_api{address} HTTP/1.1\nHost: page\n\n')
    if kind == 'never read':
        held.enter_context(stream)
        return 'open to the end'
    time.sleep(chance.uniform(0, 2))
    stream.close()
    return 'dropped'


def request(http, kind, photo, method, files):
    """The caption, or Refused, of a request of this kind."""
    if kind in ('good', 'huge'):
        return caption(http, upload(http, photo), method)
    if kind == 'unknown method':
        return caption(http, upload(http, photo), 'no such method')
    if kind in files:
        return caption(http, upload(http, files[kind]), method)
    not_uploaded = {
        'no file': None,
        'path of the host': {'path': '/etc/passwd', 'meta': {'_type': 'gradio.FileData'}},
        'the same, unmarked': {'path': str(photo)},
    }
    return caption(http, not_uploaded[kind], method)


def outcome(http, kind, photo, method, files, expected):
    """-> (how it ended, the server's message).

    AssertionError when that is not how this kind must end.
    """
    try:
        answer = request(http, kind, photo, method, files)
    except Refused as message:
        if 'Queue is full' in str(message):
            return 'queue full', str(message)
        assert REFUSALS.get(kind, 'a caption') in str(message), f'{kind} {photo.name}: {message}'
        return 'refused', str(message)
    assert kind not in REFUSALS, f'{kind} was captioned: {answer}'
    alone = expected[photo, method]
    assert answer == alone, f'{photo.name}, {method}: {answer}, alone {alone}'
    return 'captioned', ''


def client(number, address, photos, files, expected, end):
    """Ask until `end` -> [(kind, how it ended, the server's message, seconds)].

    A wrong answer ends it at once.
    """
    chance, results = random.Random(number), []
    first = list(WEIGHTS)[number::CLIENTS]    # so that each kind is tried
    with connect(address) as http, contextlib.ExitStack() as held:
        while time.monotonic() < end:
            kind = first.pop() if first else chance.choices(list(WEIGHTS), WEIGHTS.values())[0]
            photo = chance.choice(photos['huge' if kind == 'huge' else 'good'])
            method = chance.choice(METHODS)
            start = time.monotonic()
            try:
                if kind in REFUSALS or kind in photos:
                    how, message = outcome(http, kind, photo, method, files, expected)
                else:
                    how, message = drop(http, kind, photo, chance, held), ''
            except Exception as error:
                return [*results, (kind, 'WRONG', f'{type(error).__name__}: {error}', 0)]
            results.append((kind, how, message, time.monotonic() - start))
    return results


def connect(address):
    return httpx.Client(base_url=f'{address}/gradio_api', timeout=180, trust_env=False)


def answers(address, photos):
    """{(photo, method): what it is answered} by a client that is alone."""
    with connect(address) as http:
        return {(photo, method): caption(http, upload(http, photo), method)
                for photo in sum(photos.values(), []) for method in METHODS}


def open_files(process):
    """How many, without the fonts that matplotlib keeps open for each thread, 64 at most."""
    count = 0
    for link in Path(f'/proc/{process.pid}/fd').iterdir():
        with contextlib.suppress(FileNotFoundError):    # closed meanwhile
            count += not os.readlink(link).endswith('.ttf')
    return count


def state(process):
    """Megabytes, threads and open files of the server."""
    assert process.poll() is None, f'the server ended with {process.returncode}'
    status = Path(f'/proc/{process.pid}/status').read_text()
    fields = dict(line.split(':', 1) for line in status.splitlines())
    peak, now, threads = (int(fields[key].split()[0]) for key in ('VmHWM', 'VmRSS', 'Threads'))
    return {'peak MB': peak // 1024, 'MB': now // 1024, 'threads': threads,
            'open files': open_files(process)}


def report(results, states):
    """Print what happened, and how long good photos took."""
    seconds = sorted(took for kind, how, _, took in results
                     if (kind, how) == ('good', 'captioned'))
    print(f'\n{len(results)} requests of {CLIENTS} clients')
    for (kind, how), count in sorted(Counter(result[:2] for result in results).items()):
        print(f'{count:6} {kind:20} {how}')
    print('messages:', *sorted({message for _, _, message, _ in results if message}), sep='\n    ')
    print(f'good photos: median {seconds[len(seconds) // 2]:.2f} s, '
          f'99th percentile {seconds[math.ceil(0.99 * len(seconds)) - 1]:.2f} s')
    for when, values in states.items():
        print(f'{when:12}', ', '.join(f'{value} {key}' for key, value in values.items()))


def test_the_page_under_load(server, tmp_path, monkeypatch):
    address, process, console = server
    photos, files = good_photos(tmp_path), bad_files(tmp_path)
    expected = answers(address, photos)
    for method in METHODS:
        captions = {expected[photo, method][0] for photo in photos['good']}
        assert len(captions) >= 8, 'captions do not tell photos apart'
    states, end = {'before': state(process)}, time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client, number, address, photos, files, expected, end)
                   for number in range(CLIENTS)]
        time.sleep(SECONDS / 2)
        states['half-way'] = state(process)
        results = [result for one in running for result in one.result()]
    states['at the end'] = state(process)
    again = answers(address, photos)
    with connect(address) as http:    # a busy server forgets at once what was cut off meanwhile
        drop(http, 'half an upload', photos['good'][0], random.Random(0), None)
    time.sleep(6)    # uvicorn closes idle connections after 5
    states['afterwards'] = state(process)
    report(results, states)

    assert not [result for result in results if result[1] == 'WRONG']
    assert again == expected
    tried = {kind for kind, how, *_ in results if how != 'queue full'}
    assert tried == set(WEIGHTS), 'a kind was never tried'
    assert states['afterwards']['peak MB'] < MEMORY
    assert states['at the end']['peak MB'] - states['half-way']['peak MB'] < GROWTH
    assert states['afterwards']['threads'] < THREADS
    assert states['afterwards']['open files'] - states['before']['open files'] < FILES
    printed = [line for line in console.read_text().splitlines() if line[:1].strip()]
    assert not [line for line in printed if not line.startswith(CONSOLE)]
    uploads, = (tmp_path / 'uploads').glob('captioning-*')
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(uploads))
    left = list(uploads.glob('tmp*'))
    assert left, 'half an upload left nothing: delete_broken_uploads is not needed'
    delete_broken_uploads(0)
    assert not list(uploads.glob('tmp*'))
