"""Speed of training from features, beside the loop that the classic notebooks have.

    phase = features_phase(captions, vocab, batch_size=128)
    rates = training_rates(phase)       # rates.captions, rates.batch_share, rates.gflops
"""

import itertools
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import SubsetRandomSampler

import model
from captioning.benchmark.encoding import seconds_per_image
from captioning.benchmark.made_up import (
    COCO_CAPTIONS,
    COCO_IMAGES,
    COCO_WORDS,
    made_up_captions,
    made_up_vocabulary,
)
from captioning.benchmark.measure import seconds
from captioning.captions import Captions
from captioning.devices import default_device, fast_dtype, is_cpu
from captioning.features import split_features
from captioning.tables import text_table
from captioning.training import make_settings
from captioning.training.epoch import train_step
from captioning.training.features_phase import FeaturesPhase
from captioning.training.step_graphs import PackedBatch, unpacked
from captioning.training.trained_model import TrainedModel
from captioning.transforms import make_transform
from data_loader import CoCoDataset, get_loader
from model import DecoderRNN, EncoderCNN

WARM_UP = 5            # steps before the clock starts
VOCAB_THRESHOLD = 5    # the default of training


# ---- The parts ----

def measure_training(data, batch_size=128):
    """Training from features against the loop of the classic notebooks, all else equal."""
    vocab = data.vocabulary(VOCAB_THRESHOLD)
    captions = training_captions(data)
    classic = classic_rate(data, batch_size)
    rows = [('captions/s', 'of the classic', 'making the batch', 'GFLOP/s'),
            (f'classic loop, batch {batch_size}: {classic:.1f}', '1', '', '')]
    rates = {}
    for size in (batch_size, 2 * batch_size, 4 * batch_size, 8 * batch_size):
        phase = features_phase(captions, vocab, batch_size=size)
        rates[size] = training_rates(phase)
        rows.append(_row_beside(classic, size, rates[size]))
    print(text_table(rows, indent=2))
    _print_matrix_speeds()
    _print_first_epoch(data, captions, classic, rates[batch_size].captions)
    _print_profile(features_phase(captions, vocab, batch_size=batch_size))


def measure_coco(data):
    """Training from features at COCO's sizes, made up: seconds an epoch."""
    captions = made_up_captions(COCO_CAPTIONS, COCO_IMAGES, COCO_WORDS)
    vocab = made_up_vocabulary(COCO_WORDS)
    rows = [('batch', 'captions/s', 'seconds an epoch', 'making the batch', 'GFLOP/s')]
    for size in (128, 512, 2048):
        rates = training_rates(features_phase(captions, vocab, batch_size=size), steps=12)
        epoch_seconds = rates.start + COCO_CAPTIONS / rates.captions
        rows.append((size, f'{rates.captions:.0f}', f'{epoch_seconds:.1f}',
                     f'{rates.batch_share:.1%}', f'{rates.gflops:.0f}'))
    print(text_table(rows, indent=2))


# ---- From features ----

class Rates(NamedTuple):
    """captions: a second. batch_share: of a step's time that goes to making the batch. gflops:
    billions of operations a second that the arithmetic reaches. start: seconds that an epoch takes
    until its first batch."""

    captions: float
    batch_share: float
    gflops: float
    start: float


def training_captions(data):
    """Training captions with features of the default encoder, computed if not cached."""
    encoder = EncoderCNN(512).to(default_device())
    vocab = data.vocabulary(VOCAB_THRESHOLD)
    dataset = CoCoDataset(None, 'train', 128, vocab, data)
    features, unreadable, _ = split_features(encoder, data, 'train')
    return Captions.of_split(dataset, features, unreadable)


def features_phase(captions, vocab, device=None, **values):
    """The first phase of training, ready for its steps, of the default model.

    values: settings. The captions also stand for those of validation, which no step reads.
    """
    device, settings = device or default_device(), make_settings(**values)
    trained_model = TrainedModel(settings, model, vocab, device)
    captions.to(device)
    phase = FeaturesPhase(settings, trained_model, train=captions, val=captions)
    phase.set_mode()
    return phase


def training_rates(phase, steps=30, warm_up=WARM_UP):
    """How fast a phase trains, after a few steps to warm up -> Rates.

    Batches are made meanwhile, as in an epoch. With graphs the steps are recorded before the clock
    starts, as all but the first epoch has them.
    """
    for _ in range(2 if phase.graphs else 0):    # once as usual, once recorded
        take_steps(phase, itertools.islice(phase.batches(0, 0), warm_up + steps))
    batches = iter(phase.batches(epoch=0, first_batch=0))    # laid out ahead by the first of them
    take_steps(phase, itertools.islice(batches, warm_up))
    timed, measured = itertools.tee(itertools.islice(batches, steps))
    total = seconds(lambda: take_steps(phase, timed))
    measured = list(measured)
    captions = sum(batch.captions for batch in measured)
    operations = sum(step_operations(phase, batch) for batch in measured)
    again = None

    def begin():
        nonlocal again
        again = iter(phase.batches(epoch=0, first_batch=0))
        next(again)

    start = seconds(begin)
    making = seconds(lambda: list(itertools.islice(again, len(measured))))
    return Rates(captions / total, making / total, operations / total / 1e9, start)


