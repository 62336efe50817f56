"""Last phase, where it is asked for: captions are drawn, and the better ones made likelier.

Rennie et al. 2017, Self-critical Sequence Training for Image Captioning.
Axes: B images, S = B * samples drawn captions, T caption length, V vocabulary.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from captioning import distributed, rewards
from captioning.batch_targets import TargetGroup
from captioning.decoding import write_drawn, write_likeliest
from captioning.decoding_rules import Rules
from captioning.devices import moved
from captioning.drawn_captions import DrawnCaptions
from captioning.gpu_layers import recurrent_in_float32
from captioning.losses import policy_loss
from captioning.random_numbers import mixed
from captioning.training.phase import Phase, StepLoss
from captioning.training.steps import ImageItems


class Drawn(NamedTuple):
    """Captions drawn of a batch of images.

    captions: DrawnCaptions, those of the first image first. advantages: (S,), by how much the
    reward of each is above its baseline. rewards: (B, samples).
    """

    captions: DrawnCaptions
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
        self.reward = rewards.REWARDS[settings.reward](train)
        self.rules = Rules(forbidden=[model.vocab.unk_id])

    def set_mode(self):
        """Without dropout: what is drawn and what is trained must be the same."""
        self.model.encoder.eval()
        self.model.decoder.eval()
        for module in self.model.decoder.modules():
            if isinstance(module, nn.RNNBase):    # cuDNN gives no gradients in eval mode
                module.train().dropout = 0.0

    @contextlib.contextmanager
    def precision(self):
        """With recurrent layers in float32, in which they draw, so that they score as they draw."""
        with super().precision(), recurrent_in_float32():
            yield

    def step_loss(self, batch):
        drawn = self.draw_captions(batch.rows, batch.inputs)
        reward = distributed.total(drawn.rewards.sum() / self.settings.reward_samples)
        group, advantages = self._as_group(drawn)
        *scores, drawn_scores = self.scores(batch.inputs, [*batch.groups, group])
        total, nats = self.caption_loss(scores, batch.groups)
        allowed = self.rules.without_forbidden(drawn_scores.float())    # as they were drawn
        words = distributed.total(torch.full((), len(group.targets), device=self.device))
        policy = policy_loss(allowed, group.targets, advantages, words)
        share = self.settings.reward_cross_entropy
        loss = share * (total / batch.words) + (1 - share) * policy
        return StepLoss(loss, nats, reward)

    @torch.no_grad()
    def draw_captions(self, rows, features):
        """Draw captions of the images `rows` with features (B, ...) -> Drawn.

        In the precision that is trained in: what is drawn and what is scored are one policy.
        """
        settings, samples = self.settings, self.settings.reward_samples
        keys = moved(rows, self.device)[:, None], torch.arange(samples, device=self.device)
        seeds = mixed(settings.seed, self.sampler.epoch, *keys).flatten()
        with self.precision():
            embedded = self.model.encoder.embed(features)
            ids, _ = write_drawn(self.model.decoder, embedded.repeat_interleave(samples, dim=0),
                                 seeds, settings.max_len, self.rules)
        captions = DrawnCaptions.of_ids(ids, self.model.decoder.end_id)
        rewards = self.reward(captions, np.repeat(rows, samples)).view(-1, samples)
        advantages = (rewards - self._baseline(rows, embedded, rewards)).flatten()
        return Drawn(captions, advantages, rewards)

    def _baseline(self, rows, embedded, rewards):
        """What each caption must beat (B, samples): the mean of the image's others, or greedy."""
        if self.settings.reward_baseline == 'greedy':
            with self.precision():
                ids, _ = write_likeliest(self.model.decoder, embedded, self.settings.max_len,
                                         self.rules)
            greedy = DrawnCaptions.of_ids(ids, self.model.decoder.end_id)
            return self.reward(greedy, rows)[:, None]
        of_others = rewards.sum(1, keepdim=True) - rewards
        return of_others / (self.settings.reward_samples - 1)

    def _as_group(self, drawn):
        """-> (the captions drawn, as a TargetGroup; the advantage of each scored word's caption)"""
        ids, lengths = drawn.captions.ids, drawn.captions.lengths
        position = torch.arange(ids.shape[1], device=self.device)
        is_scored = (position > 0) & (position < lengths[:, None])
        scored, = is_scored.flatten().nonzero(as_tuple=True)    # waits: how many words were drawn?
        images = torch.arange(len(drawn.rewards), device=self.device)
        inputs = images.repeat_interleave(self.settings.reward_samples)
        group = TargetGroup(inputs, ids, scored, ids.flatten()[scored])
        return group, drawn.advantages[scored // ids.shape[1]]
