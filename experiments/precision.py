"""Photos captioned in float32 and in what is used otherwise, on the CPU and on a GPU.

    python -m experiments.precision --cocoapi-loc data/flickr8k

Tells how many captions differ, and CIDEr of all. The captioner is the one that ships.
"""

import argparse

import numpy as np
import torch

from captioning.captioner import load_captioner
from captioning.devices import default_device
from captioning.photo_captions import caption_photos
from captioning.prepare import prepare_data
from captioning.scoring import References, score
from captioning.tables import percent, text_table
from scripts import run_main

BEAM_SIZES = (1, 3)


def precision(data, images=1000, beam_sizes=BEAM_SIZES):
    """Caption the first validation images in each precision -> rows of a table."""
    paths = data.image_paths('val')[:images]
    ids = [entry['id'] for entry in data.images('val')[:images]]
    references = References(data.annotation_file('val'), ids, annotations=data.annotations('val'))
    rows = [('beam', 'computed in', 'other captions than the first line', 'CIDEr x100')]
    for size in beam_sizes:
        first = None
        for captioner in captioners():
            captions = [told['captions'][0]['caption']
                        for _, told, _ in caption_photos(captioner, paths, size)]
            first = first or captions
            differing = np.mean(np.array(captions) != np.array(first))
            results = [{'image_id': image_id, 'caption': caption}
                       for image_id, caption in zip(ids, captions, strict=True)]
            dtype = str(captioner.dtype).removeprefix('torch.')
            rows.append((str(size), f'{dtype}, {captioner.device.type}', f'{differing:.1%}',
                         percent(score(results, references)['CIDEr'])))
    return rows


def captioners():
    """The captioner that ships, on each device and in each precision, exact on the CPU first."""
    for device in dict.fromkeys(('cpu', default_device().type)):
        captioner = load_captioner(device=device, consensus=False)
        for dtype in dict.fromkeys((torch.float32, captioner.dtype)):
            captioner.dtype = dtype
            yield captioner


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--images', type=int, default=1000,
                        help='of the validation split, the first ones (default: 1000)')
    parser.add_argument('--beam-sizes', type=int, nargs='+', default=BEAM_SIZES)
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    rows = precision(prepare_data(args.cocoapi_loc), args.images, args.beam_sizes)
    print(text_table(rows, indent=2))


if __name__ == '__main__':
    run_main(main)
