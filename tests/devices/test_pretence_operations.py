"""What computes on a CPU computes on a GPU: on the pretended one, and on a real one."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

# ---- Random numbers ----

def test_seeds(device, module):
    def draw():
        return torch.rand(3, device=device).tolist()

    torch.manual_seed(3)
    first = draw(), draw()
    torch.manual_seed(3)
    torch.rand(5)    # the processor's stream is another one
    assert (draw(), draw()) == first and first[0] != first[1]
    state = module.get_rng_state()
    following = draw()
    module.set_rng_state(state)
    assert draw() == following
    module.manual_seed(3)
    assert draw() == first[0]
    module.manual_seed_all(3)
    assert draw() == first[0]


def test_forked_random_numbers(device):
    torch.manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        inside = torch.rand(2)
    torch.manual_seed(1)
    outside = torch.rand(2)
    torch.manual_seed(2)
    assert torch.equal(inside, torch.rand(2)) and not torch.equal(inside, outside)


def test_generators(device):
    generator = torch.Generator(device)
    assert generator.device.type == device.type and torch.Generator().device.type == 'cpu'
    assert isinstance(torch.default_generator, torch.Generator)
    draws = [torch.rand(3, device=device, generator=generator.manual_seed(seed)).tolist()
             for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert sorted(torch.randperm(4, device=device, generator=generator).tolist()) == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match='device type for generator'):
        torch.rand(3, device=device, generator=torch.Generator())
    assert len(torch.rand(3, generator=torch.Generator().manual_seed(0))) == 3


def test_dropout_draws_from_the_stream_of_the_device(device):
    values = torch.ones(1000, device=device)
    torch.manual_seed(5)
    first = F.dropout(values, 0.5)
    before = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(F.dropout(values, 0.5), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert 400 < (first == 0).sum().item() < 600 and first.max().item() == 2


# ---- Modules, optimizers, files ----

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.embedding.weight = self.linear.weight

    def forward(self, words):
        return self.linear(self.embedding(words))


def test_modules_keep_their_weights_when_they_move(device):
    network = Tied()
    weight = network.linear.weight
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for place in (device.type, 'cpu'):
        network.to(place)
        assert network.linear.weight is network.embedding.weight is weight
        assert weight.device.type == place and isinstance(weight, nn.Parameter)
        before = weight.detach().cpu().clone()
        network(torch.tensor([1, 2], device=place)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(weight.detach().cpu(), before)
    network.to(device).half().to(memory_format=torch.channels_last)
    assert network.linear.weight.dtype == network.linear.weight.cpu().dtype == torch.float16
    weight.data = torch.ones(5, 4, device=device)
    assert (weight * 2).tolist() == [[2.0] * 4] * 5


@pytest.mark.parametrize('options', [{'fused': True}, {'foreach': True}, {'foreach': False}, {}],
                         ids=str)
def test_training_as_on_the_cpu(device, options, assert_close):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    moved = copy.deepcopy(network).to(device)
    inputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for place, trained in (('cpu', network), (device, moved)):
        optimizer = torch.optim.AdamW(trained.parameters(), **options)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(trained(inputs.to(place)), targets.to(place)).backward()
            norm = nn.utils.clip_grad_norm_(trained.parameters(), 0.1)
            optimizer.step()
        assert norm.device.type == torch.device(place).type
    for weight, expected in zip(moved.parameters(), network.parameters(), strict=True):
        assert_close(weight, expected)


def test_states_are_saved_and_loaded(device):
    network = Tied().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step():
        optimizer.zero_grad()
        network(torch.tensor([1, 2], device=device)).square().sum().backward()
        optimizer.step()
        return network.linear.weight.tolist()

    step()
    file = io.BytesIO()
    torch.save({'model': network.state_dict(), 'optimizer': optimizer.state_dict()}, file)
    expected = step()
    content = torch.load(io.BytesIO(file.getvalue()), map_location='cpu', weights_only=True)
    assert content['model']['linear.weight'].device.type == 'cpu'
    network.load_state_dict(content['model'])
    optimizer.load_state_dict(content['optimizer'])
    state = optimizer.state[network.linear.weight]
    assert state['exp_avg'].device.type == state['step'].device.type == device.type
    assert step() == expected


def test_a_file_of_the_device_wants_a_place(device, pretended):
    file = io.BytesIO()
    torch.save(torch.ones(2, device=device), file)
    with pytest.raises(RuntimeError, match='map_location'):
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    file = io.BytesIO()
    torch.save(torch.ones(2, device=device).cpu(), file)
    assert torch.load(io.BytesIO(file.getvalue()), weights_only=True).tolist() == [1, 1]


def test_deep_copies(device):
    network = Tied().to(device)
    network(torch.tensor([1], device=device)).sum().backward()
    copied = copy.deepcopy(network)
    assert copied.linear.weight is copied.embedding.weight is not network.linear.weight
    assert isinstance(copied.linear.weight, nn.Parameter)
    assert copied.linear.weight.grad is None    # as of any Parameter
    with torch.no_grad():
        copied.linear.weight += 1
    assert not torch.equal(copied.linear.weight, network.linear.weight)
    with pytest.raises(RuntimeError, match='leaves'):
        copy.deepcopy(network.linear.weight * 2)
    assert 'Tied' in repr(network) and device.type in repr(network.linear.weight)


# ---- Operations ----

OPERATIONS = {
    'searchsorted': lambda x: torch.searchsorted(x.sort()[0], x),
    'index_add': lambda x: x.index_add(0, torch.tensor([1, 0], device=x.device), x[:2]),
    'sort': lambda x: x.sort(dim=1, descending=True),
    'topk': lambda x: x.topk(2, dim=1),
    'cumsum': lambda x: x.cumsum(1),
    'scatter_reduce': lambda x: x.scatter_reduce(1, x.argsort(1), x, 'amax'),
    'scatter': lambda x: x.scatter(1, x.argsort(1), x),
    'pad': lambda x: F.pad(x, (1, 2, 0, 1), value=3.0),
    'attention': lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    'cat': lambda x: torch.cat([x, x.T[:3]], dim=1) if x.shape[0] == 3 else x,
    'in place': lambda x: x.clone().unsqueeze_(0).add_(1).squeeze_(),
    'out': lambda x: torch.mul(x, 2, out=torch.empty(0, device=x.device)),
    'complex slices': lambda x: x.unfold(1, 2, 1).flip(0).roll(1, 0).as_strided((2, 2), (1, 2)),
    'arange': lambda x: torch.arange(3, device=x.device) * torch.linspace(0, 1, 3).to(x.device),
    'log_softmax': lambda x: F.log_softmax(x, dim=1).logsumexp(0),
    'unbind': lambda x: [part * 2 for part in (*x.unbind(), *x.split(2), *x.chunk(2, 1))],
    'advanced indices': lambda x: x[[0, 2], x.argmax(1)[:2]],
    'statistics': lambda x: [x.mean(), x.std(), x.var(0), x.median(), x.norm()],
    'one_hot': lambda x: F.one_hot(x.argmax(1)),
    'interpolate': lambda x: F.interpolate(x[None, None], scale_factor=2, mode='bilinear'),
    'casts': lambda x: x.half().float().to(torch.bfloat16).double().long(),
}


@pytest.mark.parametrize('call', OPERATIONS.values(), ids=OPERATIONS)
def test_operations_as_on_the_cpu(device, call, assert_close):
    values = torch.tensor([[0.3, 1.2, -0.5], [2.0, 0.1, 0.7], [0.2, 0.9, 1.5]])
    expected, result = call(values), call(values.to(device))
    if isinstance(expected, torch.Tensor):
        expected, result = [expected], [result]
    for known, value in zip(expected, result, strict=True):
        assert value.device.type == device.type and value.shape == known.shape
        assert value.is_contiguous() == known.is_contiguous()
        assert_close(value, known)


def test_embedding_backward_and_custom_functions(device):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return 2 * x

        @staticmethod
        def backward(context, gradient):
            x, = context.saved_tensors
            assert gradient.device == x.device
            return 2 * gradient

    embedding = nn.Embedding(4, 2).to(device)
    words = torch.tensor([1, 1, 3], device=device)
    Doubled.apply(embedding(words)).sum().backward()
    assert embedding.weight.grad.tolist() == [[0, 0], [4, 4], [0, 0], [2, 2]]


def test_second_derivatives_and_checkpoints(device):
    x = torch.tensor(3.0, device=device, requires_grad=True)
    first, = torch.autograd.grad(x ** 3, x, create_graph=True)
    second, = torch.autograd.grad(first, x)
    assert (first.item(), second.item()) == (27, 18)
    layer = nn.Linear(2, 2).to(device)
    inputs = torch.ones(1, 2, device=device, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=False).sum().backward()
    assert inputs.grad.shape == (1, 2)


def test_a_resnet(device, assert_close):
    torch.manual_seed(0)
    network = resnet18(num_classes=3).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    moved = copy.deepcopy(network).to(device)
    on_device = images.to(device)
    assert on_device.is_contiguous(memory_format=torch.channels_last)
    assert moved.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for trained, inputs in ((network, images), (moved, on_device)):
        trained(inputs).square().sum().backward()
    torch.testing.assert_close(moved.fc.weight.grad.cpu(), network.fc.weight.grad, rtol=0.05,
                               atol=0.05)    # batch-norm amplifies rounding
    network.eval(), moved.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        assert moved(on_device).dtype == torch.bfloat16
    moved.load_state_dict(network.state_dict())
    assert_close(moved(on_device), network(images))


def test_inference_mode(device):
    layer = nn.LSTM(4, 6).to(device).eval()
    with torch.inference_mode():
        outputs, _ = layer(torch.ones(2, 4, device=device))
        assert outputs.device.type == device.type
        with pytest.raises(RuntimeError, match='device'):
            layer(torch.ones(2, 4))
