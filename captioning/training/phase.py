"""A phase of training: what is trained, at which rates, and what a step reads and makes smaller.

A run goes through the phases of PHASES in captioning/training/run.py, each in a file of its own.
What they share is here: a step reads cached features and lowers the loss of the captions.
"""

import inspect
from typing import NamedTuple

import torch
from torch import nn

from captioning import distributed, losses
from captioning.batch_targets import BatchTargets
from captioning.devices import computed_in, is_cpu, length_groups, training_dtype
from captioning.gpu_layers import (
    has_dropout_between_layers,
    recurrent_dtype,
    recurrent_out_of_autocast,
    unsorted_embeddings,
)
from captioning.sampler import EpochSampler, random_views
from captioning.training.steps import Batch

ROWS = 32    # of words that the output layer scores in bfloat16 on a CPU: a multiple of it


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
        self.tuned, self.embed = tuned, encoder.embed
        self.decoder = unsorted_embeddings(recurrent_out_of_autocast(decoder))

    def forward(self, inputs, groups):
        """inputs: (B, ...). groups: list of TargetGroup -> list of scores (W, V)."""
        embedded = distributed.on_global_batch(self.embed, self.tuned(inputs))
        return [word_scores(self.decoder, embedded, group) for group in groups]


def word_scores(decoder, embedded, group):
    """Scores (W, V) of the scored words of a TargetGroup; embedded: (B, ...), its batch's inputs.

    A decoder whose `forward` takes `scored` computes those alone; from another they are taken. One
    that also takes `inputs` reads each image once; another is given it once for each caption. Both
    are asked for by name, behind the features and the captions, which may be called anything.
    """
    _, _, *known = inspect.signature(decoder.forward).parameters
    scored = in_few_shapes(group.scored)
    if 'scored' in known and 'inputs' in known:
        scores = decoder(embedded, group.captions, scored=scored, inputs=group.inputs)
        return first_rows(scores, len(group.scored))
    features = embedded.index_select(0, group.inputs)                       # (b, ...)
    if 'scored' in known:
        scores = decoder(features, group.captions, scored=scored)
        return first_rows(scores, len(group.scored))
    return decoder(features, group.captions).flatten(0, 1)[group.scored]


def in_few_shapes(scored):
    """Positions (W,), the last repeated until they are a multiple of ROWS, in bfloat16 on a CPU.

    For each number of rows that it has not met lately, oneDNN compiles its kernels anew, which
    takes longer than the output layer itself.
    """
    missing = -len(scored) % ROWS
    if not missing or not scored.is_cpu or not torch.is_autocast_enabled('cpu'):
        return scored
    return torch.cat([scored, scored[-1:].expand(missing)])


def first_rows(scores, count):
    return scores if len(scores) == count else scores[:count]


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
    graphs = None               # StepGraphs, where steps are taken as CUDA graphs

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
                                           fused=True)
        self.sampler = EpochSampler(items.items, items.batch_size, settings.seed,
                                    distributed.rank(), distributed.ranks())
        network = Network(model.encoder, model.decoder, nn.Sequential() if tuned is None else tuned)
        self.network = distributed.parallel(network)
        self._seeded = False
        recurrent_dtype(self.device)    # tried now: within a step it would draw numbers

    def seed_step(self, seed):
        """Let a step's random numbers follow from its seed: resuming needs no saved random state.

        Dropout between the layers of an LSTM is cuDNN's on a GPU, which sets it up anew after each
        seeding and makes the step wait: there the GPU's numbers are seeded at the first step alone.
        """
        # torch.manual_seed looks up the stack for each kind of device that this machine lacks.
        torch.default_generator.manual_seed(seed)
        if is_cpu(self.device):
            return
        if not (self._seeded and has_dropout_between_layers(self.model.decoder, self.device)):
            torch.get_device_module(self.device).manual_seed(seed)
        self._seeded = True

    def set_mode(self):
        """Put encoder and decoder into the mode in which this phase trains."""
        self.model.encoder.train()
        self.model.decoder.train()

    def batches(self, epoch, first_batch):
        """What is left of an epoch, batch by batch -> yields Batch."""
        self.sampler.set_epoch(epoch, first_batch)
        shares = list(self.sampler)    # this process's items of each batch
        if not shares:
            return
        targets = BatchTargets(self.train, list(map(self.captions_of, shares)), self.length_groups)
        for number, inputs in enumerate(self.inputs(shares)):
            global_items = self.sampler.global_batch(first_batch + number)
            captions = self.items.caption_indices(global_items)
            yield Batch(rows=self.items.rows(shares[number]), inputs=inputs,
                        groups=targets[number], words=self.train.words(captions),
                        captions=len(captions))

    def first_batch(self):
        """The first Batch of the first epoch, to be looked at."""
        return next(Phase.batches(self, epoch=0, first_batch=0))

    def captions_of(self, items):
        """Indices of the captions of a batch of items, and which of its inputs each belongs to."""
        return self.items.caption_indices(items), self.items.inputs_of_captions(items)

    def inputs(self, batches):
        """What the network reads in each batch of items -> yields (B, ...).

        Here features (B, C) or (B, P, C) of the items' images, each in one of its views.
        """
        rows = [self.items.rows(items) for items in batches]
        return self.train.feature_batches(rows, self.views_of(batches))

    def views_of(self, batches):
        """Which view of its image each item is shown in, batch by batch; None if there is one."""
        settings = self.settings
        if settings.views == 1:
            return None
        views = random_views(settings.seed, self.sampler.epoch, self.items.items.max() + 1,
                             settings.views)
        return [views[items] for items in batches]

    def update(self, batch):
        """Change the weights by one step -> (gradient norm, nats, reward), the latter as in
        StepLoss."""
        loss, nats, reward = self.step_loss(batch)
        self.optimizer.zero_grad()
        # DistributedDataParallel takes the mean over ranks; the sum is meant.
        (loss * distributed.ranks()).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        return norm, nats.detach(), reward

    def step_loss(self, batch):
        """What a step makes smaller -> StepLoss."""
        scores = self.scores(batch.inputs, batch.groups)
        total, nats = self.caption_loss(scores, batch.groups)
        return StepLoss(total / batch.words, nats)

    def scores(self, inputs, groups):
        with self.precision():
            return self.network(inputs, groups)

    def precision(self):
        """Context in which the network is computed while it is trained."""
        return computed_in(training_dtype(self.device), self.device)

    def caption_loss(self, scores, groups):
        """(what is trained on, plain cross-entropy in nats), both summed over words."""
        loss, smoothing = losses.LOSSES[self.settings.loss], self.settings.label_smoothing
        sums = [loss(group_scores, group.targets, smoothing)
                for group_scores, group in zip(scores, groups, strict=True)]
        return [sum(parts) for parts in zip(*sums, strict=True)]

    def update_validation(self):
        """Bring the features of the validation images up to date before they are captioned."""
