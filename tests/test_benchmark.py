"""The benchmark: its made-up data has COCO's shape, and its command runs. What it measures is not tested."""

import sys

import numpy as np
import pytest
import torch

from scripts import benchmark
from scripts.benchmark import (
    ListedBatches,
    bare_run,
    decoding,
    feature_rate,
    made_up_captions,
    models,
    one_length,
    photos,
    precision,
    sorted_pools,
    start,
    write_made_up,
)
from scripts.train import Settings, finish_epoch, open_run, train_one_epoch, validate


def test_made_up_captions_are_trained_on(capsys):
    captions = made_up_captions(400, 50, 30, features=6)
    assert len(captions.indices) == 400 and 9 < np.mean(captions.lengths - 2) < 12 and captions.lengths.min() >= 7
    for row, length in zip(captions.table, captions.lengths, strict=True):
        assert row[0] == 0 and (row[length - 1:] == 1).all() and (row[1:length - 1] > 2).all()
    run = bare_run(Settings(embed_size=8, hidden_size=8, batch_size=16), captions, 30)
    rate, loading, speed = feature_rate(run, steps=3)
    assert rate > 0 and 0 < loading < 1 and speed > 0


@pytest.mark.parametrize('arrange', [one_length, sorted_pools])
def test_arrangements_serve_each_caption_once(arrange):
    captions = made_up_captions(400, 50, 30, features=6)
    sampler = ListedBatches(arrange, captions, 16, seed=0)
    served = [list(batch) for batch in sampler]
    assert sorted(sum(served, [])) == list(range(400)) and max(map(len, served)) == 16
    assert sampler.bounds(sampler.batches - 1)[1] == 400
    spread = [np.ptp(captions.lengths[batch]) for batch in served]
    assert max(spread) == 0 if arrange is one_length else np.mean(spread) < np.ptp(captions.lengths) / 3
    sampler.set_epoch(1)
    assert [list(batch) for batch in sampler] != served
    sampler.set_epoch(0, 3)
    assert [list(batch) for batch in sampler] == served[3:]


@pytest.mark.parametrize('trained', [False, True])
def test_decoding_is_timed_with_and_without_a_run(dataset, isolated_root, small_weights, capsys, trained):
    if trained:
        run = open_run(Settings(cocoapi_loc=str(dataset), backbone='resnet18', weights=small_weights, epochs=1,
                                vocab_threshold=1, embed_size=8, hidden_size=8, image='attention'))
        finish_epoch(run, train_one_epoch(run), validate(run))
    decoding(str(dataset), images=10)
    output = capsys.readouterr().out
    assert all(name in output for name in ('greedy', 'sampling', 'beam 1 ', 'beam 10')) and '10 images' in output
    assert ("image='attention'" in output) == trained


def test_the_table_of_models_has_a_line_for_each(dataset, isolated_root, small_weights, monkeypatch, capsys):
    def small(**options):
        return Settings(**options, backbone='resnet18', weights=small_weights, vocab_threshold=1, embed_size=8,
                        hidden_size=8)

    monkeypatch.setattr(benchmark, 'Settings', small)
    models(str(dataset), epochs=1, beam_sizes=(1, 2))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name in (image + tied for image in ('first', 'state', 'every', 'attention') for tied in ('', ', tied')):
        rows = [line for line in lines if line.startswith(name + '  ')]
        assert len(rows) == 4 and rows[1].count('[') == rows[2].count('[') == 2, rows


def test_start_up_reads_a_made_up_file(tmp_path):
    write_made_up(tmp_path, 20, 100)
    assert start(tmp_path) > 0 and (tmp_path / 'vocab.pkl').exists()


def test_the_command_prints_a_part(dataset, monkeypatch, capfd):
    monkeypatch.setattr(sys, 'argv', ['benchmark', '--only', 'sampler', '--cocoapi-loc', str(dataset)])
    benchmark.main()
    output = capfd.readouterr().out
    assert '414,113 captions, batch 128' in output and 'peak memory' in output


def test_photos_are_captioned_beside_the_bare_encoder(dataset, capsys):
    photos(str(dataset), images=5, beam_sizes=(2,))
    rate, bare, share = capsys.readouterr().out.splitlines()[-1].split()[1:]
    assert float(rate) > 0 and float(share) == pytest.approx(float(rate) / float(bare), abs=0.05)


def test_precision_compares_with_float32(dataset, capsys, monkeypatch):
    monkeypatch.setattr('scripts.checkpoint.fast_dtype', lambda device: torch.bfloat16)    # also where it is slow
    precision(str(dataset), images=5, beam_sizes=(1,))
    first, second = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert first[:4] == ['1', 'float32,', 'cpu', '0.0%'] and second[:3] == ['1', 'bfloat16,', 'cpu']
    assert 0 <= float(second[3].rstrip('%')) <= 100
