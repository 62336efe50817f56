"""A step as a CUDA graph trains what a step does otherwise; on the pretended GPU, which has none,
by one that computes a step again for each replay."""

import contextlib
import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from small_networks import FEATURES
from training_helpers import open_run, train, train_until_killed, weights

from captioning.doctor import trials
from captioning.doctor.report import OK, WRONG
from captioning.doctor.sizes import QUICK
from captioning.doctor.speed import Speed
from captioning.doctor.trials import tried, try_cuda_graphs
from captioning.losses import LOSSES
from captioning.training import features_phase, step_graphs, validate
from captioning.training.epoch import train_step
from captioning.training.step_graphs import EMPTY, StepGraphs, unpacked


class PretendedGraphs(StepGraphs):
    """A recording is the batch that was recorded; what the optimizer changed meanwhile is undone.
    """

    def __init__(self, phase, update):
        self.replayed = 0
        super().__init__(phase, update)

    @contextlib.contextmanager
    def recording(self, graph, pool, stream):
        kept = [tensor.clone() for tensor in self.changed()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step_graphs, 'unpacked', self.noted)
            yield
        with torch.no_grad():
            for tensor, value in zip(self.changed(), kept, strict=True):
                tensor.copy_(value)
        graph.replay = functools.partial(self.replay, self.recorded)

    def noted(self, batch, train):
        self.recorded = batch
        return unpacked(batch, train)

    def changed(self):
        """What a step changes."""
        network = self.phase.network
        states = [list(state.values()) for state in self.phase.optimizer.state.values()]
        return [*network.parameters(), *network.buffers(), *itertools.chain(*states)]

    def replay(self, batch):
        self.replayed += 1
        norm, nats, _ = self.update_as_usual(unpacked(batch, self.phase.train))
        self.graphs[batch.shape].norm.copy_(norm)
        self.graphs[batch.shape].nats.copy_(nats)


@pytest.fixture
def graphs(device, module, monkeypatch):
    """Graphs of the device, or pretended ones."""
    if hasattr(module, 'broken'):
        made = []

        def make(phase, update):
            made.append(PretendedGraphs(phase, update))
            return made[-1]

        class Stream:
            def wait_stream(self, other):
                pass

        for name, value in {
                'CUDAGraph': SimpleNamespace, 'Stream': Stream, 'current_stream': Stream,
                'graph_pool_handle': tuple, 'get_sync_debug_mode': int,
                'set_sync_debug_mode': lambda mode: None,
                'stream': lambda stream: contextlib.nullcontext(),
                'graph': lambda *values, **named: made[-1].recording(*values, **named)}.items():
            monkeypatch.setattr(module, name, value, raising=False)
        monkeypatch.setattr(features_phase, 'StepGraphs', make)


VALUES = {'batch_size': 8, 'epochs': 2, 'dropout': 0.0}


def taken(run, epochs=2):
    """Take the steps of some epochs -> (the norms and nats of each step)."""
    run.phase.set_mode()
    steps, rates = [], iter([0.01, 0.002, 0.03, 0.005] * 100)
    for number in range(epochs):
        for batch in run.phase.batches(number, 0):
            rate = next(rates)
            for group in run.phase.optimizer.param_groups:
                group['lr'] = rate
            norm, nats, _ = train_step(run.phase, batch, seed=0)
            steps.append((norm.item(), nats.item() / batch.words))
    return steps


@pytest.mark.parametrize('image', ['every', 'attention'])
def test_steps_are_those_that_are_taken_otherwise(settings, few_photos, device, exact, graphs,
                                                  image):
    values = {'cocoapi_loc': few_photos, 'image': image, **VALUES}
    recorded = open_run(settings(name='recorded', **values, cuda_graphs=True), device=device)
    usual = open_run(settings(name='usual', **values), device=device)
    assert usual.phase.graphs is None
    steps, expected = taken(recorded), taken(usual)
    made = recorded.phase.graphs
    assert not made.gave_up and 0 < len(made.graphs) < len(steps) / 2
    if hasattr(made, 'replayed'):
        assert len(steps) - len(made.seen) - 1 <= made.replayed < len(steps)
    assert torch.tensor(steps).allclose(torch.tensor(expected), rtol=1e-3)
    assert (weights(recorded) - weights(usual)).abs().max() < 1e-3


