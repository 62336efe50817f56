"""Download MS COCO 2014: captions, instances, photos (Lin et al. 2014, "Microsoft COCO: Common
Objects in Context").

    download_coco('data/coco')                            # all: 28 GB, 42 GB free to begin
    download_coco('data/coco', only='annotations')        # captions and instances: 0.3 GB

On the command line: python -m scripts.download. Whatever stops it, the same call continues. An
archive is called NAME.zip.part until every file in it is unpacked and agrees with its checksum.
"""

import contextlib
import json
import re
import shutil
import time
import urllib.request
import zipfile
import zlib
from pathlib import Path
from urllib.parse import unquote

import urllib3
from tqdm import tqdm
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    LocationValueError,
    MaxRetryError,
    ProtocolError,
)
from urllib3.util import Retry, make_headers, parse_url

from captioning.files import write_aside

# The same over HTTPS: https://s3.amazonaws.com/images.cocodataset.org
OFFICIAL = 'http://images.cocodataset.org'
ARCHIVES = (    # group, address, bytes, names of the files in it, how many they are
    ('annotations', 'annotations/annotations_trainval2014.zip', 252_872_794,
     r'annotations/(captions|instances|person_keypoints)_(train|val)2014\.json', 6),
    ('annotations', 'annotations/image_info_test2014.zip', 763_464,
     r'annotations/image_info_test2014\.json', 1),
    ('train', 'zips/train2014.zip', 13_510_573_713,
     r'train2014/COCO_train2014_[0-9]{12}\.jpg', 82_783),
    ('val', 'zips/val2014.zip', 6_645_013_297, r'val2014/COCO_val2014_[0-9]{12}\.jpg', 40_504),
    ('test', 'zips/test2014.zip', 6_660_437_059, r'test2014/COCO_test2014_[0-9]{12}\.jpg', 40_775),
)
GROUPS = ('annotations', 'train', 'val', 'test')

TIMEOUT = 60              # seconds without one byte
LONGEST_BACKOFF = 60      # seconds between two connections, where the server does not say
LONGEST_WAIT = 600        # seconds; a server that asks for more is left alone
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}    # answers that another try may mend
# What urllib3 does by itself within one connection: it follows redirects.
ONE_TRY = Retry(connect=0, read=0, other=0, redirect=10, raise_on_redirect=False,
                respect_retry_after_header=False)
# What zipfile raises
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)


class Archive:
    """One zip file of COCO: where it comes from, what it holds and where it goes."""

    def __init__(self, output, base_url, group, address, size, names, count):
        self.url = f'{base_url.rstrip("/")}/{address}'
        self.size, self.names, self.count = size, names, count
        self.path = output / Path(address).name         # all of it: copied here by hand, or kept
        self.part = Path(f'{self.path}.part')           # what has arrived so far
        self.version = Path(f'{self.path}.part.json')   # ETag and Last-Modified that go with it
        annotations = group == 'annotations'
        subfolder = group if annotations else f'images/{group}2014'
        self.folder = output / 'cocoapi' / subfolder
        self.growth = 4 if annotations else 1    # unpacked / packed bytes: photos do not shrink

    def arrived(self):
        """How many bytes are in `part`, and the version of the file that they belong to."""
        try:
            arrived = self.part.stat().st_size
            version = json.loads(self.version.read_text('utf-8'))
        except (OSError, ValueError):
            return 0, {}
        return (arrived, version) if arrived <= self.size else (0, {})

    def discard(self):
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def unpacked(self):
        """{path: bytes} of its files that are in place; files get their names when complete."""
        return {path: path.stat().st_size for path in self.folder.glob('*.*')
                if re.fullmatch(self.names, f'{path.parent.name}/{path.name}')}

    def failed(self, reason):
        """The OSError to raise: it says how to continue, or to get the archive another way."""
        return OSError(f'{self.url}: {reason}. Run the same again to continue. Host blocked? '
                       f'Fetch it elsewhere, copy it to {self.path} and run again, or name a '
                       'mirror (--base-url) or a proxy ($HTTP_PROXY).')


