"""What users run, on a device: a run from opening to captions, with every way for the image."""

import copy
import sys

import numpy as np
import pytest
import torch
from small_networks import FEATURES
from training_helpers import open_run, train, train_until_killed, val_paths, weights

import scripts.evaluate
import scripts.sample
import scripts.train
from captioning import decoding, files, gpu_layers
from captioning.attention import show_attention
from captioning.captioner import load_captioner
from captioning.checkpoint import read_checkpoint
from captioning.constrained_search import constrained_beams
from captioning.devices import default_device, fast_dtype, training_dtype, working_accelerator
from captioning.files import ROOT
from captioning.photos import load_image
from captioning.training import final_scores
from captioning.training.epoch import train_step

PHASES = {'epochs': 1, 'tune_epochs': 1, 'tune_batch_size': 6, 'reward_epochs': 1,
          'reward_batch_size': 6}
# No dropout and no crops: a device has random numbers of its own.
WITHOUT_CHANCE = {'dropout': 0.0, 'tune_crop': 1.0}
WAYS = {'every': {}, 'first': {'tied': True, 'hidden_size': 16}, 'state': {'num_layers': 2},
        'attention': {}}

pytestmark = pytest.mark.usefixtures('cpu_in_float32')


@pytest.fixture
def small(settings, few_photos):
    """small(epochs=3, ...) -> settings of a run on eight photos."""
    def make(**changes):
        return settings(**{'cocoapi_loc': few_photos, **changes})

    return make


@pytest.mark.parametrize('values', [
    PHASES, {'image': 'attention', 'epochs': 1, 'reward_epochs': 1},
    {'image': 'first', 'tied': True, 'hidden_size': 16, 'epochs': 1, 'views': 2, 'by_image': True},
    {'image': 'state', 'num_layers': 2, 'epochs': 1}], ids=lambda values: values.get('image'))
def test_a_run_learns_what_it_learns_on_a_cpu(small, device, exact, values):
    values = {**values, **WITHOUT_CHANCE}
    run = train(open_run(small(name='there', **values), device=device))
    expected = train(open_run(small(name='here', **values), device='cpu'))
    assert len(run.log) == len(expected.log)
    for line, other in zip(run.log, expected.log, strict=True):
        error = 1e-3 if device.type == 'pretend' or 'reward' not in line else 0.1
        for key in ('train_loss', 'val_loss', 'reward'):
            assert line.get(key, 0) == pytest.approx(other.get(key, 0), rel=error), key
    apart = (weights(run).cpu() - weights(expected)).abs() > 1e-3
    if device.type == 'pretend':
        assert not apart.any()
    elif 'reward' not in run.log[-1]:    # one word may be drawn otherwise
        assert apart.float().mean() < 0.01    # AdamW takes whole steps where a gradient is near 0
    results, scores = final_scores(run)
    assert len(results) == 2 and scores['CIDEr'] >= 0


def test_a_run_in_the_precision_of_the_device_learns_too(small, device):
    run = train(open_run(small(epochs=4, learning_rate=0.02), device=device))
    assert run.log[-1]['train_loss'] < 0.95 * run.log[0]['train_loss']
    assert {parameter.dtype for parameter in run.phase.parameters} == {torch.float32}


def test_a_killed_run_continues(small, device, exact, tmp_path, monkeypatch):
    """The first run encodes the photos, the killed one finds their features."""
    monkeypatch.setattr(files, 'CACHE', tmp_path / 'cache')
    values = {**PHASES, 'epochs': 1, 'batch_size': 15, 'tune_batch_size': 3}
    expected = train(open_run(small(name='never-stopped', **values), device=device))
    for phase in ('tune', 'reward'):
        run = open_run(small(name='killed', **values, save_seconds=0.0), device=device)
        train_until_killed(run, lambda run, phase=phase: run.phase.name == phase and (
            run.batch or phase == 'reward'))
    run = train(open_run(small(name='killed', **values), device=device))
    assert [line['phase'] for line in run.log] == ['features', 'tune', 'reward']
    # To the bit on the pretended one; a GPU adds up in an order of its own.
    error = 0 if device.type == 'pretend' else 1e-2
    assert torch.allclose(weights(run), weights(expected), rtol=0, atol=error)


