"""What is asked of a device, on machines unlike this one: an old driver, a container, ranks."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from captioning import devices, distributed

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
    monkeypatch.setenv('CAPTIONING_DEVICE', 'cuda:1')
    assert devices.default_device() == torch.device('cuda', 1)


@pytest.mark.parametrize(('batches', 'shared_memory', 'processes', 'workers'), [
    (1000, 2 ** 34, 1, 16), (1000, 2 ** 34, 8, 8), (1000, 2 ** 26, 1, 5), (1000, 0, 1, 0),
    (6, 2 ** 34, 1, 3), (1, 2 ** 34, 1, 0)])
def test_workers_fit_cores_work_and_shared_memory(monkeypatch, batches, shared_memory, processes,
                                                  workers):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(64)))
    monkeypatch.setattr(os.path, 'isdir', lambda path: True)
    usage = SimpleNamespace(free=shared_memory)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    photos_of_a_batch = 32 * 3 * 224 ** 2
    assert devices.loading_workers('cuda', batches, photos_of_a_batch) == workers
    assert devices.loading_workers('cpu', batches, photos_of_a_batch) == 0


def test_more_processes_than_gpus_are_refused(monkeypatch):
    chosen = []
    module = SimpleNamespace(device_count=lambda: 2, set_device=chosen.append)
    monkeypatch.setattr(torch, 'get_device_module', lambda device: module)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert distributed._device_of_process(torch.device('cuda')) == torch.device('cuda', 1)
    monkeypatch.setenv('LOCAL_RANK', '2')
    with pytest.raises(ValueError, match='3 processes, but GPUs: 2. Start 2, or add --device cpu'):
        distributed._device_of_process(torch.device('cuda'))
    assert chosen == [1]
    assert distributed._device_of_process(torch.device('cpu')) == torch.device('cpu')


def test_tensors_of_both_memories_have_a_backend():
    assert distributed._backends(torch.device('cuda', 1)) == 'cpu:gloo,cuda:nccl'
    assert distributed._backends(torch.device('cpu')) == 'gloo'


def test_a_recurrent_layer_follows_autocast_on_a_cpu():
    layer = devices.recurrent_in_float32(torch.nn.Sequential(torch.nn.GRU(4, 4, batch_first=True)))
    assert devices.recurrent_in_float32(layer) is layer    # once more changes nothing
    assert len(layer[0]._forward_pre_hooks) == 1
    inputs = torch.randn(2, 3, 4)
    expected = torch.nn.GRU(4, 4, batch_first=True)
    expected.load_state_dict(layer[0].state_dict())
    assert torch.equal(layer(inputs)[0], expected(inputs)[0])
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 3, 5))
    assert not devices._left    # also after an error
