"""Errors that a CPU forgives, put into the code on purpose: the pretended GPU tells each."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from training_helpers import edited_model, open_run, val_paths

from captioning import (
    captioner,
    checkpoint,
    cider,
    decoding_rules,
    encoding,
    gpu_layers,
    pretended_gpu,
)
from captioning.captions import Captions
from captioning.decoding import beam_search
from captioning.features import cached_features
from captioning.photo_captions import caption_photos
from captioning.training import epoch, phase, train_one_epoch, validate
from captioning.training.self_critical_phase import SelfCriticalPhase

MIXED = 'same device'
STATES = ('.contiguous() for part in state', ' for part in state')


def stays_where_it_is(values, device):
    """In the place of devices.moved."""
    return torch.as_tensor(values)


@pytest.fixture
def run(settings, few_photos, device, exact):
    """A run on the device, before its first step."""
    return open_run(settings(cocoapi_loc=few_photos), device=device)


def decode(run):
    model = run.model.captioner(run.device)
    return model.decode(run.val.features)


def in_self_critical_phase(run):
    run.settings.reward_epochs = 1
    run.phase = SelfCriticalPhase(run.settings, run.model, run.train, run.val, run.reader)
    train_one_epoch(run)


def test_a_mix_of_devices_in_training(run, monkeypatch):
    features_of = Captions.features_of
    monkeypatch.setattr(Captions, 'features_of',
                        lambda *arguments: features_of(*arguments).cpu())
    with pytest.raises(RuntimeError, match=MIXED):
        train_one_epoch(run)


def test_a_mix_of_devices_in_decoding(run, monkeypatch):
    monkeypatch.setattr(decoding_rules, 'moved', stays_where_it_is)
    with pytest.raises(RuntimeError, match=MIXED):
        decode(run)


def test_a_mix_of_devices_in_rewards(run, monkeypatch):
    monkeypatch.setattr(cider, 'moved', stays_where_it_is)
    with pytest.raises(RuntimeError, match=MIXED):
        in_self_critical_phase(run)


def test_a_mix_of_devices_in_features(run, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, 'moved', stays_where_it_is)
    with pytest.raises(RuntimeError, match=MIXED):
        cached_features(run.model.encoder, val_paths(run), tmp_path / 'cache', 'val')


def test_a_mix_of_devices_in_a_checkpoint(run, monkeypatch):
    def load_weights(module, state, path, model_file):
        module.load_state_dict(state, strict=False, assign=True)

    train_one_epoch(run)
    run.save()
    monkeypatch.setattr('captioning.training.trained_model.load_weights', load_weights)
    run.model.load(checkpoint.read_checkpoint(run.folder / 'last.pt'), 'last.pt')
    with pytest.raises(RuntimeError, match=MIXED):
        validate(run)


def test_a_mix_of_devices_in_validation(run, monkeypatch):
    monkeypatch.setattr('captioning.training.validation.word_scores',
                        lambda *arguments: phase.word_scores(*arguments).cpu())
    with pytest.raises(RuntimeError, match=MIXED):
        validate(run)


def test_a_mix_of_devices_in_sample(run, monkeypatch):
    model = run.model.captioner(run.device)
    monkeypatch.setattr(captioner, 'moved', stays_where_it_is)
    monkeypatch.setattr(captioner.Captioner, 'encode', lambda self, images: run.val.features.cpu())
    with pytest.raises(RuntimeError, match=MIXED):
        list(caption_photos(model, val_paths(run)))


def test_numpy_of_a_tensor_on_the_device(run):
    with pytest.raises(TypeError, match='numpy'):
        run.val.features.numpy()


def test_backward_through_a_recurrent_layer_in_eval_mode(run, monkeypatch):
    monkeypatch.setattr(SelfCriticalPhase, 'set_mode', lambda self: self.model.decoder.eval())
    with pytest.raises(RuntimeError, match='training mode'):
        in_self_critical_phase(run)


def test_a_state_that_is_not_contiguous(settings, few_photos, device, exact, tmp_path):
    model_file = edited_model(tmp_path / 'edited' / 'model.py', STATES)
    run = open_run(settings(cocoapi_loc=few_photos, num_layers=2, model_file=str(model_file)),
                   device=device)
    model = run.model.captioner(run.device)
    with pytest.raises(RuntimeError, match='not contiguous'):
        model.decode(run.val.features, beam_search, beam_size=2)


def one_step(run, train_step):
    """Count what the second step of an epoch asks of the device."""
    run.phase.set_mode()
    first, second, *_ = run.phase.batches(0, 0)
    train_step(run.phase, first, seed=0)
    with pretended_gpu.counted() as counts:
        train_step(run.phase, second, seed=1)
    return counts


def test_a_wait_put_into_the_step(run, pretended):
    def with_a_wait(phase, batch, seed):
        norm, *others = epoch.train_step(phase, batch, seed)
        return float(norm), *others

    assert one_step(run, epoch.train_step).waits == 0
    assert one_step(run, with_a_wait).waits == 1


def test_float16_in_the_recurrent_layer(settings, few_photos, device, pretended, monkeypatch):
    """Where autocast is not kept from it."""
    def lstm_dtypes():
        values = {'cocoapi_loc': few_photos, 'val_images': 1}
        run = open_run(settings(**values), device=device)
        operated = one_step(run, epoch.train_step).operated
        return {event.dtype for event in operated if 'lstm' in event.operation}

    assert lstm_dtypes() == {torch.bfloat16}
    monkeypatch.setattr(phase, 'recurrent_out_of_autocast', lambda decoder: decoder)
    assert torch.float16 in lstm_dtypes()


def test_captions_are_scored_in_the_precision_in_which_they_are_drawn(settings, few_photos, device,
                                                                      pretended):
    values = {'cocoapi_loc': few_photos, 'val_images': 1, 'reward_epochs': 1,
              'reward_batch_size': 2}
    run = open_run(settings(**values), device=device)
    run.phase = SelfCriticalPhase(run.settings, run.model, run.train, run.val, run.reader)
    operated = one_step(run, epoch.train_step).operated
    dtypes = [event.dtype for event in operated if 'lstm' in event.operation]
    assert len(dtypes) > 5 and set(dtypes) == {torch.float32}


@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
@pytest.mark.parametrize('weight_norm', [parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_layer_that_makes_its_weights_itself_is_trained(device, weight_norm):
    layer = weight_norm(nn.LSTM(4, 6, batch_first=True).to(device), 'weight_hh_l0')
    gpu_layers.recurrent_out_of_autocast(layer)
    with torch.autocast(device.type, torch.bfloat16):
        output, _ = layer(torch.randn(2, 3, 4, device=device))
        assert output.dtype == torch.float32
        output.sum().backward()
        with pytest.raises(RuntimeError):
            layer(torch.randn(2, 3, 5, device=device))
        assert torch.is_autocast_enabled(device.type)    # also after an error
