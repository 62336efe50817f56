"""Download MS COCO 2014 (Lin et al. 2014, "Microsoft COCO: Common Objects in Context"): captions, instances, photos.

    python -m scripts.download --output data/coco                          # all: 28 GB, 42 GB free to begin
    python -m scripts.download --output data/coco --only annotations val   # for a first look: 8 GB, 15 GB to begin

In a notebook: `download_coco('data/coco', only='annotations')`. Whatever stops it, the same again continues. An archive
is called NAME.zip.part until every file in it has been unpacked and agrees with its checksum.
"""

import argparse
import email.utils
import http.client
import json
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from scripts import run_main, write_aside

OFFICIAL = 'http://images.cocodataset.org'     # the same over HTTPS: https://s3.amazonaws.com/images.cocodataset.org
ARCHIVES = (                                   # group, address, bytes, names of the files in it, how many
    ('annotations', 'annotations/annotations_trainval2014.zip', 252_872_794,
     r'annotations/(captions|instances|person_keypoints)_(train|val)2014\.json', 6),
    ('annotations', 'annotations/image_info_test2014.zip', 763_464, r'annotations/image_info_test2014\.json', 1),
    ('train', 'zips/train2014.zip', 13_510_573_713, r'train2014/COCO_train2014_[0-9]{12}\.jpg', 82_783),
    ('val', 'zips/val2014.zip', 6_645_013_297, r'val2014/COCO_val2014_[0-9]{12}\.jpg', 40_504),
    ('test', 'zips/test2014.zip', 6_660_437_059, r'test2014/COCO_test2014_[0-9]{12}\.jpg', 40_775),
)
GROUPS = ('annotations', 'train', 'val', 'test')
TIMEOUT = 60                                   # seconds without one byte
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}     # HTTP answers that another try may mend
CUTS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)   # what zipfile raises


class Archive:
    """One zip file of COCO: where it comes from, what it holds and where it goes."""

    def __init__(self, output, base_url, group, address, size, names, count):
        self.url = f'{base_url.rstrip("/")}/{address}'
        self.size, self.names, self.count = size, names, count
        self.path = output / Path(address).name               # the whole archive: copied here by hand, or kept
        self.part = Path(f'{self.path}.part')                 # what has arrived so far
        self.version = Path(f'{self.path}.part.json')         # ETag and Last-Modified of the file that it belongs to
        self.folder = output / 'cocoapi' / (group if group == 'annotations' else f'images/{group}2014')
        self.growth = 4 if group == 'annotations' else 1      # unpacked bytes / packed bytes: photos do not shrink

    def arrived(self):
        """How many bytes are in `part`, and the version of the file that they belong to."""
        try:
            here, version = self.part.stat().st_size, json.loads(self.version.read_text())
        except (OSError, ValueError):
            return 0, {}
        return (here, version) if here <= self.size else (0, {})

    def discard(self):
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def unpacked(self):
        """{path: bytes} of its files that are in place; files get their names when they are whole."""
        return {path: path.stat().st_size for path in self.folder.glob('*.*')
                if re.fullmatch(self.names, f'{path.parent.name}/{path.name}')}

    def failed(self, reason):
        return OSError(f'{self.url}: {reason}. Run the same again to continue. Host blocked? Fetch it elsewhere, '
                       f'copy it to {self.path} and run again, or name a mirror (--base-url) or a proxy ($HTTP_PROXY).')


def download_coco(output='data/coco', only=None, base_url=OFFICIAL, keep_archives=False, retries=6, sleep=time.sleep):
    """Download and unpack COCO 2014 into <output>/cocoapi; return `output`, a `cocoapi_loc`.

    `only`: None, or one or several of 'annotations', 'train', 'val', 'test'. `retries`: connections in a row that may
    bring nothing; `sleep(seconds)` waits between them. Raises OSError (no connection, no space) and ValueError (damaged
    or foreign archive, wrong argument); the same call continues from there.
    """
    output = Path(output)
    groups = GROUPS if only is None else [only] if isinstance(only, str) else list(only)
    if not groups or set(groups) - set(GROUPS):
        raise ValueError(f'only={only!r}: expected one or several of {", ".join(GROUPS)}')
    archives = [Archive(output, base_url, *row) for row in ARCHIVES if row[0] in groups]
    todo = [archive for archive in archives if len(archive.unpacked()) < archive.count]
    _check_space(output, todo, keep_archives)
    for archive in archives:
        if archive in todo and archive.path.exists():
            unpack(archive.path, archive)      # the user's copy: never deleted
        elif archive in todo:
            _fetch(archive, retries, sleep)
            unpack(archive.part, archive)
            if keep_archives:
                archive.part.replace(archive.path)
        archive.discard()
    print(f'COCO 2014 is in {output}: pass cocoapi_loc={str(output)!r} or set COCOAPI_LOC')
    return output


def _check_space(output, todo, keep):
    output.mkdir(parents=True, exist_ok=True)
    fetch = [archive.size - archive.arrived()[0] for archive in todo if not archive.path.exists()]
    unpack = [archive.size * archive.growth - sum(archive.unpacked().values()) for archive in todo]
    needed = sum(unpack) + (sum(fetch) if keep else max(fetch, default=0))     # one archive goes before the next comes
    if needed > (free := shutil.disk_usage(output).free):
        raise OSError(f'{output}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free. Make room, choose '
                      'another --output, or fetch less with --only.')