def download_coco(output='data/coco', only=None, base_url=OFFICIAL, keep_archives=False, retries=6,
                  sleep=time.sleep):
    """Download and unpack COCO 2014 into <output>/cocoapi -> `output`, a `cocoapi_loc`.

    only: None, or one or several of 'annotations', 'train', 'val', 'test'. retries: how many
    connections in a row may bring nothing; `sleep(seconds)` waits between them. Raises OSError (no
    connection, no space) and ValueError (damaged or foreign archive, wrong argument); the same call
    continues from there.
    """
    output = Path(output)
    groups = _groups(only)
    archives = [Archive(output, base_url, *row) for row in ARCHIVES if row[0] in groups]
    todo = [archive for archive in archives if len(archive.unpacked()) < archive.count]
    _check_space(output, todo, keep_archives)
    for archive in archives:
        if archive in todo and archive.path.exists():
            unpack(archive.path, archive)    # the user's copy: never deleted
        elif archive in todo:
            _fetch(archive, retries, sleep)
            unpack(archive.part, archive)
            if keep_archives:
                archive.part.replace(archive.path)
        archive.discard()
    print(f'COCO 2014 is in {output}: pass cocoapi_loc={str(output)!r} or set COCOAPI_LOC')
    return output


def _groups(only):
    if only is None:
        return GROUPS
    groups = [only] if isinstance(only, str) else list(only)
    if not groups or set(groups) - set(GROUPS):
        raise ValueError(f'only={only!r}: expected one or several of {", ".join(GROUPS)}')
    return groups


def _check_space(output, todo, keep):
    output.mkdir(parents=True, exist_ok=True)
    fetch = [archive.size - archive.arrived()[0] for archive in todo if not archive.path.exists()]
    unpack = [archive.size * archive.growth - sum(archive.unpacked().values()) for archive in todo]
    # An archive is removed before the next one comes.
    needed = sum(unpack) + (sum(fetch) if keep else max(fetch, default=0))
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f'{output}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are '
                      'free. Make room, choose another --output, or fetch less with --only.')


# ---- Fetching ----

class Refused(HTTPError):
    """The server has answered, but not with the file. `headers` is where Retry looks."""

    def __init__(self, response):
        super().__init__(f'HTTP Error {response.status}: {response.reason}')
        self.status, self.headers = response.status, response.headers


def _fetch(archive, retries, sleep):
    """Bring `archive.part` to its full size; OSError after too many failures in a row."""
    try:
        _fetch_in_tries(archive, Retry(retries, status_forcelist=PASSING), sleep)
    except MaxRetryError as error:
        arrived, _ = archive.arrived()
        reason = f'{error.reason}; {arrived:,} of {archive.size:,} bytes here'
        raise archive.failed(reason) from error


def _fetch_in_tries(archive, patience, sleep):
    """Connect until `archive.part` has its full size; MaxRetryError when `patience` is exhausted.

    Given to urllib3 itself, a Retry repeats requests that failed, but it does not continue a body
    that was cut, and it knows nothing of bytes. So the loop is here, for all kinds of failures:
    each new byte makes the count begin anew.
    """
    retry, most = patience, archive.arrived()[0]
    while archive.arrived()[0] < archive.size:
        try:
            _continue(archive)
        except LocationValueError:    # no address at all
            raise
        except HTTPError as error:
            if isinstance(error, Refused):
                _check_refusal(archive, patience, error)
            arrived, _ = archive.arrived()
            if arrived > most:
                retry, most = patience, arrived
            else:
                retry = retry.increment('GET', archive.url, error=error)
            wait = _wait(retry, error)
            print(f'{archive.path.name}: {error}; again in {wait} s')
            sleep(wait)


def _check_refusal(archive, patience, refused):
    if not patience.is_retry('GET', refused.status):
        raise archive.failed(refused) from refused
    if refused.status == 416:    # range not satisfiable: what is here is no beginning of the file
        archive.discard()


def _wait(retry, error):
    """Seconds until the next connection: what the server asks for, else 1, 2, 4, ... 60.

    Retry's own backoff is not used, because it has no pause before the second try: a server that
    cuts every connection would be asked without end or rest.
    """
    asked = None
    if isinstance(error, Refused):
        with contextlib.suppress(InvalidHeader, ValueError):    # neither seconds nor a date
            asked = retry.get_retry_after(error)
    if asked is None:
        return min(2 ** len(retry.history), LONGEST_BACKOFF)
    if asked > LONGEST_WAIT:
        raise MaxRetryError(None, None, f'{error}; wait {asked:.0f} s')
    return round(asked)


