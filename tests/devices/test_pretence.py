"""A GPU as PyTorch knows it, on which devices do not mix: of the pretended one, and of a real one.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import backend_registration

from captioning import pretended_gpu

RECURRENT = [nn.LSTM, nn.GRU, nn.RNN]


# ---- It is the accelerator ----

def test_pytorch_knows_the_device(device, module):
    assert torch.accelerator.is_available() and torch.accelerator.device_count() >= 1
    assert torch.accelerator.current_accelerator().type == device.type
    assert torch.ones(1, device=device.type).device == torch.device(device.type, 0)
    assert torch.ones(1, device=device).to('cpu').device == torch.device('cpu')
    assert module.is_available() and module.device_count() >= 1 and module.current_device() == 0
    assert module.is_bf16_supported(including_emulation=False) in (True, False)
    assert module.get_device_capability() >= (3, 0) and module.get_device_name()
    free, total = module.mem_get_info()
    assert 0 < free <= total == module.get_device_properties(0).total_memory
    module.synchronize()
    torch.accelerator.synchronize()
    if hasattr(torch.accelerator, 'empty_cache'):    # PyTorch 2.6 has none
        torch.accelerator.empty_cache()


def test_a_second_start_changes_what_it_can_do(pretended):
    try:
        pretended_gpu.start(bfloat16=False, capability=(7, 5), memory=16 * 2 ** 30)
        assert not pretended.is_bf16_supported(including_emulation=False)
        assert pretended.get_device_capability() == (7, 5)
        assert pretended.mem_get_info() == (16 * 2 ** 30, 16 * 2 ** 30)
    finally:
        pretended_gpu.start()
    assert pretended.is_bf16_supported(including_emulation=False)


def test_on_a_broken_device_copies_succeed_and_computations_raise(device, pretended, monkeypatch):
    tensor = torch.ones(3).to(device)
    layers = nn.LSTM(3, 3).to(device), nn.Linear(3, 3).to(device)
    message = 'no kernel image is available for execution on the device'
    monkeypatch.setattr(pretended, 'broken', message)
    assert tensor[1:].tolist() == [1, 1] and torch.empty(2, device=device).shape == (2,)
    computations = [lambda: tensor + 1, lambda: torch.zeros(1, device=device), tensor.clone,
                    lambda: layers[0](tensor[None]), lambda: layers[1](tensor[None])]
    for computation in computations:
        with pytest.raises(RuntimeError, match=message):
            computation()


def test_a_pytorch_without_the_hook_is_named(pretended, monkeypatch):
    monkeypatch.setattr(pretended_gpu, '_backends', [])
    monkeypatch.delattr(backend_registration, pretended_gpu.HOOK)
    with pytest.raises(pretended_gpu.Unavailable, match='takes no device .* has no _setup'):
        pretended_gpu.start()


# ---- Devices do not mix ----

MIXES = {
    'sum': lambda a, b: a + b,
    'product': lambda a, b: a @ b,
    'in place': lambda a, b: a.add_(b),
    'cat': lambda a, b: torch.cat([a, b]),
    'stack': lambda a, b: torch.stack([a, b]),
    'where': lambda a, b: torch.where(a > 0, a, b),
    'result elsewhere': lambda a, b: torch.add(a, a, out=b),
    'gather': lambda a, b: a.gather(0, b.long()),
    'index_add': lambda a, b: a.index_add(0, torch.arange(3), a),
    'index put': lambda a, b: a.index_put((torch.arange(3, device=a.device),), b),
    'index of the CPU tensor': lambda a, b: b[a.long()],
    'embedding': lambda a, b: F.embedding(b.long(), a),
    'linear': lambda a, b: F.linear(b, a),
    'cross-entropy': lambda a, b: F.cross_entropy(a, b[0].long()),
    'attention': lambda a, b: F.scaled_dot_product_attention(a, b, b),
    'searchsorted': lambda a, b: torch.searchsorted(a, b),
    'batch norm': lambda a, b: F.batch_norm(a, b[0], b[1]),
}


@pytest.mark.parametrize('mix', MIXES.values(), ids=MIXES)
def test_mixed_devices_raise(device, mix):
    with pytest.raises(RuntimeError, match='device|cpu'):
        mix(torch.ones(3, 3, device=device), torch.ones(3, 3))


@pytest.mark.parametrize('kind', [*RECURRENT, nn.LSTMCell, nn.Linear])
def test_a_layer_takes_no_input_from_elsewhere(device, kind):
    with pytest.raises(RuntimeError, match='device'):
        kind(4, 4).to(device)(torch.ones(2, 4))
    with pytest.raises(RuntimeError, match='device'):
        kind(4, 4)(torch.ones(2, 4, device=device))


def test_numbers_of_the_processor_are_taken(device):
    tensor = torch.ones(3, device=device)
    number = torch.tensor(2.0)
    assert (tensor + number).tolist() == (number * tensor + 1).tolist() == [3, 3, 3]
    assert torch.where(tensor > 1, tensor, number).tolist() == [2, 2, 2]
    assert tensor.masked_fill(tensor > 0, number).tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError):
        number + torch.ones(2, 2).add(tensor.sum())


def test_indices_of_the_processor_are_taken(device):
    tensor = torch.arange(5, device=device)
    assert tensor[torch.tensor([1, 3])].tolist() == [1, 3]
    assert tensor[torch.tensor([1, 1, 0, 0, 0], dtype=torch.bool)].tolist() == [0, 1]
    tensor[torch.tensor([0])] = 7
    tensor[1:3] = torch.tensor([8, 9])
    assert tensor.tolist() == [7, 8, 9, 3, 4]


def test_no_array_shares_its_memory(device):
    tensor = torch.ones(3, device=device)
    for convert in (lambda: tensor.numpy(), lambda: np.asarray(tensor)):
        with pytest.raises(TypeError, match="can't convert .* device type tensor to numpy"):
            convert()
    assert tensor.cpu().numpy().tolist() == tensor.numpy(force=True).tolist() == [1, 1, 1]
    array = np.arange(3)
    assert torch.from_numpy(array).to(device).tolist() == [0, 1, 2]
    assert torch.asarray(array, device=device).tolist() == [0, 1, 2]
    assert torch.asarray(array, copy=True).to(device).add(1).tolist() == [1, 2, 3]


def test_a_copy_is_no_alias(device):
    here = torch.zeros(3)
    there = here.to(device)
    back = there.cpu()
    here += 1
    back += 2
    assert there.tolist() == [0, 0, 0]


# ---- Recurrent layers ----

def read(layer, inputs, state=None):
    """Outputs of a layer with batch_first=True."""
    return layer(inputs, state)[0]


@pytest.mark.parametrize('kind', RECURRENT)
def test_recurrent_layers_as_on_the_cpu(device, kind, assert_close):
    torch.manual_seed(0)
    layer = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    there = copy.deepcopy(layer).to(device)
    inputs = torch.randn(3, 5, 4)
    moved = inputs.to(device)
    for network, values in ((layer, inputs), (there, moved)):
        values.requires_grad_()
        read(network, values).square().sum().backward()
    assert_close(read(there, moved), read(layer, inputs))
    assert_close(moved.grad, inputs.grad)
    for moved_weight, weight in zip(there.parameters(), layer.parameters(), strict=True):
        assert_close(moved_weight.grad, weight.grad)


@pytest.mark.parametrize('kind', RECURRENT)
def test_states_are_contiguous(device, kind):
    layer = kind(4, 6, batch_first=True, num_layers=2).to(device)
    inputs = torch.randn(3, 5, 4, device=device)
    state = torch.zeros(3, 2, 6, device=device).transpose(0, 1)
    zeros = state.contiguous()
    pair = kind is nn.LSTM
    with pytest.raises(RuntimeError, match='rnn: hx is not contiguous'):
        read(layer, inputs, (state, zeros) if pair else state)
    if pair:
        with pytest.raises(RuntimeError, match='rnn: cx is not contiguous'):
            read(layer, inputs, (zeros, state))
    read(layer, inputs, (zeros, zeros) if pair else zeros)
    read(layer, torch.randn(5, 3, 4, device=device).transpose(0, 1))    # inputs may be anything


@pytest.mark.parametrize('kind', RECURRENT)
def test_no_gradient_in_eval_mode(device, kind):
    layer = kind(4, 6, batch_first=True).to(device).eval()
    inputs = torch.randn(3, 5, 4, device=device)
    with torch.no_grad():
        read(layer, inputs)
    loss = read(layer, inputs).sum()
    with pytest.raises(RuntimeError, match='RNN backward can only be called in training mode'):
        loss.backward()
    read(layer.train(), inputs).sum().backward()


@pytest.mark.parametrize('kind', RECURRENT)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_recurrent_layers_compute_in_float16_under_autocast(device, kind, dtype):
    layer = kind(4, 6, batch_first=True).to(device)
    inputs = torch.randn(3, 5, 4, device=device)
    with torch.autocast(device.type, dtype):
        outputs, state = layer(inputs)
        states = state if kind is nn.LSTM else (state,)
        assert outputs.dtype == states[0].dtype == states[-1].dtype == torch.float16
        with torch.autocast(device.type, enabled=False):
            assert read(layer, inputs).dtype == torch.float32
    assert not torch.equal(outputs.float(), read(layer, inputs))
    outputs.sum().backward()
    assert layer.weight_hh_l0.grad.dtype == torch.float32


def test_small_gradients_vanish_in_float16(device):
    layer = nn.LSTM(4, 6, batch_first=True).to(device)
    inputs = torch.randn(3, 5, 4, device=device)
    for autocast, lost in ((True, True), (False, False)):
        layer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            outputs = read(layer, inputs)
        (1e-9 * outputs.float().sum()).backward()
        assert (layer.weight_hh_l0.grad.abs().max().item() == 0) == lost


def test_cells_and_packed_sequences(device, assert_close):
    cell = nn.LSTMCell(4, 6)
    inputs = torch.randn(3, 4)
    expected, _ = cell(inputs)
    hidden, _ = copy.deepcopy(cell).to(device)(inputs.to(device))
    assert_close(hidden, expected)
    layer, sequences = nn.GRU(4, 6, batch_first=True), torch.randn(3, 5, 4)
    lengths = torch.tensor([5, 3, 2])
    pack, pad = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence
    results = [pad(network(pack(values, lengths, batch_first=True))[0], batch_first=True)[0]
               for network, values in ((layer, sequences),
                                       (copy.deepcopy(layer).to(device), sequences.to(device)))]
    results[1].sum().backward()
    assert_close(results[1], results[0])
