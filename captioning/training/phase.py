"""A phase of training: what is trained, at which rates, and what a step reads and makes smaller.

A run goes through the phases of PHASES in captioning/training/run.py, each in a file of its own.
What they share is here: a step reads cached features and lowers the loss of the captions.
"""

from typing import NamedTuple

import torch
from torch import nn

from captioning import distributed
from captioning.devices import computed_in, fast_dtype, length_groups
from captioning.losses import LOSSES
from captioning.sampler import EpochSampler, random_view_per_item
from captioning.training.steps import Batch


class StepLoss(NamedTuple):
    """loss: to be differentiated. nats: cross-entropy summed over this process's words. reward:
    mean over the drawn captions, summed over the images of all processes, where some are drawn."""

    loss: torch.Tensor
    nats: torch.Tensor
    reward: torch.Tensor | None = None


class Network(nn.Module):
    """What one step computes from features or, through the tuned stages, from what these read."""

    def __init__(self, encoder, decoder, tuned):
        super().__init__()
        self.tuned, self.embed, self.decoder = tuned, encoder.embed, decoder

    def forward(self, inputs, groups):
        """inputs: (B, ...). groups: list of TargetGroup -> list of scores (b, T, V)."""
        embedded = distributed.on_global_batch(self.embed, self.tuned(inputs))
        return [self.decoder(embedded[group.inputs], group.captions) for group in groups]


class Phase:
    """The part that all phases share; a subclass says what differs.

    settings: of the run. model: a TrainedModel. train, val: Captions with features; a subclass also
    gets the CaptionReader that they come from. items: what a step takes, CaptionItems or
    ImageItems. rate: the highest learning rate of head and decoder;
    tuned: stages of the CNN that are trained too, at tuned_rate.
    """

    name = ''
    epochs_setting = ''         # the setting that says how many
    batch_size_setting = ''     # the setting to lower when memory is short

    def __init__(self, settings, model, train, val, items, rate, tuned=None, tuned_rate=None):
        self.settings, self.model, self.train, self.val = settings, model, train, val
        self.items = items
        self.device = train.table.device
        self.epochs = getattr(settings, self.epochs_setting)
        self.length_groups = settings.length_groups or length_groups(self.device)
        rates = [(model.encoder.embed, rate), (model.decoder, rate)]
        if tuned is not None:
            rates.append((tuned, tuned_rate))
        groups = [{'params': list(part.parameters()), 'lr': rate, 'highest': rate}
                  for part, rate in rates]
        self.parameters = [parameter for group in groups for parameter in group['params']]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay,
                                           fused=self.device.type in ('cuda', 'cpu'))
        self.sampler = EpochSampler(items.items, items.batch_size, settings.seed,
                                    distributed.rank(), distributed.ranks())
        network = Network(model.encoder, model.decoder, nn.Sequential() if tuned is None else tuned)
        self.network = distributed.parallel(network)

    def set_mode(self):
        """Put encoder and decoder into the mode in which this phase trains."""
        self.model.encoder.train()
        self.model.decoder.train()

    def batches(self, epoch, first_batch):
        """What is left of an epoch, batch by batch -> yields Batch."""
        self.sampler.set_epoch(epoch, first_batch)
        for number, (items, inputs) in enumerate(self.inputs(), start=first_batch):
            yield self._batch(items, inputs, self.sampler.global_batch(number))

    def _batch(self, items, inputs, global_items):
        captions = self.items.caption_indices(global_items)
        return Batch(rows=self.items.rows(items), inputs=inputs,
                     groups=self.items.groups(items, self.length_groups),
                     words=self.train.words(captions), captions=len(captions))

    def inputs(self):
        """This process's items of each batch that is left, and what the network reads of them."""
        for items in self.sampler:
            yield items, self._cached_features(items)

    def _cached_features(self, items):
        """Features (B, C) or (B, P, C) of the items' images, each in one of its views."""
        settings, views = self.settings, None
        if settings.views > 1:
            views = random_view_per_item(
                settings.seed, self.sampler.epoch, items, settings.views)
        return self.train.features_of(self.items.rows(items), views)

    def step_loss(self, batch):
        """What a step makes smaller -> StepLoss."""
        scores = self.scores(batch.inputs, batch.groups)
        total, nats = self.caption_loss(scores, batch.groups)
        return StepLoss(total / batch.words, nats)

    def scores(self, inputs, groups):
        with computed_in(fast_dtype(self.device), self.device):
            return self.network(inputs, groups)

    def caption_loss(self, scores, groups):
        """(what is trained on, plain cross-entropy in nats), both summed over words."""
        scored = [(group_scores, group.targets)
                  for group_scores, group in zip(scores, groups, strict=True)]
        return LOSSES[self.settings.loss](scored, self.settings.label_smoothing)

    def update_validation(self):
        """Bring the features of the validation images up to date before they are captioned."""
