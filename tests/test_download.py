"""The download of COCO against a server on 127.0.0.1 that misbehaves as each test asks for."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from email.utils import formatdate
from pathlib import Path

import pytest
from misbehaving_server import Server

from captioning import coco_download, files

ROOT = Path(__file__).parent.parent
PHOTOS = {    # 25,600 bytes each
    f'val2014/COCO_val2014_{number:012d}.jpg': hashlib.sha512(bytes([number])).digest() * 400
    for number in range(6)}
CAPTIONS = {f'annotations/captions_{split}2014.json': json.dumps({'split': split}).encode()
            for split in ('train', 'val')}


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def damaged(content):
    """The same number of bytes, one of them wrong: in the middle of the fourth photo."""
    place = content.index(PHOTOS['val2014/COCO_val2014_000000000003.jpg']) + 1000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]


def archive_row(server):
    """The row of ARCHIVES for the archive of `PHOTOS` that the server holds."""
    return ('val', 'zips/val2014.zip', len(server.content),
            r'val2014/COCO_val2014_[0-9]{12}\.jpg', len(PHOTOS))


@pytest.fixture
def server(monkeypatch):
    for variable in ('no_proxy', 'NO_PROXY'):
        monkeypatch.setenv(variable, '127.0.0.1')
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """`fetch(...)` downloads a small val2014.zip into tmp_path -> its pauses, in seconds."""
    server.content = zipped(PHOTOS)
    monkeypatch.setattr(coco_download, 'ARCHIVES', (archive_row(server),))

    def run(**options):
        pauses = []
        coco_download.download_coco(tmp_path, base_url=server.url, sleep=pauses.append, **options)
        return pauses
    return run


def photos(folder):
    """{name: content} below folder/cocoapi/images/val2014, everything that is there."""
    paths = (folder / 'cocoapi/images/val2014').glob('*')
    return {f'val2014/{path.name}': path.read_bytes() for path in paths}


def nothing_looks_whole(folder):
    """Each photo that is there is good, and no other file but the .part and its .json is."""
    assert photos(folder).items() <= PHOTOS.items()
    names = {path.name for path in folder.iterdir()}
    assert names <= {'cocoapi', 'val2014.zip.part', 'val2014.zip.part.json'}
    return True


def test_everything_arrives_and_is_not_fetched_twice(server, fetch, tmp_path):
    assert fetch() == []
    assert photos(tmp_path) == PHOTOS
    assert [path.name for path in tmp_path.iterdir()] == ['cocoapi']
    fetch()
    assert len(server.requests) == 1


def test_the_folder_is_not_searched_for_each_photo(server, fetch, tmp_path, monkeypatch):
    searches = []    # of a folder that has 80,000 photos in the end
    monkeypatch.setattr(files, 'remove_leftovers', lambda *arguments: searches.append(arguments))
    fetch()
    assert photos(tmp_path) == PHOTOS
    assert not [folder for folder, *_ in searches if folder.name == 'val2014']


def test_annotations_go_to_their_folder_and_archives_are_kept_on_request(server, tmp_path,
                                                                         monkeypatch):
    server.content = zipped({'annotations/': b'', **CAPTIONS}, zipfile.ZIP_DEFLATED)
    row = ('annotations', 'annotations/a.zip', len(server.content),
           r'annotations/captions_\w+2014\.json', 2)
    monkeypatch.setattr(coco_download, 'ARCHIVES', (row,))
    coco_download.download_coco(tmp_path, 'annotations', server.url + '/', keep_archives=True)
    assert {f'annotations/{path.name}': path.read_bytes()
            for path in (tmp_path / 'cocoapi/annotations').iterdir()} == CAPTIONS
    assert (tmp_path / 'a.zip').read_bytes() == server.content
    assert server.requests == [('/annotations/a.zip', None, None)]


def test_cut_connections_continue_where_they_stopped(server, fetch, tmp_path):
    server.script = [{'cut': cut} for cut in (50_000, 30_000, 0, 10_000, 0)]
    assert fetch(retries=1) == [1, 1, 2, 1, 2]    # it waits longer where nothing came
    starts = [ranged for _, ranged, _ in server.requests]
    assert starts == [None, *(f'bytes={start}000-' for start in (50, 80, 80, 90, 90))]
    assert photos(tmp_path) == PHOTOS


def test_it_gives_up_and_the_next_call_continues(server, fetch, tmp_path, monkeypatch):
    server.script = [{'cut': 60_000}] + [{'cut': 0}] * 3
    message = r'closed at 60,000 of .*copy it to .*val2014\.zip and run again'
    with pytest.raises(OSError, match=message):
        fetch(retries=2)
    assert nothing_looks_whole(tmp_path) and not photos(tmp_path)
    server.script = [{'content': b'<html>blocked</html>', 'ignore ranges': True}]
    with pytest.raises(OSError, match='20 bytes instead of'):
        fetch()    # which costs nothing of what is here
    monkeypatch.setattr(shutil, 'disk_usage', disk_with(2 * len(server.content) - 60_000))
    fetch()
    assert server.requests[-1][1:] == ('bytes=60000-', '"one"')
    assert photos(tmp_path) == PHOTOS


def disk_with(free):
    return lambda path: shutil._ntuple_diskusage(10 ** 12, 10 ** 12 - free, free)


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server, fetch, tmp_path):
    server.script = [{'cut': 50_000}, {'ignore ranges': True}]
    fetch()
    assert photos(tmp_path) == PHOTOS


def test_a_server_that_always_cuts_and_ignores_ranges_is_given_up(server, fetch, tmp_path):
    server.script = [{'cut': 50_000, 'ignore ranges': True}] * 50
    with pytest.raises(OSError, match='closed at 50,000'):
        fetch(retries=3)
    assert len(server.requests) == 5
    assert nothing_looks_whole(tmp_path)


@pytest.mark.parametrize('habit', [{}, {'ignore if-range': True}])
def test_a_file_that_changes_between_requests_is_begun_again(server, fetch, tmp_path, habit):
    new = zipped(dict(reversed(PHOTOS.items())))    # as long as the old one, in another order
    server.script = [{'cut': 50_000}, {'change': new, **habit}, habit]
    fetch()
    assert server.requests[1][2] == '"one"'
    assert photos(tmp_path) == PHOTOS


def test_bytes_that_nobody_asked_for_are_not_taken(server, fetch, tmp_path):
    size = len(server.content)
    strange = {'Content-Range': f'bytes 5-{size - 1}/{size}'}
    server.script = [{'answer': 206, 'headers': strange}] * 50
    with pytest.raises(OSError, match='has changed'):
        fetch(retries=3)
    assert len(server.requests) == 4
    assert nothing_looks_whole(tmp_path)


def test_redirects_are_followed_and_are_no_failures(server, fetch, tmp_path):
    moved = {'answer': 302, 'headers': {'Location': '/elsewhere.zip'}}
    server.script = [moved, {'cut': 50_000}, moved]
    assert fetch(retries=0) == [1]
    assert [path for path, *_ in server.requests] == ['/zips/val2014.zip', '/elsewhere.zip'] * 2
    assert server.requests[-1][1:] == ('bytes=50000-', '"one"')
    assert photos(tmp_path) == PHOTOS
    server.script = [moved] * 50
    (tmp_path / 'cocoapi/images/val2014/COCO_val2014_000000000001.jpg').unlink()
    with pytest.raises(OSError, match='HTTP Error 302.*copy it to'):
        fetch()


def test_416_begins_again(server, fetch, tmp_path):
    server.script = [{'cut': 50_000}, {'answer': 416}]
    fetch()
    assert server.requests[2][1] is None
    assert photos(tmp_path) == PHOTOS


@pytest.mark.parametrize('code', [429, 503])
def test_the_wait_that_a_busy_server_asks_for_is_honoured(server, fetch, tmp_path, code):
    date = formatdate(time.time() + 100, usegmt=True)
    server.script = [{'answer': code, 'headers': {'Retry-After': '17'}}, {'answer': code},
                     {'answer': code, 'headers': {'Retry-After': date}},
                     {'answer': code, 'headers': {'Retry-After': 'later'}}]
    seconds, backoff, until, unreadable = fetch()
    assert (seconds, backoff, unreadable) == (17, 4, 16) and 90 < until <= 100
    assert photos(tmp_path) == PHOTOS


def test_a_server_that_asks_for_an_hour_is_left_alone(server, fetch):
    server.script = [{'answer': 503, 'headers': {'Retry-After': '3600'}}]
    with pytest.raises(OSError, match='503.*3600 s'):
        fetch()


@pytest.mark.parametrize('code', [403, 404])
def test_a_refusal_says_what_to_do_by_hand(server, fetch, tmp_path, code):
    server.script = [{'answer': code}]
    target = re.escape(str(tmp_path / 'val2014.zip'))
    message = rf'{server.url}/zips/val2014.zip.*{code}.*copy it to {target}'
    with pytest.raises(OSError, match=message):
        fetch()
    assert len(server.requests) == 1


def test_no_connection_says_what_to_do_by_hand(fetch, server):
    server.server_close()
    server.url = 'http://127.0.0.1:9'
    with pytest.raises(OSError, match='refused.*copy it to'):
        fetch(retries=1)


def test_a_page_of_a_proxy_is_not_taken_for_the_archive(server, fetch, tmp_path):
    server.script = [{'content': b'<html>blocked</html>'}]
    with pytest.raises(OSError, match=r'20 bytes instead of \d+: the page of a proxy'):
        fetch()
    assert nothing_looks_whole(tmp_path)


def test_a_stalled_connection_is_dropped(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_download, 'TIMEOUT', 0.1)
    server.script = [{'hang': 0.4}]
    assert len(fetch()) == 1
    assert photos(tmp_path) == PHOTOS


def test_wrong_bytes_are_found_and_the_next_call_mends_them(server, fetch, tmp_path):
    server.script = [{'content': damaged(server.content)}]
    with pytest.raises(ValueError, match=r'Bad CRC-32.*000003\.jpg.*download it anew'):
        fetch()
    assert nothing_looks_whole(tmp_path) and len(photos(tmp_path)) == 3
    fetch()
    assert server.requests[-1][1] is None
    assert photos(tmp_path) == PHOTOS


@pytest.mark.parametrize('name', [
    '../../../evil.jpg', '/tmp/evil.jpg', 'val2014/../evil.jpg', 'val2014\\evil.jpg',
    'val2014/evil.sh', 'C:/evil.jpg', 'train2014/COCO_train2014_000000000001.jpg',
    'val2014/COCO_val2014_000000000009.jpg\n', 'val2014/deep/'])
def test_members_that_are_not_coco_are_refused_before_anything_is_unpacked(
        server, fetch, tmp_path, monkeypatch, name):
    serve_instead(server, monkeypatch, zipped({**PHOTOS, name: b'evil'}), len(PHOTOS) + 1)
    with pytest.raises(ValueError, match='is not a plain file named'):
        fetch()
    assert nothing_looks_whole(tmp_path) and not photos(tmp_path)
    assert not list(tmp_path.rglob('*evil*'))


def test_links_encrypted_members_and_bombs_are_refused(server, fetch, tmp_path, monkeypatch):
    link = zipfile.ZipInfo('val2014/COCO_val2014_000000000009.jpg')
    link.external_attr = 0o120777 << 16
    serve_instead(server, monkeypatch, zipped({link: b'/etc/passwd'}), 1)
    with pytest.raises(ValueError, match='is not a plain file'):
        fetch()
    locked = bytearray(zipped({'val2014/COCO_val2014_000000000009.jpg': b'x' * 100}))
    locked[6] |= 1    # the flag "encrypted" in both headers of the member
    locked[locked.index(b'PK\x01\x02') + 8] |= 1
    serve_instead(server, monkeypatch, bytes(locked), 1)
    with pytest.raises(ValueError, match='is not a plain file'):
        fetch()
    bomb = zipped({'val2014/COCO_val2014_000000000009.jpg': bytes(10 ** 6)}, zipfile.ZIP_DEFLATED)
    serve_instead(server, monkeypatch, bomb, 1)
    with pytest.raises(ValueError, match='more in them than fits'):
        fetch()
    serve_instead(server, monkeypatch, zipped({}), 1)
    with pytest.raises(ValueError, match='0 files instead of 1'):
        fetch()
    assert nothing_looks_whole(tmp_path) and not photos(tmp_path)


def serve_instead(server, monkeypatch, content, count):
    server.content = content
    (group, address, _, names, _), = coco_download.ARCHIVES
    monkeypatch.setattr(coco_download, 'ARCHIVES', ((group, address, len(content), names, count),))


def test_unpacking_goes_on_after_a_kill(server, fetch, tmp_path, monkeypatch):
    copied, copy = [], shutil.copyfileobj

    def killed(source, target, *rest):
        copied.append(target)
        if len(copied) == 4:
            target.write(source.read(1000))
            raise SystemExit('killed')
        copy(source, target, *rest)
    monkeypatch.setattr(shutil, 'copyfileobj', killed)
    with pytest.raises(SystemExit):
        fetch()
    folder = tmp_path / 'cocoapi/images/val2014'
    assert nothing_looks_whole(tmp_path) and len(photos(tmp_path)) == 3
    # What SIGKILL leaves behind, and a photo of the right size with wrong bytes
    (folder / '.COCO_val2014_000000000003.jpg.x.tmp').write_bytes(b'half')
    (folder / 'COCO_val2014_000000000001.jpg').write_bytes(bytes(25_600))
    monkeypatch.setattr(shutil, 'copyfileobj', copy)
    kept = (folder / 'COCO_val2014_000000000000.jpg').stat().st_mtime_ns
    fetch()
    assert len(server.requests) == 1    # the archive was there already
    assert photos(tmp_path) == PHOTOS
    assert (folder / 'COCO_val2014_000000000000.jpg').stat().st_mtime_ns == kept


@pytest.mark.parametrize('note', ['{}', '{"etag": "\\"old\\""}', 'not JSON', None])
def test_a_part_of_unknown_origin_is_not_continued(server, fetch, tmp_path, note):
    (tmp_path / 'val2014.zip.part').write_bytes(b'?' * 1000)
    if note:
        (tmp_path / 'val2014.zip.part.json').write_text(note)
    server.script = [{'ignore if-range': True}]
    fetch()
    assert photos(tmp_path) == PHOTOS


def test_a_part_that_is_too_long_is_not_used(server, fetch, tmp_path):
    (tmp_path / 'val2014.zip.part').write_bytes(server.content + b'more')
    (tmp_path / 'val2014.zip.part.json').write_text('{"etag": "\\"one\\"", "modified": null}')
    fetch()
    assert photos(tmp_path) == PHOTOS and server.requests[0][1] is None


def test_sigkill_in_the_middle(server, tmp_path):
    """A real process, killed without warning; then the same command again."""
    server.content = zipped(PHOTOS)
    server.script = [{'cut': 70_000}, {'hang': 60}]
    program = ('from captioning import coco_download; from scripts import download; '
               f'coco_download.ARCHIVES = ({archive_row(server)!r},); download.main()')
    command = [sys.executable, '-c', program, '--output', str(tmp_path),
               '--base-url', server.url, '--only', 'val']
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert nothing_looks_whole(tmp_path)
    assert (tmp_path / 'val2014.zip.part').stat().st_size == 70_000
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert server.requests[-1][1] == 'bytes=70000-'
    assert photos(tmp_path) == PHOTOS


def test_an_archive_copied_by_hand_is_used_and_left_there(server, fetch, tmp_path):
    (tmp_path / 'val2014.zip').write_bytes(damaged(server.content))
    with pytest.raises(ValueError, match='Bad CRC-32.*copy it anew'):
        fetch()
    (tmp_path / 'val2014.zip').write_bytes(server.content)
    fetch()
    assert photos(tmp_path) == PHOTOS and (tmp_path / 'val2014.zip').exists()
    assert not server.requests


def test_too_little_space_is_said_before_anything_is_fetched(server, fetch, tmp_path, monkeypatch):
    size = len(server.content)
    monkeypatch.setattr(shutil, 'disk_usage', disk_with(2 * size - 1))
    with pytest.raises(OSError, match=r'0\.0 GB are needed and 0\.0 GB are free'):
        fetch()
    assert not server.requests
    monkeypatch.setattr(shutil, 'disk_usage', disk_with(2 * size))
    fetch()


def test_the_space_for_all_of_coco(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', disk_with(10 ** 10))
    with pytest.raises(OSError, match=r'41\.3 GB are needed and 10\.0 GB are free'):
        coco_download.download_coco(tmp_path)


def test_a_proxy_is_used_also_when_it_is_set_after_a_failure(server, fetch, tmp_path, monkeypatch):
    proxy, server.url = server.url, 'http://127.0.0.1:9'
    with pytest.raises(OSError, match='copy it to'):
        fetch(retries=0)
    server.url = 'http://coco.invalid'
    for variable in ('http_proxy', 'HTTP_PROXY'):
        monkeypatch.setenv(variable, proxy)
    fetch()
    assert [path for path, *_ in server.requests] == ['http://coco.invalid/zips/val2014.zip']
    assert photos(tmp_path) == PHOTOS


def test_a_proxy_with_a_password(server, fetch, tmp_path, monkeypatch):
    proxy, server.url = f'me:p%40ss@127.0.0.1:{server.server_port}', 'http://coco.invalid'
    for variable in ('http_proxy', 'HTTP_PROXY'):
        monkeypatch.setenv(variable, proxy)
    fetch()
    assert server.proxy_passwords == ['Basic ' + base64.b64encode(b'me:p@ss').decode()]
    assert photos(tmp_path) == PHOTOS


def test_wrong_arguments(tmp_path):
    message = "only='photos': expected one or several of annotations, train, val, test"
    with pytest.raises(ValueError, match=message):
        coco_download.download_coco(tmp_path, only='photos')