def take_steps(phase, batches):
    for number, batch in enumerate(batches):
        train_step(phase, batch, seed=number)


def step_operations(phase, batch):
    """Multiplications and additions of a step's matrix products, padding included."""
    if isinstance(batch, PackedBatch):
        batch = unpacked(batch, phase.train)
    decoder = phase.model.decoder
    E, H = decoder.lstm.input_size, decoder.lstm.hidden_size
    V = decoder.linear.out_features
    read = sum(group.captions.numel() for group in batch.groups)
    scored = sum(len(group.targets) for group in batch.groups)
    # 2 operations a weight; forward, and twice that backward.
    return 6 * (read * 4 * H * (E + H) + scored * H * V)


# ---- The classic loop ----

def classic_rate(data, batch_size, steps=3):
    """Captions/s of the course's loop.

    Each step draws a length, makes an iterator, and decodes and encodes each photo.
    """
    device = default_device()
    encoder = EncoderCNN(512).to(device)
    loader = get_loader(make_transform(**encoder.transform), 'train', batch_size, VOCAB_THRESHOLD,
                        vocab_file=str(data.vocabulary_file(VOCAB_THRESHOLD)),
                        vocab_from_file=False, cocoapi_loc=str(data.folder))
    decoder = DecoderRNN(512, 512, len(loader.dataset.vocab)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([*encoder.embed.parameters(), *decoder.parameters()])

    def step():
        indices = loader.dataset.get_train_indices()
        loader.batch_sampler.sampler = SubsetRandomSampler(indices)
        images, captions = (part.to(device) for part in next(iter(loader)))
        decoder.zero_grad()
        encoder.zero_grad()
        scores = decoder(encoder(images), captions)
        loss = criterion(scores.view(-1, scores.shape[2]), captions.view(-1))
        loss.backward()
        optimizer.step()

    step()    # the first one also loads libraries
    return batch_size / seconds(step, steps)


def _row_beside(classic, batch_size, rates):
    return (f'from features, batch {batch_size}: {rates.captions:.0f}',
            f'{rates.captions / classic:.0f} times', f'{rates.batch_share:.1%}',
            f'{rates.gflops:.0f}')


def _print_first_epoch(data, captions, classic, rate):
    """An epoch of training from features and of the classic loop, if the features are to be
    computed first."""
    images, count = len(captions.rows), len(captions.indices)
    classic_seconds = count / classic
    for dtype in (fast_dtype(default_device()), torch.float32):
        first = images * seconds_per_image(data, dtype) + count / rate
        print(f'  first epoch of {count:,} captions, {images:,} images encoded in {dtype}: '
              f'{first:.0f} s, {classic_seconds / first:.1f} times faster than the classic one '
              f'({classic_seconds:.0f} s)')


# ---- What the time is spent on ----

def matrix_speed(dtype, side=2048, repeats=20):
    """GFLOP/s of large matrix products on this device."""
    matrix = torch.randn(side, side, device=default_device(), dtype=dtype)
    matrix @ matrix    # the first one also starts threads
    return 2 * side ** 3 / seconds(lambda: matrix @ matrix, repeats) / 1e9


def _print_matrix_speeds():
    dtype = fast_dtype(default_device())
    print(f'  large matrix products: {matrix_speed(dtype):.0f} GFLOP/s in {dtype}, '
          f'{matrix_speed(torch.float32):.0f} in float32')


def _print_profile(phase, steps=20):
    """What a step from features is made of: the operations that take most of its time."""
    activities = torch.profiler.supported_activities()
    take_steps(phase, itertools.islice(phase.batches(epoch=0, first_batch=0), 1))
    with torch.profiler.profile(activities=activities) as profiler:
        take_steps(phase, itertools.islice(phase.batches(epoch=0, first_batch=0), steps))
    attribute = 'self_cpu_time_total' if is_cpu(phase.device) else 'self_device_time_total'
    times = {entry.key: getattr(entry, attribute) for entry in profiler.key_averages()}
    longest = sorted(times, key=times.get, reverse=True)[:8]
    total = sum(times.values())
    shares = [f'{name.removeprefix("aten::")} {times[name] / total:.0%}' for name in longest]
    print('  a step is ' + ', '.join(shares))