def _fetch(archive, retries, sleep):
    """Bring `archive.part` to its full size; give up after `retries` failures in a row without a new byte."""
    failures, most = 0, archive.arrived()[0]
    while archive.arrived()[0] < archive.size:
        try:
            _continue(archive)
        except CUTS as error:
            if (code := getattr(error, 'code', 503)) not in PASSING:
                raise archive.failed(error) from error
            if code == 416:                    # range not satisfiable: what is here is no beginning of what is there
                archive.discard()
            here = archive.arrived()[0]
            failures, most = (0, here) if here > most else (failures + 1, most)
            wait = min(2 ** failures, 60) if (asked := _retry_after(error)) is None else asked
            if failures > retries or wait > 600:
                raise archive.failed(f'{error}; {here:,} of {archive.size:,} bytes here; wait {wait} s') from error
            print(f'{archive.path.name}: {error}; again in {wait} s')
            sleep(wait)


def _retry_after(error):
    """Seconds that the server asks to wait, as a number or a date; None where it does not."""
    text = (getattr(error, 'headers', None) or {}).get('Retry-After', '')
    date = email.utils.parsedate_tz(text)
    return int(text) if text.isdecimal() else max(0, round(email.utils.mktime_tz(date) - time.time())) if date else None


def _continue(archive):
    """One connection: append what is missing, or begin again where the server has another file or ignores ranges."""
    here, known = archive.arrived()
    guard = known.get('modified') if (known.get('etag') or 'W/').startswith('W/') else known['etag']   # weak: no guard
    headers = {'Range': f'bytes={here}-', **({'If-Range': guard} if guard else {})} if here else {}
    opener = urllib.request.build_opener()     # unlike urlopen, it sees a proxy that was set after the first connection
    with opener.open(urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT) as response:
        version = {'etag': response.headers['ETag'], 'modified': response.headers['Last-Modified']}
        span = response.headers['Content-Range'] or f'bytes 0-/{response.headers["Content-Length"]}'
        start, size = span.removeprefix('bytes ').partition('-')[0], span.rpartition('/')[2]
        if size != str(archive.size):
            raise archive.failed(f'{size} bytes instead of {archive.size}: the page of a proxy, or another file?')
        if start != str(here) or version != known:
            archive.discard()
            if start != '0':
                return                         # the file has changed: the next connection asks for all of it
            archive.version.write_text(json.dumps(version))
        with open(archive.part, 'ab') as file, tqdm(total=archive.size, initial=file.tell(), unit='B', unit_scale=True,
                                                    desc=archive.path.name) as bar:
            while chunk := response.read1(1 << 20):
                bar.update(file.write(chunk))
    if bar.n != archive.size:
        raise ConnectionError(f'the connection closed at {bar.n:,} of {archive.size:,} bytes')


def unpack(path, archive):
    """Unpack the zip file `path`, each file aside and then renamed; skip those that are there (same size and CRC).

    Raises ValueError if it is damaged or holds anything else than COCO's; what was unpacked before that is good.
    """
    for stale in archive.folder.glob('.*.tmp'):        # of a run that was killed
        stale.unlink()
    try:
        with zipfile.ZipFile(path) as zipped:
            for member in tqdm(_checked_members(zipped, archive), f'{archive.path.name}, unpacking', unit='file'):
                target = archive.folder / Path(member.filename).name
                if not (target.is_file() and target.stat().st_size == member.file_size
                        and zlib.crc32(target.read_bytes()) == member.CRC):
                    with write_aside(target) as aside, zipped.open(member) as packed, open(aside, 'wb') as file:
                        shutil.copyfileobj(packed, file)       # BadZipFile where the CRC differs
    except DAMAGE as error:
        archive.discard()                              # perhaps the right number of bytes, but the wrong ones
        advice = 'run the same again to download it anew' if path == archive.part else 'copy it anew'
        raise ValueError(f'{path} is damaged or not the archive of COCO ({error}): {advice}') from error


def _checked_members(zipped, archive):
    members = [member for member in zipped.infolist() if member.filename != f'{archive.folder.name}/']
    for member in members:
        plain = member.external_attr >> 28 in (0, 8) and not member.flag_bits & 1      # no link or device, no password
        if not (plain and member.compress_type in (0, 8) and re.fullmatch(archive.names, member.filename)):
            raise ValueError(f'{member.filename!r} in it is not a plain file named {archive.names}')
    if len(members) != archive.count or sum(member.file_size for member in members) > 50 * archive.size:
        raise ValueError(f'{len(members)} files instead of {archive.count}, or more in them than fits')
    return members


def main():
    parser = argparse.ArgumentParser(prog='python -m scripts.download', description=__doc__.splitlines()[0])
    parser.add_argument('--output', default='data/coco', help='folder that gets cocoapi/ (default: %(default)s)')
    parser.add_argument('--only', nargs='+', choices=GROUPS, help='default: everything')
    parser.add_argument('--base-url', default=OFFICIAL, help='a mirror (default: %(default)s)')
    parser.add_argument('--keep-archives', action='store_true', help='keep the zip files after unpacking')
    args = parser.parse_args()
    download_coco(args.output, args.only, args.base_url, args.keep_archives)


if __name__ == '__main__':
    run_main(main)