def _continue(archive):
    """One connection: append what is missing, or begin again.

    It begins again where the server has another file by now, or ignores ranges.
    """
    arrived, known = archive.arrived()
    with _connect(archive.url) as http, _get(http, archive.url, arrived, known) as response:
        if not 200 <= response.status < 300:
            raise Refused(response)
        version = {'etag': response.headers.get('ETag'),
                   'modified': response.headers.get('Last-Modified')}
        start, size = _content_range(response.headers)
        if size != str(archive.size):
            raise archive.failed(f'{size} bytes instead of {archive.size}: the page of a proxy, '
                                 'or another file?')
        if start != str(arrived) or version != known:
            archive.discard()
            if start != '0':    # the next connection asks for all of it
                raise ProtocolError('the file on the server has changed')
            archive.version.write_text(json.dumps(version), 'utf-8')
        _append(archive, response)


def _connect(url):
    """Connections to `url`, through the proxy that the environment names now."""
    address = parse_url(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if not proxy or urllib.request.proxy_bypass(address.netloc):
        return urllib3.PoolManager()
    if '://' not in proxy:
        proxy = f'http://{proxy}'
    password = parse_url(proxy).auth
    headers = make_headers(proxy_basic_auth=unquote(password)) if password else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers)


def _get(http, url, arrived, known):
    """Ask for the bytes from `arrived` on, guarded by the version they have to belong to."""
    headers = {}
    etag = known.get('etag') or 'W/'
    guard = known.get('modified') if etag.startswith('W/') else etag    # a weak one is no guard
    if arrived:
        headers['Range'] = f'bytes={arrived}-'
    if arrived and guard:
        headers['If-Range'] = guard
    try:
        return http.request('GET', url, headers=headers, timeout=TIMEOUT, retries=ONE_TRY,
                            preload_content=False, decode_content=False,
                            enforce_content_length=False)
    except MaxRetryError as error:    # of one try: only its reason is of interest
        raise error.reason from error


def _content_range(headers):
    """First byte of the body and bytes of the complete file, as text ('0', '252872794')."""
    all_of_it = f'bytes 0-/{headers.get("Content-Length")}'
    content_range = headers.get('Content-Range') or all_of_it
    start = content_range.removeprefix('bytes ').partition('-')[0]
    size = content_range.rpartition('/')[2]
    return start, size


def _append(archive, response):
    with (open(archive.part, 'ab') as file,
          tqdm(total=archive.size, initial=file.tell(), unit='B', unit_scale=True,
               desc=archive.path.name) as bar):
        while chunk := response.read1(1 << 20):
            bar.update(file.write(chunk))
    if bar.n != archive.size:
        raise ProtocolError(f'the connection closed at {bar.n:,} of {archive.size:,} bytes')


# ---- Unpacking ----

def unpack(path, archive):
    """Unpack the zip file `path`, each file aside and then renamed.

    Files that are there with the same size and checksum are skipped. Raises ValueError if the
    archive is damaged or holds anything but COCO's files; what was unpacked before that is good.
    """
    for stale in archive.folder.glob('.*.tmp'):    # of a process that was killed
        stale.unlink()
    try:
        with zipfile.ZipFile(path) as zipped:
            members = _checked_members(zipped, archive)
            for member in tqdm(members, f'{archive.path.name}, unpacking', unit='file'):
                target = archive.folder / Path(member.filename).name
                if not _is_unpacked(member, target):
                    _unpack_member(zipped, member, target)
    except DAMAGE as error:
        archive.discard()    # perhaps the right number of bytes, but the wrong ones
        again = path == archive.part
        advice = 'run the same again to download it anew' if again else 'copy it anew'
        raise ValueError(
            f'{path} is damaged or not the archive of COCO ({error}): {advice}') from error


def _is_unpacked(member, target):
    return (target.is_file() and target.stat().st_size == member.file_size
            and zlib.crc32(target.read_bytes()) == member.CRC)


def _unpack_member(zipped, member, target):
    with (write_aside(target, tidy=False) as aside, zipped.open(member) as packed,
          open(aside, 'wb') as file):
        shutil.copyfileobj(packed, file)    # BadZipFile where the checksum differs


def _checked_members(zipped, archive):
    """The files of an archive, or ValueError: before anything is unpacked."""
    folder = f'{archive.folder.name}/'
    members = [member for member in zipped.infolist() if member.filename != folder]
    for member in members:
        is_file = member.external_attr >> 28 in (0, 8)    # no link, no device
        encrypted = member.flag_bits & 1
        readable = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        expected = re.fullmatch(archive.names, member.filename)
        if not (is_file and not encrypted and readable and expected):
            raise ValueError(f'{member.filename!r} in it is not a plain file named {archive.names}')
    unpacked_size = sum(member.file_size for member in members)
    if len(members) != archive.count or unpacked_size > 50 * archive.size:
        raise ValueError(f'{len(members)} files instead of {archive.count}, or more in them than '
                         'fits')
    return members
