"""Where the image enters the LSTM, words tied or not, beam sizes: validation after three epochs.

    python -m experiments.model_variants --cocoapi-loc data/flickr8k

Half an hour on two cores. Its runs are in runs/models-*.
"""

import argparse
import time

import numpy as np

from captioning.captioner import load_captioner
from captioning.prepare import prepare_data
from captioning.scoring import score
from captioning.tables import percent, text_table
from captioning.training import (
    final_scores,
    finish_epoch,
    make_settings,
    open_run,
    train_one_epoch,
    validate,
)
from captioning.training.validation import caption_validation
from scripts import run_main

IMAGES = ('first', 'state', 'every', 'attention')    # choices of `image` in model.DecoderRNN
BEAM_SIZES = (1, 3, 5, 10)
SCORES = ('BLEU-4', 'CIDEr')


def model_variants(data, epochs=3, beam_sizes=BEAM_SIZES, images=IMAGES, **values):
    """Train each variant -> {title: rows of a table}; scores x100, with 95 % intervals over images.

    values: settings that all variants share, where they differ from the defaults.
    """
    by_beam = ['greedy' if size == 1 else f'beam {size}' for size in beam_sizes]
    tables = {title: [('image', *by_beam)] for title in (*SCORES, 'images/s')}
    trained = [('image', 'trained weights, millions', 'loss, nats per word',
                'captions/s in training')]
    for image in images:
        for tied in (False, True):
            name = f'{image}, tied' if tied else image
            run = train(name, data, epochs=epochs, image=image, tied=tied, **values)
            trained.append(_training_row(name, run))
            cells = decode_by_beam(run, beam_sizes)
            for title, rows in tables.items():
                rows.append((name, *cells[title]))
    return {'training': trained, **tables}


def train(name, data, **values):
    """Train a variant, or find it trained -> Run."""
    folder = 'models-' + name.replace(', ', '-')
    settings = make_settings(name=folder, cocoapi_loc=str(data.folder), **values)
    run = open_run(settings, data)
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    final_scores(run)
    return run


def decode_by_beam(run, beam_sizes):
    """Caption the validation images with each beam size -> {title: cells of a row}."""
    captioner = load_captioner(run.folder / 'best.pt', run.device)
    cells = {title: [] for title in (*SCORES, 'images/s')}
    for size in beam_sizes:
        start = time.perf_counter()
        results = caption_validation(run, captioner, size)
        rate = len(results) / (time.perf_counter() - start)
        scores = score(results, run.references, draws=1000)
        cells['images/s'].append(f'{rate:.0f}')
        for title in SCORES:
            cells[title].append(percent(scores[title], scores['intervals'][title]))
    return cells


def _training_row(name, run):
    weights = sum(parameter.numel() for parameter in run.phase.parameters)
    rate = np.median([line['captions_per_second'] for line in run.log])
    return name, f'{weights / 1e6:.1f}', f'{run.log[-1]["val_loss"]:.3f}', f'{rate:.0f}'


def print_tables(tables):
    trained, *others = tables
    print(text_table(tables[trained], indent=2))
    for title in others:
        print(f'\n  {title}')
        print(text_table(tables[title], indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epochs', type=int, default=3, help='of each variant (default: 3)')
    parser.add_argument('--beam-sizes', type=int, nargs='+', default=BEAM_SIZES)
    parser.add_argument('--image', nargs='+', default=IMAGES, choices=IMAGES,
                        help='where the image enters the LSTM (default: each)')
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    data = prepare_data(args.cocoapi_loc)
    print_tables(model_variants(data, args.epochs, args.beam_sizes, args.image))


if __name__ == '__main__':
    run_main(main)
