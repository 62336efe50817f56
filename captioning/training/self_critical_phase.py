"""Last phase, where it is asked for: captions are drawn, and the better ones made likelier.

Rennie et al. 2017, Self-critical Sequence Training for Image Captioning.
Axes: B images, S = B * samples drawn captions, T caption length, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from captioning import decoding, distributed
from captioning.captions import TargetGroup
from captioning.losses import IGNORED, mask_padding, policy_loss
from captioning.rewards import REWARDS
from captioning.training.phase import Phase, StepLoss
from captioning.training.steps import ImageItems


class Drawn(NamedTuple):
    """Captions drawn of a batch of images.

    group: them as a TargetGroup. advantages: (S,), by how much the reward of each is above its
    baseline. rewards: (B, samples).
    """

    group: TargetGroup
    advantages: torch.Tensor
    rewards: torch.Tensor


class SelfCriticalPhase(Phase):
    """Policy gradient on drawn captions, with a share of the cross-entropy."""

    name = 'reward'
    epochs_setting = 'reward_epochs'
    batch_size_setting = 'reward_batch_size'

    def __init__(self, settings, model, train, val, reader):
        if settings.tune_epochs:    # from features of the tuned encoder
            model.encoder.backbone[model.first_tuned_stage():].requires_grad_(True)
            train, val = reader.read(model.encoder, train.table.device)
        super().__init__(settings, model, train, val,
                         ImageItems(train, settings.reward_batch_size),
                         rate=settings.reward_learning_rate)
        self.reward = REWARDS[settings.reward](train)
        self.rules = {'max_len': settings.max_len, 'forbidden': [model.vocab.unk_id]}

    def set_mode(self):
        """Without dropout: what is drawn and what is trained must be the same."""
        self.model.encoder.eval()
        self.model.decoder.eval()
        for module in self.model.decoder.modules():
            if isinstance(module, nn.RNNBase):    # cuDNN gives no gradients in eval mode
                module.train().dropout = 0.0

    def step_loss(self, batch):
        drawn = self.draw_captions(batch.rows, batch.inputs)
        reward = distributed.total(drawn.rewards.sum() / self.settings.reward_samples)
        *scores, drawn_scores = self.scores(batch.inputs, [*batch.groups, drawn.group])
        total, nats = self.caption_loss(scores, batch.groups)
        unknown = torch.tensor(self.model.vocab.unk_id, device=self.device)
        allowed = drawn_scores.float().index_fill(2, unknown, -torch.inf)    # as they were drawn
        targets = drawn.group.targets
        words = distributed.total((targets != IGNORED).sum())
        policy = policy_loss(allowed, targets, drawn.advantages, words)
        share = self.settings.reward_cross_entropy
        loss = share * (total / batch.words) + (1 - share) * policy
        return StepLoss(loss, nats, reward)

    @torch.no_grad()
    def draw_captions(self, rows, features):
        """Draw captions of the images `rows` with features (B, ...) -> Drawn."""
        settings, samples = self.settings, self.settings.reward_samples
        keys = [[settings.seed, self.sampler.epoch, row] for row in rows]
        seeds = [np.random.default_rng(key).integers(2 ** 62, size=samples) for key in keys]
        embedded = self.model.encoder.embed(features)
        captions = decoding.sample(
            self.model.decoder, embedded.repeat_interleave(samples, dim=0),
            seeds=np.concatenate(seeds).tolist(), **self.rules)
        ids = [caption.ids for caption in captions]
        rewards = self.reward(ids, np.repeat(rows, samples)).view(-1, samples)
        advantages = (rewards - self._baseline(rows, embedded, rewards)).flatten()
        return Drawn(self._as_group(ids, len(rows)), advantages, rewards)

    def _baseline(self, rows, embedded, rewards):
        """What each caption must beat (B, samples): the mean of the image's others, or greedy."""
        if self.settings.reward_baseline == 'greedy':
            greedy = decoding.greedy(self.model.decoder, embedded, **self.rules)
            return self.reward([caption.ids for caption in greedy], rows)[:, None]
        of_others = rewards.sum(1, keepdim=True) - rewards
        return of_others / (self.settings.reward_samples - 1)

    def _as_group(self, ids, images):
        """Lists of ids, `reward_samples` of each image -> TargetGroup."""
        lengths = torch.tensor([len(caption) for caption in ids], device=self.device)
        end_id = self.model.vocab.end_id
        captions = torch.full((len(ids), int(lengths.max())), end_id, device=self.device)
        for row, caption in enumerate(ids):
            captions[row, :len(caption)] = torch.tensor(caption)
        inputs = torch.arange(images, device=self.device)
        inputs = inputs.repeat_interleave(self.settings.reward_samples)
        return TargetGroup(inputs, captions, mask_padding(captions, lengths))
