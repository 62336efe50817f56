"""Time and memory that the data take before training, at COCO's size and beyond."""

import tempfile
import time
from pathlib import Path

import numpy as np

from captioning.benchmark.made_up import COCO_CAPTIONS, COCO_IMAGES, write_made_up
from captioning.benchmark.measure import in_own_process, seconds
from captioning.caption_data import CaptionData
from captioning.captions import Captions
from captioning.sampler import EpochSampler
from captioning.tables import text_table
from data_loader import CoCoDataset
from vocabulary import Vocabulary


def measure_sampler(data):
    """The sampler's own cost at COCO's size."""
    for size in (128, 512):
        cost = sampler_cost(COCO_CAPTIONS, size)
        print(f'  {COCO_CAPTIONS:,} captions, batch {size}: {cost:.1f} microseconds a batch')


def measure_startup(data):
    """Start-up at COCO's size, from the captions file to tensors ready for training."""
    with tempfile.TemporaryDirectory() as folder:
        write_made_up(folder, COCO_IMAGES, COCO_CAPTIONS)
        for state in ('cold (captions are split into words)', 'warm (words are kept)'):
            took, memory = in_own_process(startup_seconds, folder)
            print(f'  {state}: {took:.1f} s, peak memory {memory:.2f} GB')


def measure_growth(data):
    """How time grows from 1,000 to 1,000,000 captions."""
    rows = [('captions', 'cold start, s', 'warm start, s', 'sampler, microseconds a batch',
             'peak memory, GB')]
    for count in (1_000, 10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            write_made_up(folder, max(1, count // 5), count)
            cold = startup_seconds(folder)
            warm, memory = in_own_process(startup_seconds, folder)
        rows.append((f'{count:,}', f'{cold:.2f}', f'{warm:.2f}', f'{sampler_cost(count):.1f}',
                     f'{memory:.2f}'))
    print(text_table(rows, indent=2))


def sampler_cost(count, batch_size=128):
    """Microseconds a batch that the sampler takes over one epoch, its shuffling included."""
    sampler = EpochSampler(np.arange(count), batch_size)
    return seconds(lambda: [None for _ in sampler]) / len(sampler) * 1e6


def startup_seconds(folder):
    """Seconds from a captions file to tensors ready for training: vocabulary, data set, ids.

    What is kept for the next time goes to the folder too.
    """
    begin = time.perf_counter()
    data = CaptionData(folder)
    vocab = Vocabulary(5, str(Path(folder) / 'vocab.pkl'),
                       annotations_file=str(data.annotation_file('train')))
    dataset = CoCoDataset(None, 'train', 128, vocab, data, token_folder=str(folder))
    Captions.of_split(dataset, np.zeros((1, 1), np.float16))
    return time.perf_counter() - begin
