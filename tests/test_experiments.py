"""The experiments: batches that are listed, and tables that have all their lines."""

import itertools

import numpy as np
import pytest
import torch

from captioning.benchmark.made_up import made_up_captions
from captioning.caption_data import CaptionData
from experiments.batching import ListedBatches, one_length, sorted_pools
from experiments.model_variants import IMAGES, model_variants, print_tables
from experiments.precision import precision


@pytest.mark.parametrize('arrange', [one_length, sorted_pools])
def test_arrangements_serve_each_caption_once(arrange):
    captions = made_up_captions(400, 50, 30, features=6)
    sampler = ListedBatches(arrange, captions, 16, seed=0)
    served = [list(batch) for batch in sampler]
    assert sorted(itertools.chain(*served)) == list(range(400))
    assert max(map(len, served)) == 16
    assert sampler.bounds(sampler.batches - 1)[1] == sampler.bounds(sampler.batches)[0] == 400
    spread = [np.ptp(captions.lengths[batch]) for batch in served]
    if arrange is one_length:
        assert max(spread) == 0
    else:
        assert np.mean(spread) < np.ptp(captions.lengths) / 3
    sampler.set_epoch(1)
    assert [list(batch) for batch in sampler] != served
    sampler.set_epoch(0, 3)
    assert [list(batch) for batch in sampler] == served[3:]


def test_the_table_of_models_has_a_line_for_each(dataset, isolated_root, small_weights, capsys):
    tables = model_variants(CaptionData(dataset), epochs=1, beam_sizes=(1, 2), backbone='resnet18',
                            weights=small_weights, vocab_threshold=1, embed_size=8, hidden_size=8)
    print_tables(tables)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name in (image + tied for image in IMAGES for tied in ('', ', tied')):
        rows = [line for line in lines if line.startswith(name + '  ')]
        assert len(rows) == 4 and rows[1].count('[') == rows[2].count('[') == 2, rows


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
                    reason='this processor has no LSTM in bfloat16')
def test_precision_compares_with_float32(dataset, isolated_root, monkeypatch):
    # Also where it is slow.
    monkeypatch.setattr('captioning.captioner.fast_dtype', lambda device: torch.bfloat16)
    _, first, second = precision(CaptionData(dataset), images=5, beam_sizes=(1,))
    assert first[:3] == ('1', 'float32, cpu', '0.0%') and second[:2] == ('1', 'bfloat16, cpu')
    assert 0 <= float(second[2].rstrip('%')) <= 100
