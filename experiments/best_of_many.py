"""What limits a captioner: to write a good caption, or to know which of many is good?

    python -m experiments.best_of_many path/to/flickr8k path/to/coco80

Captions of validation photos are drawn, and one of each photo's is chosen in three ways: the
likeliest, the one that likelihood and consensus choose together, and the one with the highest
CIDEr, which only who has the references can know. Nothing is named. The folders are data sets.

Axes: N images, K captions of an image.
"""

import argparse

import numpy as np
import torch

from captioning.beam_search import length_normalized
from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, load_captioner
from captioning.decoding import sample
from captioning.scoring import References
from captioning.scoring.metrics import cider
from captioning.scoring.split_captions import seen_split
from captioning.tables import markdown_table, percent
from scripts import run_main

COUNTS = (1, 5, 20, 100)
HEADER = ('Captions', 'A drawn one', 'The likeliest', 'Chosen with the consensus', 'The best')


def drawn(captioner, seen, rows, count, temperature):
    """Captions drawn for images -> their texts and their scores by likelihood, (N, K) each."""
    written = captioner.decode(seen.features, sample, np.repeat(rows, count),
                               temperature=temperature)
    texts = [captioner.vocab.decode(caption.ids) for caption in written]
    likely = [length_normalized(sum(caption.log_probs), len(caption.log_probs))
              for caption in written]
    return np.array(texts).reshape(-1, count), np.array(likely).reshape(-1, count)


def ciders(texts, references):
    """CIDEr of each caption, (N, K)."""
    columns = [cider(references.tokenize(list(column)), references) for column in texts.T]
    return np.stack(columns, axis=1)


def table(captioner, data, counts, temperature):
    """Rows: for each count the mean CIDEr of what each way chooses among as many captions."""
    seen, rows, images = seen_split(captioner, data, 'val')
    references = References(data.annotation_file('val'), [images[row]['id'] for row in rows],
                            annotations=data.annotations('val'))
    rows = [row for row in rows if images[row]['id'] in references.captions]
    torch.manual_seed(0)
    texts, likely = drawn(captioner, seen, rows, max(counts), temperature)
    chosen = likely + np.stack(captioner.support(seen, texts, rows))
    values = ciders(texts, references)

    def mean_of(scores, count):
        best = scores[:, :count].argmax(axis=1)
        return percent(values[np.arange(len(best)), best].mean())

    return [HEADER, *((count, percent(values[:, :count].mean()), mean_of(likely, count),
                       mean_of(chosen, count), mean_of(values, count)) for count in counts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='+', help='data sets')
    parser.add_argument('--checkpoint', default=SHIPPED)
    parser.add_argument('--counts', type=int, nargs='+', default=COUNTS)
    parser.add_argument('--temperature', type=float, default=0.8)
    args = parser.parse_args()
    captioner = load_captioner(args.checkpoint, names=False, consensus=True)
    for folder in args.folders:
        data = CaptionData(folder)
        print(f'\n{data.name}\n')
        print(markdown_table(table(captioner, data, args.counts, args.temperature)), flush=True)


if __name__ == '__main__':
    run_main(main)
