"""Captioners of one encoder that write as one: what several models together would say.

    python -m experiments.ensemble path/to/flickr8k models/flickr8k_best.pt runs/NAME/best.pt

Each word is chosen by the mean of their probabilities. Validation photos are captioned by each
alone and by all together, by the likeliest caption of a beam: no names, no consensus. A checkpoint
beside a model.py is loaded with it.

Axes: B batch, V vocabulary, E embedding.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from torch import nn

from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.scoring import References, score
from captioning.scoring.split_captions import seen_split
from captioning.tables import markdown_table, percent
from scripts import run_main

SCORES = ('BLEU-4', 'CIDEr')


class Heads(nn.Module):
    """Features -> what each of several heads makes of them, side by side: (B, ..., sum of E)."""

    def __init__(self, heads):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features):
        return torch.cat([head(features) for head in self.heads], dim=-1)


class Ensemble(nn.Module):
    """Decoders that are one for every way of decoding. sizes: E of what each reads of Heads."""

    def __init__(self, decoders, sizes):
        super().__init__()
        self.decoders, self.sizes = nn.ModuleList(decoders), sizes
        self.start_id, self.end_id = decoders[0].start_id, decoders[0].end_id
        self.counts = [0] * len(decoders)    # tensors in the state of each

    def init_state(self, features):
        """The states of all decoders, one tuple of tensors (B, ...)."""
        parts = features.split(self.sizes, dim=-1)
        states = [decoder.init_state(part)
                  for decoder, part in zip(self.decoders, parts, strict=True)]
        self.counts = [len(state) for state in states]
        return sum(states, ())

    def step(self, words, state):
        """Words (B,) -> (logarithms of the mean probabilities (B, V), state)."""
        log_probs, later, first = [], (), 0
        for decoder, count in zip(self.decoders, self.counts, strict=True):
            scores, part = decoder.step(words, state[first:first + count])
            log_probs.append(scores.float().log_softmax(dim=1))
            later += tuple(part)
            first += count
        together = torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
        return together, later


def load(path):
    """A captioner, by the model file of its run, that neither names nor asks a consensus."""
    beside = Path(path).with_name('model.py')
    return load_captioner(path, model_file=beside if beside.exists() else None, names=False,
                          consensus=False)


def together(captioners):
    """The captioner of all. ValueError where encoders or vocabularies differ."""
    first, *others = captioners
    for other in others:
        if other.encoder_hash != first.encoder_hash or other.vocab.word2idx != first.vocab.word2idx:
            raise ValueError('an ensemble needs captioners of one encoder and one vocabulary')
    joined = copy.copy(first)
    heads = [each.encoder.embed for each in captioners]
    joined.encoder = copy.copy(first.encoder)
    joined.encoder._modules = {**first.encoder._modules, 'embed': Heads(heads)}
    sizes = [head[0].out_features for head in heads]
    joined.decoder = Ensemble([each.decoder for each in captioners], sizes)
    return joined


def table(captioners, names, data, beam_sizes):
    """Rows: the scores of each captioner alone and of all, for each beam."""
    seen, rows, images = seen_split(captioners[0], data, 'val')
    ids = [images[row]['id'] for row in rows]
    references = References(data.annotation_file('val'), ids, annotations=data.annotations('val'))
    lines = [('Captioner', 'Beam', *SCORES)]
    for size in beam_sizes:
        for captioner, name in zip([*captioners, together(captioners)], [*names, 'together'],
                                   strict=True):
            texts = captioner.caption_features(seen.features, beam_size=size, rows=rows)
            results = [{'image_id': image_id, 'caption': text}
                       for image_id, text in zip(ids, texts, strict=True)]
            scores = score(results, references, draws=1000)
            cells = [percent(scores[name], scores['intervals'][name]) for name in SCORES]
            lines.append((name, size, *cells))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='data set')
    parser.add_argument('checkpoints', nargs='+')
    parser.add_argument('--beam-sizes', type=int, nargs='+', default=(1, 5))
    args = parser.parse_args()
    captioners = [load(path) for path in args.checkpoints]
    print(markdown_table(table(captioners, args.checkpoints, CaptionData(args.folder),
                               args.beam_sizes)))


if __name__ == '__main__':
    run_main(main)
