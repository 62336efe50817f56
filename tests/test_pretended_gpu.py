"""The pretended GPU does as a CUDA GPU does: its tests, in a process that has one.

A process cannot give a device back, and the other tests want none.
"""

import os
import re
import subprocess
import sys

import pytest

from captioning.files import ROOT

DEVICES = ROOT / 'tests' / 'devices'
OPTIONS = ['-p', 'no:randomly', '-p', 'no:xdist', '-p', 'no:cacheprovider', '-q', '-rs']


def on_pretended_gpu(*paths):
    """Run tests in a process that has the pretended GPU; this one fails or is skipped as they are.
    """
    command = [sys.executable, '-m', 'pytest', *OPTIONS, *paths]
    environment = {**os.environ, 'PRETENDED_GPU': '1'}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ran.returncode:
        pytest.fail(f'on the pretended GPU:\n{ran.stdout}{ran.stderr}', pytrace=False)
    if ' passed' not in ran.stdout:
        reasons = re.findall(r'^SKIPPED \[.*?\] \S+ (.*)$', ran.stdout, re.MULTILINE)
        pytest.skip('; '.join(dict.fromkeys(reasons)))


@pytest.mark.parametrize('files', [['test_paths.py'],
                                   ['test_planted_errors.py', 'test_step_graphs.py',
                                    'test_pretence*.py', 'test_device_traffic.py']], ids=str)
def test_on_the_pretended_gpu(files):
    on_pretended_gpu(*(str(path) for file in files for path in sorted(DEVICES.glob(file))))


def test_no_test_of_devices_is_left_out():
    parts = ('test_paths', 'test_planted_errors', 'test_step_graphs', 'test_pretence',
             'test_device_traffic')
    assert all(path.stem.startswith(parts) for path in DEVICES.glob('test_*.py'))
