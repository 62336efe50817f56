"""Copies, waits and operations as the pretended GPU counts them, autocast, and pinned memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captioning import pretended_gpu


def counts_of(function):
    """(copies, waits) while a function is called."""
    with pretended_gpu.counted() as counts:
        function()
    return counts.copies, counts.waits


# ---- What is counted ----

WAITING = {
    'item': lambda x: x[0].item(),
    'tolist': lambda x: x.tolist(),
    'bool': lambda x: bool(x.any()),
    'int': lambda x: int(x[0]),
    'float': lambda x: float(x[0]),
    'format': lambda x: f'{x[0]:.1f}',
    'comparison': lambda x: 1 if x.max() > 0 else 0,
    'index by a number of the device': lambda x: x[x[0].long()],
    'nonzero': lambda x: x.nonzero(),
    'mask': lambda x: x[x > 1],
    'where': lambda x: torch.where(x > 1),
    'masked_select': lambda x: x.masked_select(x > 1),
    'masked assignment of many': lambda x: x.__setitem__(x > 5, x[:0]),
    'unique': lambda x: x.unique(),
    'unique_consecutive': lambda x: x.unique_consecutive(),
    'repeat_interleave': lambda x: x.repeat_interleave(x.long()),
    'to the processor': lambda x: x.cpu(),
    'copy to the processor': lambda x: torch.ones(3).copy_(x),
    'equal': lambda x: torch.equal(x, x),
    'allclose': lambda x: torch.allclose(x, x),
    'numpy': lambda x: x.numpy(force=True),
    'synchronize': lambda x: torch.accelerator.synchronize(),
    'synchronize the device': lambda x: torch.get_device_module(x.device).synchronize(),
    'multinomial': lambda x: x.multinomial(1),
}
NOT_WAITING = {
    'sum': lambda x: x.sum(),
    'mask': lambda x: x.masked_fill(x > 1, 0),
    'masked assignment': lambda x: x.__setitem__(x > 5, 0),
    'where': lambda x: torch.where(x > 1, x, 0),
    'indices': lambda x: x[torch.arange(2, device=x.device)],
    'slice': lambda x: x[1:].view(-1),
    'repeat_interleave': lambda x: x.repeat_interleave(2),
    'repeats of known size': lambda x: x.repeat_interleave(x.long(), output_size=3),
    'made there': lambda x: torch.zeros(4, device=x.device) + torch.full_like(x[:1], 2),
    'random': lambda x: torch.rand(3, device=x.device),
    'sort': lambda x: x.sort(),
    'topk': lambda x: x.topk(2),
    'to the processor, later': lambda x: x.to('cpu', non_blocking=True),
    'to where it is': lambda x: x.to(x.device),
}


@pytest.mark.parametrize('call', WAITING.values(), ids=WAITING)
def test_a_wait_is_counted(device, pretended, call):
    tensor = torch.ones(3, device=device)
    assert counts_of(lambda: call(tensor)) == (0, 1)


@pytest.mark.parametrize('call', NOT_WAITING.values(), ids=NOT_WAITING)
def test_no_wait_is_counted(device, pretended, call):
    tensor = torch.ones(3, device=device)
    assert counts_of(lambda: call(tensor)) == (0, 0)


def test_copies_are_counted(device, pretended):
    there, here = torch.zeros(3, device=device), torch.ones(3)
    indices, pinned = torch.tensor([0, 2]), here.pin_memory()
    assert counts_of(lambda: here.to(device)) == (1, 1)
    assert counts_of(lambda: here.to(device, non_blocking=True)) == (1, 1)
    assert counts_of(lambda: torch.tensor([1.0], device=device)) == (1, 1)
    assert counts_of(lambda: there.copy_(here)) == (1, 1)
    assert counts_of(lambda: there.__setitem__(slice(3), here)) == (1, 1)
    assert counts_of(lambda: there[indices]) == (1, 1)
    assert counts_of(lambda: pinned.to(device)) == (1, 1)
    assert counts_of(lambda: pinned.to(device, non_blocking=True)) == (1, 0)
    assert counts_of(lambda: pinned[1:].to(device, non_blocking=True)) == (1, 0)
    assert counts_of(lambda: pinned.to(device, torch.float64, non_blocking=True)) == (1, 1)


def test_blocks_within_blocks_and_the_places_that_are_named(device, pretended):
    tensor = torch.ones(3, device=device)
    with pretended_gpu.counted() as outer:
        with pretended_gpu.counted() as inner:
            (tensor + 1).view(3, 1).sum().item()
        tensor + 1
    assert (inner.copies, inner.waits, inner.operations) == (0, 1, 2)
    assert (outer.copies, outer.waits, outer.operations) == (0, 1, 3)
    wait, = inner.waited
    assert wait.operation == 'aten._local_scalar_dense.default'
    assert wait.where.startswith('test_pretence_counts.py:') and wait.where in repr(inner)


def test_a_layer_is_one_operation(device, pretended):
    layer = nn.LSTM(4, 6, batch_first=True).to(device)
    inputs, state = torch.randn(3, 5, 4, device=device), torch.zeros(1, 3, 6, device=device)
    with pretended_gpu.counted() as counts:
        outputs, _ = layer(inputs, (state, state))
    assert [event.operation for event in counts.operated] == ['aten.lstm.input']
    gradient = torch.ones_like(outputs)
    with pretended_gpu.counted() as counts:
        outputs.backward(gradient)
    event, = counts.operated
    assert event.operation == 'aten.lstm.input backward' and event.where == 'backward'


# ---- Pinned memory ----

def test_pinned_memory(device):
    here = torch.arange(6).view(2, 3)
    pinned = here.T.pin_memory()
    assert not here.is_pinned() and pinned.is_pinned() and pinned[1:].is_pinned()
    assert pinned.pin_memory() is pinned and torch.equal(pinned, here.T)
    with pytest.raises(RuntimeError, match='pin'):
        here.to(device).pin_memory()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_loader_pins_memory(device, workers):
    data = TensorDataset(torch.arange(4), torch.ones(4, 2))
    loader = DataLoader(data, batch_size=2, pin_memory=True, num_workers=workers)
    batches = list(loader)
    assert len(batches) == 2
    for number, tensor in batches:
        assert number.is_pinned() and tensor.is_pinned()
        assert tensor.to(device, non_blocking=True).sum().item() == 4


# ---- Autocast ----

LOWER = {
    'linear': lambda x: F.linear(x, x),
    'addmm': lambda x: torch.addmm(x, x, x),
    'mm': lambda x: x.mm(x),
    'matmul': lambda x: x @ x,
    'bmm': lambda x: torch.bmm(x[None], x[None]),
    'baddbmm': lambda x: torch.baddbmm(x[None], x[None], x[None]),
    'einsum': lambda x: torch.einsum('ab,bc->ac', x, x),
    'conv2d': lambda x: F.conv2d(x[None, None], x[None, None]),
    'attention': lambda x: F.scaled_dot_product_attention(x, x, x),
}
FLOAT32 = {
    'softmax': lambda x: x.softmax(1),
    'log_softmax': lambda x: F.log_softmax(x, dim=1),
    'cross_entropy': lambda x: F.cross_entropy(x, x[0].long()),
    'nll_loss': lambda x: F.nll_loss(x, x[0].long()),
    'mse_loss': lambda x: F.mse_loss(x, x),
    'layer_norm': lambda x: F.layer_norm(x, x.shape[1:]),
    'sum': lambda x: x.sum(dim=1),
    'cumsum': lambda x: x.cumsum(1),
    'exp': lambda x: x.exp(),
    'pow': lambda x: x ** 2,
    'stack with float32': lambda x: torch.stack([x, x.float()]),
    'cat with float32': lambda x: torch.cat([x, x.float()]),
    'index_put into float32': lambda x: x.float().index_put((x[0].long(),), x[:1]),
}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_chooses_dtypes_as_on_cuda(device, dtype):
    values = torch.ones(3, 3, device=device)
    with torch.autocast(device.type, dtype):
        lower = {name: compute(values).dtype for name, compute in LOWER.items()}
        assert lower == dict.fromkeys(LOWER, dtype)
        float32 = {name: compute(values.to(dtype)).dtype for name, compute in FLOAT32.items()}
        assert float32 == dict.fromkeys(FLOAT32, torch.float32)
        assert (values.to(dtype) + values).dtype == torch.float32
        assert values.to(dtype).relu().mean(1).dtype == dtype
        assert (values.double() @ values.double()).dtype == torch.float64
    assert (values @ values).dtype == torch.float32


def test_gradients_flow_through_autocast(device):
    layer = nn.Linear(3, 2).to(device)
    inputs = torch.full((4, 3), 1.001, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        layer(inputs).sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.tolist() == [[4.0] * 3] * 2    # 1.001 rounded


def test_weights_are_cast_once_a_block(device, pretended):
    layer, inputs = nn.Linear(3, 3).to(device), torch.ones(2, 3, device=device)

    def casts(calls):
        with pretended_gpu.counted() as counts, torch.autocast(device.type, torch.bfloat16):
            for _ in range(calls):
                layer(inputs)
        return sum('to_copy' in event.operation for event in counts.operated)

    assert casts(1) == 3 and casts(4) == 2 + 4
    with torch.no_grad():
        assert casts(4) == 2 + 4
        layer.weight.add_(1)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(layer.weight @ inputs.T, layer.weight.bfloat16() @ inputs.bfloat16().T)


def test_loss_scaling(device):
    layer = nn.Linear(3, 2).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024)
    before = layer.weight.detach().cpu()
    with torch.autocast(device.type, torch.float16):
        loss = layer(torch.ones(1, 3, device=device)).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(layer.weight.detach().cpu(), before - 0.1)
