"""Measure this machine: training, encoder, sampler, start-up, memory and growth.

    python -m scripts.benchmark                             # all parts; run it on an idle machine
    python -m scripts.benchmark --only training encoder

Ratios of one run are comparable. Each part runs in a process of its own, whose peak memory is
printed. COCO's sizes are made up where they are meant.
"""

import argparse
import inspect
import time

import torch

from captioning.benchmark.data import measure_growth, measure_sampler, measure_startup
from captioning.benchmark.decoding import measure_decoding, measure_photos
from captioning.benchmark.encoding import measure_encoder
from captioning.benchmark.measure import in_own_process
from captioning.benchmark.training import measure_coco, measure_training
from captioning.devices import default_device
from captioning.prepare import prepare_data
from scripts import run_main

PARTS = {'training': measure_training, 'coco': measure_coco, 'encoder': measure_encoder,
         'decoding': measure_decoding, 'photos': measure_photos, 'sampler': measure_sampler,
         'startup': measure_startup, 'growth': measure_growth}


def heading(part):
    """The first paragraph of a function's docstring, in one line."""
    return inspect.getdoc(part).split('\n\n')[0].replace('\n', ' ')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=PARTS, default=list(PARTS), metavar='PART',
                        help=f'parts (default: all): {", ".join(PARTS)}')
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    data = prepare_data(args.cocoapi_loc)
    print(f'on {default_device()}, {torch.get_num_threads()} threads, torch {torch.__version__}')
    for name in args.only:
        print(f'{name}: {heading(PARTS[name])}', flush=True)
        begin = time.perf_counter()
        _, memory = in_own_process(PARTS[name], data)
        took = time.perf_counter() - begin
        print(f'  peak memory {memory:.2f} GB; {took:.0f} s\n', flush=True)


if __name__ == '__main__':
    run_main(main)
