"""What is asked of a device, on machines unlike this one: an old driver, a container, ranks."""

import contextlib
import copy
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from captioning import devices, distributed, gpu_layers

OLD_DRIVER = 'The NVIDIA driver on your system is too old (found version 11040).\nUpdate it.'
NO_DRIVER = 'Found no NVIDIA driver on your system.'


@pytest.fixture
def asked_anew(monkeypatch):
    """Nothing overrules `default_device`, and nothing is remembered."""
    monkeypatch.delenv('CAPTIONING_DEVICE', raising=False)
    for function in (devices.working_accelerator, devices._tell_once):
        monkeypatch.setattr(devices, function.__name__, function.__wrapped__)


@pytest.mark.parametrize(('message', 'told'), [(OLD_DRIVER, True), (NO_DRIVER, False)])
def test_an_old_driver_is_told_and_no_gpu_is_not(asked_anew, monkeypatch, capsys, message, told):
    def init():
        raise RuntimeError(message)

    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.cuda, 'is_built', lambda: True)
    monkeypatch.setattr(torch.cuda, 'init', init)
    assert devices.default_device() == torch.device('cpu')
    said = capsys.readouterr().err
    assert ('the CPU computes: The NVIDIA driver on your system is too old' in said) == told
    assert 'Update it' not in said and bool(said) == told


def test_the_environment_names_a_device(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setenv('CAPTIONING_DEVICE', 'cuda:1')
    assert devices.default_device() == torch.device('cuda', 1) == chosen[0]


def test_a_device_without_a_choice_of_numbers_can_be_used():
    assert devices.use('mps:0') == torch.device('mps', 0)    # whose module has no set_device


@pytest.mark.parametrize(('batches', 'shared_memory', 'processes', 'workers'), [
    (1000, 2 ** 34, 1, 16), (1000, 2 ** 34, 8, 8), (1000, 2 ** 26, 1, 5), (1000, 0, 1, 0),
    (1000, 2 ** 26, 4, 0), (6, 2 ** 34, 1, 3), (1, 2 ** 34, 1, 0)])
def test_workers_fit_cores_work_and_shared_memory(monkeypatch, batches, shared_memory, processes,
                                                  workers):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(os.path, 'isdir', lambda path: True)
    usage = SimpleNamespace(free=shared_memory)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    photos_of_a_batch = 32 * 3 * 224 ** 2
    assert devices.loading_workers('cuda', batches, photos_of_a_batch) == workers
    assert devices.loading_workers('cpu', batches, photos_of_a_batch) == 0


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, of which `tried` lists those that were tried."""
    chosen, tried = [], []
    module = SimpleNamespace(device_count=lambda: 2, set_device=chosen.append)
    monkeypatch.setattr(torch, 'get_device_module',
                        lambda device: torch.cpu if torch.device(device).type == 'cpu' else module)
    monkeypatch.setattr(distributed, 'untried_device', lambda: torch.device('cuda'))
    monkeypatch.setattr(distributed, 'working_accelerator',
                        lambda: (tried.append(chosen[-1]), None))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    monkeypatch.setenv('LOCAL_RANK', '1')
    return SimpleNamespace(module=module, tried=tried)


def test_a_process_tries_its_gpu_alone(two_gpus):
    expected = torch.device('cuda', 1)
    assert distributed._device_of_process(None) == expected and two_gpus.tried == [expected]
    assert distributed._device_of_process('cpu') == torch.device('cpu')


def test_more_processes_than_gpus_are_refused(two_gpus, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '2')
    with pytest.raises(ValueError, match='3 processes, but GPUs: 2. Start 2, or add --device cpu'):
        distributed._device_of_process(None)


def test_a_gpu_without_a_number_leaves_several_processes_to_the_cpu(two_gpus):
    del two_gpus.module.set_device
    assert distributed._device_of_process(None) == torch.device('cpu')


def test_a_process_whose_gpu_does_not_work_ends(two_gpus, monkeypatch):
    monkeypatch.setattr(distributed, 'working_accelerator', lambda: (None, 'no kernel image'))
    with pytest.raises(RuntimeError, match='cuda:1 cannot be used: no kernel image'):
        distributed._device_of_process(None)


def test_tensors_of_both_memories_have_a_backend():
    assert distributed._backends(torch.device('cuda', 1)) == 'cpu:gloo,cuda:nccl'
    assert distributed._backends(torch.device('cpu')) == 'gloo'


def test_a_network_that_is_there_stays_as_it_is(monkeypatch):
    network, elsewhere = torch.nn.LSTM(2, 2), torch.nn.LSTM(2, 2, device='meta')
    assert devices.placed(elsewhere, 'meta') is elsewhere
    assert devices.placed(network, 'meta').weight_hh_l0.device.type == 'meta'
    monkeypatch.setattr(torch.nn.Module, 'to', lambda *_: 1 / 0)
    assert devices.placed(elsewhere, torch.device('meta')) is elsewhere


def test_a_recurrent_layer_is_as_before_on_a_cpu():
    """Whatever the precision, and however it is called."""
    plain = torch.nn.GRU(4, 4, batch_first=True)
    layer = gpu_layers.recurrent_out_of_autocast(copy.deepcopy(plain))
    assert gpu_layers.recurrent_out_of_autocast(layer) is layer    # once more changes nothing
    assert len(layer._forward_pre_hooks) == 1
    inputs, state = torch.randn(2, 3, 4), torch.randn(1, 2, 4)
    for arguments, named in (((inputs,), {}), ((inputs, state), {}), ((inputs,), {'hx': state}),
                             ((), {'input': inputs})):
        assert torch.equal(layer(*arguments, **named)[0], plain(*arguments, **named)[0])
    with torch.autocast('cpu', torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
        result, expected = layer(inputs)[0], plain(inputs)[0]
    assert result.dtype == expected.dtype and torch.equal(result, expected)
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 3, 5))
    assert not gpu_layers._left.contexts    # also after an error


def test_word_vectors_are_as_before_on_a_cpu():
    plain = torch.nn.Embedding(5, 3)
    layer = gpu_layers.unsorted_embeddings(copy.deepcopy(plain))
    words = torch.tensor([[2, 0, 2], [1, 2, 2]])
    with torch.autocast('cpu', torch.bfloat16):
        vectors, expected = layer(words), plain(words)
    assert vectors.dtype == torch.float32 and torch.equal(vectors, expected)
    vectors.sum().backward(), expected.sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)
    assert type(vectors.grad_fn) is type(expected.grad_fn)


def test_a_state_given_by_name_is_float32_too(monkeypatch):
    """Of a GPU, as which the device 'meta' stands here."""
    layer = gpu_layers.recurrent_out_of_autocast(torch.nn.GRU(4, 4, batch_first=True).to('meta'))
    inputs = torch.empty(2, 3, 4, device='meta', dtype=torch.bfloat16)
    state = torch.empty(1, 2, 4, device='meta', dtype=torch.bfloat16)
    monkeypatch.setattr(torch, 'autocast', lambda kind, enabled: contextlib.nullcontext())
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda kind: False)
    for arguments, named in (((inputs, state), {}), ((), {'input': inputs, 'hx': state})):
        assert layer(*arguments, **named)[0].dtype == torch.float32
