"""Self-critical training: what is drawn, what it earns, and that the reward rises."""

import numpy as np
import pytest
import torch
from training_helpers import drawn_captions, open_run, train

from captioning import rewards as rewards_file


def test_dropout_rests_while_captions_are_rewarded(settings):
    run = train(open_run(settings(epochs=1, reward_epochs=1, dropout=0.9, num_layers=2)))
    encoder, decoder = run.model.encoder, run.model.decoder
    in_training = [name for name, module in decoder.named_modules() if module.training]
    assert in_training == [] and decoder.lstm.dropout == 0    # validation came last
    run.phase.set_mode()
    features = encoder.embed(run.train.features_of(np.arange(2)))
    captions = run.train.table[:2].long()
    assert torch.equal(decoder(features, captions), decoder(features, captions))


@pytest.mark.parametrize('baseline', ['mean', 'greedy'])
def test_the_reward_rises(settings, baseline):
    run = train(open_run(settings(
        epochs=3, learning_rate=0.01, patience=20, reward_epochs=12, reward_batch_size=6,
        reward_samples=40, reward_learning_rate=0.01, reward_baseline=baseline,
        reward_cross_entropy=0.0)))
    rewards = [line['reward'] for line in run.log if line['phase'] == 'reward']
    assert len(rewards) == 12 and rewards[-1] > 1.25 * rewards[0]


def test_what_is_drawn_has_text_rewards_and_advantages_that_fit(settings):
    run = train(open_run(settings(
        epochs=1, reward_epochs=1, reward_batch_size=4, reward_samples=3)))
    rows = run.train.rows[:4]
    drawn = run.phase.draw_captions(rows, run.train.features_of(rows))
    assert len(drawn.captions) == 12 and drawn.rewards.shape == (4, 3)
    for number, ids in enumerate(drawn.captions):
        assert ids[0] == 0 and 1 not in ids[:-1] and run.model.vocab.unk_id not in ids
        image, sample = divmod(number, 3)
        alone = drawn_captions([ids])
        reward = run.phase.reward(alone, rows[image:image + 1])
        assert reward.item() == pytest.approx(drawn.rewards[image, sample].item(), abs=1e-5)
    others = (drawn.rewards.sum(1, keepdim=True) - drawn.rewards) / 2
    assert torch.allclose(drawn.advantages, (drawn.rewards - others).flatten())
    assert torch.allclose(drawn.advantages.view(4, 3).sum(1), torch.zeros(4), atol=1e-5)
    group, advantages = run.phase._as_group(drawn)
    assert group.inputs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    words = [word for ids in drawn.captions for word in ids[1:]]
    assert group.targets.tolist() == words == group.captions.flatten()[group.scored].tolist()
    counts = torch.tensor([len(ids) - 1 for ids in drawn.captions])
    assert torch.equal(advantages, drawn.advantages.repeat_interleave(counts))


def test_another_reward_is_a_function_and_an_entry(settings, monkeypatch):
    """Rewarded is what the new entry says: short captions."""
    def brevity(captions):
        return lambda sampled, rows: torch.tensor([1 / len(ids) for ids in sampled])

    monkeypatch.setitem(rewards_file.REWARDS, 'brevity', brevity)
    run = open_run(settings(epochs=1, reward_epochs=1, reward='brevity', reward_samples=3))
    with pytest.raises(ValueError, match="reward='length': expected 'cider' or 'brevity'"):
        settings(reward='length')
    train(run)
    rows = run.train.rows[:2]
    drawn = run.phase.draw_captions(rows, run.train.features_of(rows))
    lengths = torch.tensor([len(ids) for ids in drawn.captions])
    assert torch.allclose(drawn.rewards.flatten(), 1 / lengths)
    assert run.log[-1]['reward'] <= 0.5