@pytest.mark.parametrize('image', WAYS)
def test_every_decoding_method_writes_what_a_cpu_writes(small, device, exact, image):
    values = {'image': image, **WAYS[image]}
    captioner, on_cpu = (
        open_run(small(name=str(place), **values), device=place).model.captioner(place)
        for place in (device, 'cpu'))
    shape = (4, 49, FEATURES) if image == 'attention' else (4, FEATURES)
    random = np.random.default_rng(0).random(shape)
    features = torch.from_numpy(random).float()
    methods = [(decoding.greedy, {}), (decoding.greedy, {'no_repeat': 2}),
               (decoding.sample, {'seeds': range(4)}),
               (decoding.sample, {'seeds': range(4), 'nucleus': 0.9, 'temperature': 0.7}),
               (decoding.beam_search, {'beam_size': 3}), (decoding.beams, {'beam_size': 3}),
               (constrained_beams, {'required': [[{5, 6}], [], [{7}, {8}], [{9}]]})]
    for method, options in methods:
        there = captioner.decode(features, method, max_len=8, **options)
        here = on_cpu.decode(features, method, max_len=8, **options)
        assert words_of(there) == words_of(here), method.__name__
    embedded = captioner.encoder.embed(features[:1].to(device))
    ids = captioner.decoder.sample(embedded.view(1, -1, embedded.shape[-1]), max_len=8)
    likeliest = decoding.likeliest_words(captioner.decoder, embedded, ids)
    assert [words[0][0] for words in likeliest] == ids[1:]


def test_names_are_those_that_a_cpu_gives(device, exact):
    there, here = (load_captioner(device=place) for place in (device, 'cpu'))
    photos = sorted((ROOT / 'images' / 'photos').glob('*.jpg'))[:2]
    seen, expected = (one.see(one.batch(photos)) for one in (there, here))
    assert (seen.probabilities.cpu() - expected.probabilities).abs().max() < 1e-2
    lists, others = there.describe(seen, 3, count=2), here.describe(expected, 3, count=2)
    assert [[one.text for one in few] for few in lists] == [
        [one.text for one in few] for few in others]
    assert any(best.names for best, *_ in lists)


def words_of(captions):
    return [[one.ids for one in caption] if isinstance(caption, list) else caption.ids
            for caption in captions]


def test_a_checkpoint_captions_on_device_and_cpu(small, device, exact):
    run = train(open_run(small(epochs=1, image='attention'), device=device))
    state = read_checkpoint(run.folder / 'last.pt')
    tensors = [*state['decoder']['state'].values(), *state['encoder']['state'].values()]
    assert {tensor.device.type for tensor in tensors} == {'cpu'}
    there, here = (load_captioner(run.folder / 'best.pt', place) for place in (device, 'cpu'))
    assert there.caption(val_paths(run), beam_size=2) == here.caption(val_paths(run), beam_size=2)
    show_attention(there, load_image(val_paths(run)[0]))


def test_the_commands(few_photos, isolated_root, small_weights, accelerator_is_default, exact,
                      monkeypatch, capsys):
    def run_command(module, *arguments):
        monkeypatch.setattr(sys, 'argv', ['command', *map(str, arguments)])
        module.main()
        return capsys.readouterr()

    run_command(scripts.train, '--name', 'a', '--cocoapi-loc', few_photos, '--backbone', 'resnet18',
                '--weights', small_weights, '--vocab-threshold', 1, '--embed-size', 16,
                '--hidden-size', 24, '--epochs', 1)
    checkpoint = isolated_root / 'runs' / 'a' / 'best.pt'
    assert accelerator_is_default in (checkpoint.with_name('settings.json')).read_text()
    photos = f'{few_photos}/cocoapi/images/val2014'
    output = isolated_root / 'captions.json'
    with open(f'{photos}/broken.jpg', 'w'), pytest.raises(SystemExit, match='1 of 3'):
        run_command(scripts.sample, '--checkpoint', checkpoint, '--image', photos, '--output',
                    output)
    assert output.read_text().count('"image"') == 2
    printed = run_command(scripts.evaluate, checkpoint, '--cocoapi-loc', few_photos, '--no-java',
                          '--beam-size', 2)
    assert 'CIDEr' in printed.out


# ---- What a device can do ----

def test_a_gpu_without_bfloat16_encodes_in_float16_and_trains_in_float32(pretended, device,
                                                                         monkeypatch):
    chosen = []
    for bfloat16, capability in ((True, (9, 0)), (False, (7, 5)), (False, (6, 1))):
        monkeypatch.setattr(pretended, 'bfloat16', bfloat16)
        monkeypatch.setattr(pretended, 'capability', capability)
        chosen.append((fast_dtype(device), training_dtype(device)))
    assert chosen == [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32),
                      (torch.float32, torch.float32)]


