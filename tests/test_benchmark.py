"""The benchmark: its made-up data has COCO's shape, and its command runs. Speed is not tested."""

import sys

import numpy as np
import pytest

from captioning.benchmark.data import startup_seconds
from captioning.benchmark.decoding import measure_decoding, measure_photos
from captioning.benchmark.made_up import made_up_captions, made_up_vocabulary, write_made_up
from captioning.benchmark.training import features_phase, training_rates
from captioning.caption_data import CaptionData
from captioning.training import finish_epoch, open_run, train_one_epoch, validate
from scripts import benchmark


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
def test_decoding_is_timed_with_and_without_a_run(dataset, settings, capsys, trained):
    data = CaptionData(dataset)
    if trained:
        run = open_run(settings(epochs=1, image='attention'), data)
        finish_epoch(run, train_one_epoch(run), validate(run))
    measure_decoding(data, images=10)
    output = capsys.readouterr().out
    methods = ('greedy', 'sampling', 'beam 1 ', 'beam 10')
    assert all(name in output for name in methods) and '10 images' in output
    assert ("image='attention'" in output) == trained


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


def test_photos_are_captioned_beside_the_bare_encoder(dataset, capsys):
    measure_photos(CaptionData(dataset), images=5, beam_sizes=(2,))
    rate, bare, share = capsys.readouterr().out.splitlines()[-1].split()[1:]
    assert float(rate) > 0
    assert float(share) == pytest.approx(float(rate) / float(bare), abs=0.05)