def test_a_run_with_graphs_is_saved_as_any(settings, few_photos, device, exact, graphs):
    run = open_run(settings(cocoapi_loc=few_photos, **VALUES, cuda_graphs=True), device=device)
    taken(run)
    groups = run.phase.optimizer.state_dict()['param_groups']
    assert {type(group['lr']) for group in groups} == {float}
    assert not any(group['capturable'] for group in groups)


def test_a_killed_run_with_graphs_continues(settings, few_photos, device, exact, graphs):
    values = {'cocoapi_loc': few_photos, **VALUES, 'epochs': 3, 'cuda_graphs': True}
    expected = train(open_run(settings(name='never-stopped', **values), device=device))
    run = open_run(settings(name='killed', **values, save_seconds=0.0), device=device)
    train_until_killed(run, lambda run: run.epoch == 2 and run.batch == 2)
    assert run.phase.graphs.graphs
    run = train(open_run(settings(name='killed', **values), device=device))
    assert len(run.log) == 3 and run.log[2]['train_loss'] == pytest.approx(
        expected.log[2]['train_loss'], rel=1e-3)
    # To the bit on the pretended one; a GPU adds up in an order of its own.
    error = 0 if device.type == 'pretend' else 1e-2
    assert torch.allclose(weights(run), weights(expected), rtol=0, atol=error)


def test_graphs_are_recorded_anew_where_weights_moved(settings, few_photos, device, exact, graphs):
    values = {'cocoapi_loc': few_photos, **VALUES}
    moving = open_run(settings(name='moving', **values, cuda_graphs=True), device=device)
    usual = open_run(settings(name='usual', **values), device=device)
    for _ in range(2):
        assert torch.tensor(taken(moving)).allclose(torch.tensor(taken(usual)), rtol=1e-3)
        moving.model.decoder.lstm.flatten_parameters()    # on a GPU they move
    made = moving.phase.graphs
    moving.phase.batches(0, 0)
    if device.type != 'pretend':
        assert not made.graphs
    made.addresses = made.addresses[1:]
    made.graphs['any'] = None
    moving.phase.batches(0, 0)
    assert not made.graphs and not made.seen


def test_validation_leaves_the_weights_where_they_are(settings, few_photos, device):
    run = open_run(settings(cocoapi_loc=few_photos), device=device)

    def places():
        return [getattr(weight, 'held', weight).data_ptr() for weight in run.phase.parameters]

    before = places()
    validate(run)
    assert places() == before


def test_what_cannot_be_recorded_is_told(settings, few_photos, device, exact, graphs, monkeypatch,
                                         capsys):
    def told(**changes):
        values = {'cocoapi_loc': few_photos, **VALUES, 'cuda_graphs': True, **changes}
        run = open_run(settings(**values), device=device)
        assert (run.phase.graphs is None) == bool(changes)
        taken(run, epochs=1)
        return capsys.readouterr().err

    assert 'cuda_graphs' not in told()
    assert 'dropout between layers' in told(num_layers=2, dropout=0.5)
    monkeypatch.setitem(LOSSES, 'own', LOSSES['cross_entropy'])
    assert "the loss 'own' is not in LEAVE_OUT_PADDING" in told(loss='own')


def test_steps_that_wait_are_taken_as_usual(settings, few_photos, device, exact, graphs,
                                            monkeypatch, capsys):
    values = {'cocoapi_loc': few_photos, **VALUES}
    run = open_run(settings(name='waits', **values, cuda_graphs=True), device=device)
    usual = open_run(settings(name='usual', **values), device=device)
    step_loss = run.phase.step_loss

    def waits(batch):
        if run.phase.graphs.steps == 2 and device.type == 'pretend':    # which does not tell
            run.phase.graphs.steps = 3
            raise RuntimeError('called a synchronizing CUDA operation')
        loss = step_loss(batch)
        assert loss.loss.item() > 0
        return loss

    monkeypatch.setattr(run.phase, 'step_loss', waits)
    assert torch.tensor(taken(run)).allclose(torch.tensor(taken(usual)), rtol=1e-3)
    assert run.phase.graphs.gave_up and not run.phase.graphs.graphs
    assert capsys.readouterr().err.count('since called a synchronizing CUDA operation\n') == 1


