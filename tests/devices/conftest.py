"""The tests of a device, which a plain `pytest` leaves out.

    python -m pytest tests/devices                      # on the accelerator of this machine
    PRETENDED_GPU=1 python -m pytest tests/devices      # on a pretended one
"""

import gc
import os

import pytest
import torch

import model
from captioning import devices, pretended_gpu


@pytest.fixture(scope='session', autouse=True)
def device():
    """The pretended GPU if $PRETENDED_GPU is 1, else the accelerator that is there."""
    if os.environ.get('PRETENDED_GPU') == '1':
        try:
            return pretended_gpu.start()
        except pretended_gpu.Unavailable as error:
            pytest.skip(str(error))
    if not torch.accelerator.is_available():
        pytest.skip('this machine has no accelerator; PRETENDED_GPU=1 pretends one')
    return torch.accelerator.current_accelerator()


@pytest.fixture(scope='session', autouse=True)
def quick_collections():
    """`gc.collect` looks at what tests make, not at all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def small_networks(shallow_networks, monkeypatch):
    """Networks see photos of 64 pixels, which takes a twelfth of the time, and are shallow."""
    transform = model._transform
    monkeypatch.setattr(model, '_transform',
                        lambda name, weights: {**transform(name, weights), 'size': 64})


@pytest.fixture(scope='session')
def small_weights(shallow_weights):
    return shallow_weights


@pytest.fixture
def module(device):
    """The device's module of PyTorch, such as torch.cuda."""
    return torch.get_device_module(device)


@pytest.fixture
def pretended(module):
    """The same, in tests that hold on the pretended GPU alone."""
    if not hasattr(module, 'broken'):
        pytest.skip('of the pretended GPU alone')
    return module


@pytest.fixture
def assert_close(monkeypatch):
    """assert_close(result, expected) -> equal, but for the order of sums; a GPU computes in full
    float32 meanwhile, without TF32."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)

    def check(result, expected):
        torch.testing.assert_close(result.detach().cpu(), expected.detach(), rtol=1e-3, atol=1e-4)

    return check


@pytest.fixture
def exact(device, monkeypatch):
    """The device computes as the CPU does: in float32, and a GPU without TF32."""
    module = torch.get_device_module(device)
    if hasattr(module, 'broken'):
        monkeypatch.setattr(module, 'bfloat16', False)
        monkeypatch.setattr(module, 'capability', (6, 1))
        return
    for name in ('captioning.training.phase.training_dtype', 'captioning.captioner.fast_dtype',
                 'captioning.features.fast_dtype', 'captioning.training.tuning_phase.fast_dtype'):
        monkeypatch.setattr(name, lambda device: torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.fixture
def accelerator_is_default(device, monkeypatch):
    """Nothing overrules `default_device` -> the name of the device that it gives."""
    monkeypatch.delenv('CAPTIONING_DEVICE', raising=False)
    devices.working_accelerator.cache_clear()
    yield device.type
    devices.working_accelerator.cache_clear()
