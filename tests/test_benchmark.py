"""The benchmark: its made-up data has COCO's shape, and its command runs. Speed is not tested."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from captioning.benchmark import decoding
from captioning.benchmark.data import startup_seconds
from captioning.benchmark.decoding import measure_decoding, measure_photos
from captioning.benchmark.made_up import made_up_captions, made_up_vocabulary, write_made_up
from captioning.benchmark.training import features_phase, training_rates
from captioning.caption_data import CaptionData
from captioning.files import ROOT
from captioning.training import finish_epoch, open_run, train_one_epoch, validate
from scripts import benchmark

# A part that starts a process of its own, as some do.
BENCHMARK = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)    # jobs in the background ignore it
from captioning.benchmark.measure import in_own_process
from part import wait
from scripts import run_main
run_main(lambda: in_own_process(in_own_process, wait, sys.argv[1]))
"""
PART = """
import os, time
from captioning.files import write_aside

def wait(file):
    with write_aside(file) as aside:
        aside.write_text(str(os.getpid()))
    time.sleep(40)
"""


def test_made_up_captions_are_trained_on():
    captions = made_up_captions(400, 50, 30, features=512)
    words = captions.lengths - 2
    assert len(captions.indices) == 400 and 9 < np.mean(words) < 12 and words.min() >= 5
    for row, length in zip(captions.table, captions.lengths, strict=True):
        assert row[0] == 0 and (row[length - 1:] == 1).all() and (row[1:length - 1] > 2).all()
    phase = features_phase(captions, made_up_vocabulary(30), batch_size=16, backbone='resnet18',
                           weights=None, embed_size=8, hidden_size=8)
    rates = training_rates(phase, steps=3)
    assert rates.captions > 0 and 0 < rates.batch_share < 1 and rates.gflops > 0


@pytest.mark.parametrize('trained', [False, True])
def test_decoding_is_timed_with_and_without_a_run(dataset, settings, monkeypatch, capsys, trained):
    data = CaptionData(dataset)
    monkeypatch.setattr(decoding, 'BATCH_SIZE', 4)
    if trained:
        run = open_run(settings(epochs=1, image='attention'), data)
        finish_epoch(run, train_one_epoch(run), validate(run))
    measure_decoding(data, images=10)
    output = capsys.readouterr().out
    methods = ('greedy', 'sampling', 'beam 1 ', 'beam 10')
    assert all(name in output for name in methods) and '10 images' in output
    assert ("decoder with attention" in output) == trained


def test_start_up_reads_a_made_up_file(tmp_path):
    write_made_up(tmp_path, 20, 100)
    assert startup_seconds(tmp_path) > 0 and (tmp_path / 'vocab.pkl').exists()


def test_the_command_prints_a_part(dataset, monkeypatch, capfd):
    arguments = ['benchmark', '--only', 'sampler', '--cocoapi-loc', str(dataset)]
    monkeypatch.setattr(sys, 'argv', arguments)
    benchmark.main()
    output = capfd.readouterr().out
    assert "sampler: The sampler's own cost at COCO's size." in output
    assert '414,113 captions, batch 128' in output and 'peak memory' in output


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends no signal to another process')
@pytest.mark.parametrize('kind', [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_ended_ends_the_processes_of_its_parts(tmp_path, kind):
    (tmp_path / 'part.py').write_text(PART)
    number = tmp_path / 'number'
    command = [sys.executable, '-c', BENCHMARK, str(number)]
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{tmp_path}'}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not number.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(kind)
    process.wait(20)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)    # is it running? (0 is no signal)


def test_photos_are_captioned_beside_the_bare_encoder(dataset, monkeypatch, capsys):
    monkeypatch.setattr(decoding, 'BATCH_SIZE', 4)
    measure_photos(CaptionData(dataset), images=5, beam_sizes=(2,))
    rate, bare, share = capsys.readouterr().out.splitlines()[-1].split()[1:]
    assert float(rate) > 0
    assert float(share) == pytest.approx(float(rate) / float(bare), abs=0.05)
