"""Captions of PyTorch and of onnxruntime, float32, on one core: are they the same, and how fast?

    OMP_NUM_THREADS=1 python -m experiments.onnx_captions --cocoapi-loc data/flickr8k

Of the first validation photos, by both captioners that ship; its table is in docs/onnx.md. The two
take turns photo by photo, so that both meet the same load of the machine.
"""

import argparse
import tempfile
import time

import numpy as np
import torch

from captioning.captioner import SHIPPED, load_captioner
from captioning.onnx_caption import Captioner as OnnxCaptioner
from captioning.onnx_export import export_onnx
from captioning.prepare import prepare_data
from captioning.tables import text_table
from scripts import run_main

MODELS = ('flickr8k_best.pt', 'flickr8k_plain.pt')
BEAM_SIZES = (1, 5)
MAX_LEN = 20


def compared(checkpoint, paths):
    """Caption photos both ways, and print captions that differ -> rows of a table."""
    captioner = load_captioner(checkpoint, 'cpu', names=False)
    captioner.dtype = torch.float32
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(captioner, folder)
        exported = OnnxCaptioner(folder, threads=1)
    seconds, equal = [], []
    for path in paths:
        captions, times = zip(caption(captioner, path), caption_exported(exported, path),
                              strict=True)
        seconds.append(times)
        equal.append([first == second for first, second in zip(*captions, strict=True)])
        if not all(equal[-1]):
            print(path, *captions, sep='\n  ', flush=True)
    counts = np.sum(equal, axis=0)                          # (beam sizes,)
    milliseconds = 1000 * np.median(seconds, axis=0)        # (2, encoder and beam sizes)
    parts = ['reading and encoder', *(f'beam {size}' for size in BEAM_SIZES)]
    shares = ['', *(f'{count} of {len(paths)}' for count in counts)]
    return [(checkpoint.stem, part, share, f'{torch_ms:.1f}', f'{onnx_ms:.1f}')
            for part, share, torch_ms, onnx_ms in zip(parts, shares, *milliseconds, strict=True)]


def caption(captioner, path):
    """Captions of a photo with each beam size, and the seconds of the encoder and of each beam."""
    clock = [time.perf_counter()]
    features = captioner.features([path])
    clock.append(time.perf_counter())
    captions = []
    for size in BEAM_SIZES:
        captions += captioner.caption_features(features, MAX_LEN, size)
        clock.append(time.perf_counter())
    return captions, np.diff(clock)


def caption_exported(exported, path):
    """As `caption`, by the exported model."""
    clock = [time.perf_counter()]
    features = exported.features(path)
    clock.append(time.perf_counter())
    captions = []
    for size in BEAM_SIZES:
        captions.append(exported.text(exported.search(features, size, MAX_LEN)))
        clock.append(time.perf_counter())
    return captions, np.diff(clock)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=1000,
                        help='of the validation split, the first ones (default: 1000)')
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = prepare_data(args.cocoapi_loc).image_paths('val')[:args.images]
    rows = [('model', 'part', 'equal captions', 'PyTorch, ms', 'onnxruntime, ms')]
    for name in MODELS:
        rows += compared(SHIPPED.with_name(name), paths)
    print(text_table(rows, indent=2))


if __name__ == '__main__':
    run_main(main)
