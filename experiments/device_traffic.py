"""What a GPU is asked to do: copies to it, waits for it and operations on it, counted.

    python -m experiments.device_traffic            # --places also tells which lines they come from

A step that waits for the GPU or copies to it leaves it idle, and one of many operations is as slow
as the processor that starts them. They are counted on a pretended GPU, captioning/pretended_gpu, by
small made-up captions and random weights. Counts grow with the length of captions, and where a step
has more scores than captioning/losses.py takes at a time.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torchvision.models import resnet18

import model
from captioning import decoding, pretended_gpu
from captioning.benchmark.made_up import made_up_captions, made_up_vocabulary
from captioning.benchmark.training import take_steps
from captioning.constrained_search import constrained_search
from captioning.tables import text_table
from captioning.training import make_settings
from captioning.training.features_phase import FeaturesPhase
from captioning.training.self_critical_phase import SelfCriticalPhase
from captioning.training.trained_model import TrainedModel
from captioning.training.tuning_phase import TuningPhase
from scripts import run_main

IMAGES, CAPTIONS, WORDS = 40, 200, 100
CHANNELS, PLACES = 512, 9    # of the features; a ResNet-18 has 512
WARM_UP, STEPS = 2, 3
FEW_WORDS, MANY_WORDS = 6, 22    # longest captions, start and end included

STEPS_COUNTED = {
    'features, by caption': (FeaturesPhase, {}),
    'features, by image': (FeaturesPhase, {'by_image': True}),
    'features, two views': (FeaturesPhase, {'views': 2}),
    "features, image='first'": (FeaturesPhase, {'image': 'first'}),
    "features, image='state'": (FeaturesPhase, {'image': 'state'}),
    "grids, image='attention'": (FeaturesPhase, {'image': 'attention'}),
    'tuning the encoder': (TuningPhase, {'tune_epochs': 1, 'tune_batch_size': 2}),
    'self-critical': (SelfCriticalPhase, {'reward_epochs': 1, 'reward_batch_size': 8}),
    'self-critical, greedy baseline': (SelfCriticalPhase, {
        'reward_epochs': 1, 'reward_batch_size': 8, 'reward_baseline': 'greedy'}),
}
METHODS = {
    'greedy': (decoding.greedy, {}),
    'greedy, no word sequence twice': (decoding.greedy, {'no_repeat': 3}),
    'beam 3': (decoding.beam_search, {'beam_size': 3}),
    'beam 3, a word required': (constrained_search, {'beam_size': 3, 'required': [[{5}]] * 4}),
    'sample': (decoding.sample, {}),
    'sample, nucleus': (decoding.sample, {'nucleus': 0.9}),
}


# ---- Training ----

def training_traffic(device, folder):
    """-> {name: (Counts of STEPS steps, copies and waits before the first step)}"""
    traffic = {}
    for name, (kind, values) in STEPS_COUNTED.items():
        phase = tiny_phase(kind, device, folder, **values)
        batches = phase.batches(epoch=0, first_batch=0)
        with pretended_gpu.counted() as first:
            take_steps(phase, itertools.islice(batches, WARM_UP))
        with pretended_gpu.counted() as counts:
            take_steps(phase, itertools.islice(batches, STEPS))
        before = [total - WARM_UP * later / STEPS for total, later in
                  ((first.copies, counts.copies), (first.waits, counts.waits))]
        traffic[name] = counts, before
    return traffic


def tiny_phase(kind, device, folder, **values):
    """A phase of training, ready for its steps, with small random weights."""
    settings = make_settings(**{
        'batch_size': 16, 'embed_size': 32, 'hidden_size': 32, 'backbone': 'resnet18',
        'weights': str(folder / 'resnet18.pt'), 'tied': True, **values})
    captions = made_up_captions(CAPTIONS, IMAGES, WORDS, features=CHANNELS)
    captions.paths = [folder / 'photo.png'] * IMAGES
    captions.views = [captions.features.flip(1)] * (settings.views - 1)
    if settings.image == 'attention':
        captions.features = captions.features[:, None].repeat(1, PLACES, 1)
    trained_model = TrainedModel(settings, model, made_up_vocabulary(WORDS), device)
    captions.to(device)
    phase = kind(settings, trained_model, captions, captions, None)
    phase.set_mode()
    return phase


def write_files(folder):
    """The weights of a random ResNet-18, and a photo."""
    torch.save(resnet18().state_dict(), folder / 'resnet18.pt')
    Image.new('RGB', (64, 64), 'orange').save(folder / 'photo.png')


# ---- Decoding ----

def decoding_traffic(device):
    """-> {name: (Counts of short captions, Counts of long ones)}, which differ by so many words."""
    decoder = model.DecoderRNN(32, 32, WORDS).to(device).eval()
    with torch.no_grad():
        decoder.linear.bias[decoder.end_id] = -1e6    # captions never end
    features = torch.randn(4, 32).to(device)
    traffic = {}
    for name, (method, options) in METHODS.items():
        traffic[name] = []
        for max_len in (FEW_WORDS, MANY_WORDS):
            with pretended_gpu.counted() as counts:
                method(decoder, features, max_len=max_len, forbidden=[2], **options)
            traffic[name].append(counts)
    return traffic


# ---- The tables ----

def training_table(traffic):
    rows = [('a step of training', 'copies', 'waits', 'operations', 'copies before the first',
             'waits before the first')]
    for name, (counts, before) in traffic.items():
        means = [total / STEPS for total in (counts.copies, counts.waits, counts.operations)]
        rows.append((name, *map(_rounded, (*means, *before))))
    return rows


def decoding_table(traffic):
    rows = [('a word of decoding', 'copies', 'waits', 'operations', 'copies besides',
             'waits besides')]
    for name, (short, long) in traffic.items():
        words = MANY_WORDS - FEW_WORDS
        copies = (long.copies - short.copies) / words
        waits = (long.waits - short.waits) / words
        operations = (long.operations - short.operations) / words
        steps = FEW_WORDS - 1
        besides = short.copies - steps * copies, short.waits - steps * waits
        rows.append((name, *map(_rounded, (copies, waits, operations, *besides))))
    return rows


def _rounded(number):
    return f'{round(number, 2) + 0.0:g}'    # + 0.0: none is -0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--places', action='store_true',
                        help='also tell the lines of code that copies and waits come from')
    args = parser.parse_args()
    device = pretended_gpu.start()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        training = training_traffic(device, Path(folder))
    of_decoding = decoding_traffic(device)
    print(text_table(training_table(training), indent=2))
    print(text_table(decoding_table(of_decoding), indent=2))
    if args.places:
        for name, (counts, _) in training.items():
            print(f'{name}, {STEPS} steps: {counts}')
        for name, (_, counts) in of_decoding.items():
            print(f'{name}, {MANY_WORDS - 1} words: {counts}')


if __name__ == '__main__':
    run_main(main)