def test_a_step_that_cannot_be_recorded_ends_training(settings, few_photos, device, exact, graphs,
                                                      monkeypatch):
    def fails(self, graphs, batch):
        raise RuntimeError('operation not permitted\nmore')

    monkeypatch.setattr(step_graphs.StepGraph, '__init__', fails)
    run = open_run(settings(cocoapi_loc=few_photos, **VALUES, cuda_graphs=True), device=device)
    with pytest.raises(RuntimeError, match=r'\(operation not permitted\): train with cuda_gr'):
        taken(run)


def test_a_device_without_graphs(settings, few_photos, device, pretended, capsys):
    run = open_run(settings(cocoapi_loc=few_photos, **VALUES, cuda_graphs=True), device=device)
    assert run.phase.graphs is None and 'has no graphs' in capsys.readouterr().err


def test_a_packed_batch_is_the_batch(settings, few_photos, device, exact, graphs):
    values = {'cocoapi_loc': few_photos, **VALUES, 'views': 2}
    run = open_run(settings(name='packed', **values, cuda_graphs=True), device=device)
    usual = open_run(settings(name='usual', **values), device=device)
    usual.phase.length_groups = 1
    batches = list(usual.phase.batches(1, 0))
    for packed, batch in zip(run.phase.batches(1, 0), batches, strict=True):
        (group,), (expected,) = unpacked(packed, run.train).groups, batch.groups
        assert torch.equal(unpacked(packed, run.train).inputs, batch.inputs)
        assert (packed.words, packed.captions) == (batch.words, batch.captions)
        assert len(group.captions) == 16 and len(group.targets) == 256
        b, T = expected.captions.shape
        assert group.captions.shape[1] in (T, T + 1)
        assert torch.equal(group.captions[:b, :T], expected.captions)
        assert torch.equal(group.inputs[:b], expected.inputs)
        W = len(expected.targets)
        assert torch.equal(group.targets[:W], expected.targets)
        assert torch.equal(group.captions.flatten()[group.scored[:W]], expected.targets)
        assert set(group.targets[W:].tolist()) == {EMPTY}
    assert not list(run.phase.batches(1, len(batches)))


def test_padding_has_no_loss_and_no_gradient(device):
    scores = torch.randn(6, 5, device=device)
    targets = torch.tensor([0, 4, EMPTY, 2, EMPTY, 1], device=device)
    few, counts = scores[targets >= 0].clone().requires_grad_(), targets[targets >= 0]
    scores.requires_grad_()
    (total, nats), (expected, expected_nats) = (
        LOSSES['cross_entropy'](*pair, 0.1) for pair in ((scores, targets), (few, counts)))
    total.backward(), expected.backward()
    assert nats.item() == pytest.approx(expected_nats.item(), rel=1e-5)
    assert not scores.grad[targets < 0].any()
    assert torch.allclose(scores.grad[targets >= 0].cpu(), few.grad.cpu(), atol=1e-5)
    plain = torch.nn.functional.cross_entropy(few.detach().cpu(), counts.cpu(), reduction='sum')
    assert nats.item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_doctor_tries_them(device, graphs, monkeypatch):
    monkeypatch.setattr(trials, 'SMALL_FEATURES', FEATURES)
    speed = Speed(device, QUICK._replace(channels=FEATURES))

    def verdict():
        finding, = tried('--cuda-graphs', try_cuda_graphs, speed)
        return finding.verdict

    assert verdict() == OK
    replay = step_graphs.StepGraph.replay

    def stale(graph, batch):
        """As a graph that changes weights of the decoder where they were before they moved."""
        weights = graph.optimizer.param_groups[1]['params'][:3]
        before = [weight.detach().clone() for weight in weights]
        result = replay(graph, batch)
        for weight, value in zip(weights, before, strict=True):
            weight.data.copy_(value)
        return result

    monkeypatch.setattr(step_graphs.StepGraph, 'replay', stale)
    assert verdict() == WRONG
