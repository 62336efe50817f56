"""How captions are arranged into batches: what it costs in padding, speed, loss and CIDEr.

    python -m experiments.batching --cocoapi-loc data/flickr8k

Half an hour on two cores. Its runs are in runs/batching-*.
"""

import argparse
from typing import NamedTuple

import numpy as np

from captioning.batch_targets import BatchTargets
from captioning.captioner import load_captioner
from captioning.prepare import prepare_data
from captioning.sampler import EpochSampler
from captioning.scoring import score
from captioning.tables import text_table
from captioning.training import finish_epoch, make_settings, open_run, train_one_epoch, validate
from captioning.training.validation import caption_validation
from scripts import run_main

# ---- Arrangements ----

class ListedBatches(EpochSampler):
    """Batches that `arrange(random, captions, batch_size)` lists for each epoch.

    They are served in random order. captions: Captions; arrange gives a list of arrays of indices.
    """

    def __init__(self, arrange, captions, batch_size, seed):
        self.arrange, self.captions, self.batch_size = arrange, captions, batch_size
        super().__init__(captions.indices, batch_size, seed)

    def set_epoch(self, epoch, batch=0):
        super().set_epoch(epoch, batch)
        random = np.random.default_rng([self.seed, epoch])
        listed = self.arrange(random, self.captions, self.batch_size)
        self._listed = [listed[number] for number in random.permutation(len(listed))]
        self.batches = len(listed)

    def global_batch(self, batch):
        return self._listed[batch]

    def bounds(self, batch):
        first, after = (sum(map(len, self._listed[:number])) for number in (batch, batch + 1))
        return first, after


def one_length(random, captions, batch_size):
    """Captions of a batch are all of one length, as in the notebooks of the course."""
    order = random.permutation(captions.indices)
    lengths = captions.lengths[order]
    return [batch for length in np.unique(lengths)
            for batch in _cut(order[lengths == length], batch_size)]


def sorted_pools(random, captions, batch_size, pool=8):
    """Eight batches at a time are sorted by length together."""
    batches = []
    for indices in _cut(random.permutation(captions.indices), batch_size * pool):
        order = np.argsort(captions.lengths[indices], kind='stable')
        batches += _cut(indices[order], batch_size)
    return batches


def _cut(indices, size):
    return [indices[start:start + size] for start in range(0, len(indices), size)]


# {name: (length_groups, what lists the batches, None for the sampler of training)}
ARRANGEMENTS = {'random': (1, None), 'random, 4 groups': (4, None),
                'sorted pools': (1, sorted_pools), 'one length': (1, one_length)}


# ---- The table ----

class Outcome(NamedTuple):
    """One run. padding: share of the ids that the LSTM reads. rates: captions/s of each epoch.
    loss: nats per word after the last one. cider, cider_beam: x100 of the best, greedy and with a
    beam of 3."""

    padding: float
    rates: list
    loss: float
    cider: float
    cider_beam: float


def train(data, name, seed, epochs):
    """Train a run whose batches are arranged in the way `name` -> Outcome."""
    groups, arrange = ARRANGEMENTS[name]
    folder = 'batching-' + name.replace(', ', '-').replace(' ', '-')
    settings = make_settings(name=folder, cocoapi_loc=str(data.folder), seed=seed, epochs=epochs,
                             length_groups=groups)
    run = open_run(settings, data)
    if arrange:
        run.phase.sampler = ListedBatches(arrange, run.train, run.settings.batch_size, seed)
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    captioner = load_captioner(run.folder / 'best.pt', run.device)
    scores = score(caption_validation(run, captioner, beam_size=3), run.references)
    return Outcome(
        padding=padding_share(run.phase.sampler, run.train, groups),
        rates=[line['captions_per_second'] for line in run.log],
        loss=run.log[-1]['val_loss'],
        cider=100 * max(line['CIDEr'] for line in run.log),
        cider_beam=100 * scores['CIDEr'])


def padding_share(sampler, captions, groups):
    """Share of padding among the ids of the first epoch."""
    sampler.set_epoch(0)
    batches = [sampler.global_batch(number) for number in range(sampler.batches)]
    targets = BatchTargets(captions, [(batch, np.arange(len(batch))) for batch in batches], groups)
    ids = sum(group.captions.numel() for batch in targets for group in batch)
    words = sum(captions.lengths[batch].sum() for batch in batches)
    return 1 - words / ids


def batching(data, epochs=4, seeds=3):
    """Train with each arrangement -> rows of a table, means over seeds."""
    rows = [('arrangement', 'padding', 'captions/s', 'loss', 'CIDEr greedy', 'CIDEr beam 3')]
    for name in ARRANGEMENTS:
        outcomes = [train(data, name, seed, epochs) for seed in range(seeds)]
        rates = np.concatenate([outcome.rates for outcome in outcomes])
        loss = np.mean([outcome.loss for outcome in outcomes])
        ciders = [outcome.cider for outcome in outcomes]
        of_each_seed = ', '.join(f'{cider:.1f}' for cider in ciders)
        with_beam = np.mean([outcome.cider_beam for outcome in outcomes])
        rows.append((name, f'{outcomes[-1].padding:.0%}', f'{np.median(rates):.0f}', f'{loss:.3f}',
                     f'{np.mean(ciders):.1f} ({of_each_seed})', f'{with_beam:.1f}'))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epochs', type=int, default=4, help='of each run (default: 4)')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each kind (default: 3)')
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    rows = batching(prepare_data(args.cocoapi_loc), args.epochs, args.seeds)
    print(text_table(rows, indent=2))


if __name__ == '__main__':
    run_main(main)