def test_a_t4_trains_and_captions(small, pretended, device, monkeypatch):
    monkeypatch.setattr(pretended, 'bfloat16', False)
    monkeypatch.setattr(pretended, 'capability', (7, 5))
    run = train(open_run(small(epochs=1), device=device))
    assert np.isfinite(run.log[-1]['val_loss'])
    captioner = load_captioner(run.folder / 'best.pt', device)
    assert captioner.dtype == torch.float16 and len(captioner.caption(val_paths(run))) == 2


def test_the_cpu_takes_over_from_a_gpu_that_cannot_compute(pretended, accelerator_is_default,
                                                           monkeypatch, capsys):
    assert default_device().type == accelerator_is_default
    monkeypatch.setattr(pretended, 'broken', 'CUDA error: no kernel image is available')
    working_accelerator.cache_clear()
    assert default_device() == torch.device('cpu') == default_device()
    said = capsys.readouterr().err
    assert said.count('so the CPU computes') == 1 and 'no kernel image' in said


def test_a_gpu_like_apples_trains_and_captions(small, pretended, device, monkeypatch):
    """It has neither float64 nor functions that choose one of several."""
    monkeypatch.setattr(pretended, 'float64', False)
    for name in ('set_device', 'current_device'):
        monkeypatch.delattr(type(pretended), name)
    with pytest.raises(TypeError, match='no float64'):
        torch.zeros(1, device=device).double()
    run = train(open_run(small(epochs=1, reward_epochs=1, reward_batch_size=6),
                         device=device.type))
    captioner = load_captioner(run.folder / 'best.pt', device.type)
    assert len(captioner.caption(val_paths(run), beam_size=2)) == 2


def test_the_gradient_of_word_vectors_is_as_otherwise(device):
    words = torch.tensor([[2, 0, 2, 1], [2, 2, 3, 3]])
    for kind, is_changed in (({}, True), ({'padding_idx': 2}, False), ({'max_norm': 0.5}, False)):
        plain = torch.nn.Embedding(5, 3, **kind)
        layer = gpu_layers.unsorted_embeddings(copy.deepcopy(plain).to(device))
        assert gpu_layers.unsorted_embeddings(layer) is layer    # once more changes nothing
        assert len(layer._forward_hooks) == is_changed
        for vectors in (plain(words), layer(words.to(device)), layer(input=words.to(device))):
            (vectors ** 2).sum().backward()
        assert torch.allclose(layer.weight.grad.cpu(), 2 * plain.weight.grad, rtol=1e-5)
        assert ('IndexSelect' in _operations(layer(words.to(device)))) == is_changed


def test_word_vectors_are_in_the_dtype_of_the_layer_that_reads_them(device):
    layer = gpu_layers.unsorted_embeddings(torch.nn.Embedding(5, 3).to(device))
    words = torch.tensor([2, 0], device=device)
    expected = gpu_layers.recurrent_dtype(device)
    with torch.autocast(device.type, torch.bfloat16):
        assert layer(words).dtype == expected
        with gpu_layers.recurrent_in_float32():    # as captions are drawn
            assert layer(words).dtype == torch.float32
        with torch.no_grad():
            assert layer(words).dtype == torch.float32
    assert layer(words).dtype == torch.float32


def _operations(result):
    """Names of the operations that made a tensor, and of what made what these read."""
    names, functions = '', [result.grad_fn]
    while functions:
        function = functions.pop()
        names += type(function).__name__
        functions += [before for before, _ in function.next_functions if before]
    return names


def test_the_first_step_draws_the_dropout_of_its_seed(small, device):
    """Nothing else draws from the device's stream meanwhile."""
    gpu_layers._recurrent_layers_take.cache_clear()
    run = open_run(small(dropout=0.5), device=device)
    run.phase.set_mode()
    for group in run.phase.optimizer.param_groups:
        group['lr'] = 0.0
    batch = run.phase.first_batch()
    _, first, _ = train_step(run.phase, batch, seed=3)
    _, again, _ = train_step(run.phase, batch, seed=3)
    assert first == again


@pytest.mark.parametrize(('num_layers', 'times'), [(1, 3), (2, 1)])
def test_dropout_between_layers_is_seeded_once(small, pretended, device, exact, num_layers, times,
                                               monkeypatch):
    run = open_run(small(num_layers=num_layers, dropout=0.5), device=device)
    seeds = []
    monkeypatch.setattr(pretended, 'manual_seed', seeds.append)
    for seed in range(3):
        run.phase.seed_step(seed)
    assert len(seeds) == times
