"""Does this device compute what a CPU computes in float32, and does a continued run go on exactly?

    findings = captions_agree(device)       # and so on: each check returns a list of Finding

Bounds are above what was measured on CPUs and on an H100.
"""

import contextlib
import functools
import io
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torchvision.models import resnet18

from captioning import files
from captioning.benchmark.made_up import made_up_captions, made_up_vocabulary
from captioning.benchmark.training import features_phase
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.devices import computed_in, fast_dtype, is_cpu, training_dtype
from captioning.doctor.machine import short
from captioning.doctor.report import Finding, at_least, at_most
from captioning.encoding import FrozenBackbone, difference
from captioning.photos import find_photos
from captioning.scenes import draw_scenes
from captioning.training import (
    finish_epoch,
    make_settings,
    open_run,
    train_one_epoch,
    validate,
)
from captioning.transforms import normalize
from model import EncoderCNN

CPU = torch.device('cpu')
SAME = 1e-3             # relative difference in float32: the order of sums is another
NEAR = 0.05             # of features in 16 bits; bfloat16 on a CPU gives 0.01
# Of gradients in 16 bits, the worst weight: bfloat16 gives a cosine of 0.9999, and a share of 1e-6
# becomes 0. Where the LSTM is in float16, as autocast has it on a GPU, the share is 1e-2.
SAME_DIRECTION = 0.99
VANISHED = 1e-3
BATCH_WORDS = 5_900     # of 512 captions of COCO: the more, the smaller are gradients
CONTINUED = 0.1         # on an accelerator, which adds up in any order; on an H100 it was 0
# What the captioner that ships writes about the free photos, greedily, on a CPU in float32.
CAPTIONS = {
    'astronaut.jpg': 'a man in a red jacket is standing on a roller coaster.',
    'cat.jpg': 'a little boy is licking its nose.',
    'coffee.jpg': 'a small child is sitting on a blue and white slide.',
    'photographer.jpg': 'a man is standing on a tripod in a tripod.',
    'rocket.jpg': 'a man stands on a stone ledge at night.',
}


def checks(device):
    """Pairs (name, function that returns a list of Finding)."""
    return [('features', functools.partial(features_agree, device)),
            ('gradients', functools.partial(gradients_agree, device, 'every')),
            ('gradients, attention', functools.partial(gradients_agree, device, 'attention')),
            ('captions', functools.partial(captions_agree, device)),
            ('a stopped run', functools.partial(stopped_run_goes_on, device))]


def compared_dtypes(device, fast):
    """In which dtypes a device is compared with the CPU in float32: there, and in the fast one."""
    dtypes = dict.fromkeys((torch.float32, fast))
    return [dtype for dtype in dtypes if not (is_cpu(device) and dtype == torch.float32)]


@contextlib.contextmanager
def full_float32(dtype):
    """Within the block float32 is float32 on a GPU, not TF32, where that is the dtype."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends if dtype == torch.float32 else ():
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def not_compared(name):
    return Finding(name, 'does not apply: a CPU that computes in float32 alone')


def advice_for(dtype):
    if dtype == torch.float32:
        return ('the device computes something else than the CPU. Driver and PyTorch fit? Try '
                '--device cpu, and paste this into an issue')
    return f'{short(dtype)} loses too much here; paste this into an issue'


# ---- Features ----

def features_agree(device):
    """Features of smooth made-up images, by the encoder that ships."""
    dtypes = compared_dtypes(device, fast_dtype(device))
    if not dtypes:
        return [not_compared('features')]
    expected = features_of(CPU, torch.float32)
    return [at_most(f'features, {short(dtype)}', difference(features_of(device, dtype), expected),
                    SAME if dtype == torch.float32 else NEAR, advice_for(dtype))
            for dtype in dtypes]


def features_of(device, dtype, count=4):
    encoder = EncoderCNN(1).to(device)
    coarse = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.interpolate(255 * coarse, size=(224, 224), mode='bilinear')
    mean, std = (torch.tensor(encoder.transform[key]) for key in ('mean', 'std'))
    images = normalize(pixels, mean, std)
    with full_float32(dtype):
        return FrozenBackbone(encoder.backbone, dtype).encode(images.to(device)).cpu()


# ---- Gradients ----

class Step(NamedTuple):
    """loss: a float. gradients: one flat tensor for each weight of the model, on the CPU."""

    loss: float
    gradients: list


def gradients_agree(device, image):
    """Loss and gradients of a training step, of a decoder with this setting of `image`."""
    dtypes = compared_dtypes(device, training_dtype(device))
    if not dtypes:
        return [not_compared(f'gradients, {image}')]
    expected = step_of(CPU, torch.float32, image)
    findings = []
    for dtype in dtypes:
        name, step = f'{image}, {short(dtype)}', step_of(device, dtype, image)
        if dtype == torch.float32:
            findings += same_step(name, step, expected)
        else:
            findings += like_step(name, step, expected)
    return findings


def step_of(device, dtype, image, images=32):
    """Compute the loss of made-up captions and its gradients -> Step."""
    torch.manual_seed(0)    # of the features
    captions = made_up_captions(5 * images, images, 1000, 512, 49 if image == 'attention' else 0)
    phase = features_phase(captions, made_up_vocabulary(1000), device, image=image, dropout=0.0,
                           batch_size=5 * images, backbone='resnet18', weights=None)
    phase.precision = functools.partial(computed_in, dtype, device)
    with full_float32(dtype):
        batch = next(phase.batches(epoch=0, first_batch=0))
        loss = phase.step_loss(batch).loss
        (loss * batch.words / BATCH_WORDS).backward()
        gradients = [weight.grad.flatten().cpu() for weight in phase.parameters]
    return Step(loss.item(), gradients)


def same_step(name, step, expected):
    """Findings: is a step that of the CPU, but for the order of sums?"""
    advice = advice_for(torch.float32)
    of_loss = abs(step.loss - expected.loss) / abs(expected.loss)
    of_gradients = difference(torch.cat(step.gradients), torch.cat(expected.gradients))
    return [at_most(f'loss, {name}', of_loss, SAME, advice),
            at_most(f'gradients, {name}', of_gradients, SAME, advice)]


def like_step(name, step, expected):
    """Findings: have the gradients of a step the direction of those in float32, and are they there?
    """
    cosines = torch.stack([nn.functional.cosine_similarity(actual, wanted, dim=0)
                           for actual, wanted in zip(step.gradients, expected.gradients,
                                                     strict=True) if wanted.any()])
    actual, wanted = torch.cat(step.gradients), torch.cat(expected.gradients)
    there = wanted != 0
    vanished = ((actual == 0) & there).sum() / there.sum()
    advice = ('training in this precision would be worse than in float32; paste this into an '
              'issue, and train with --device cpu until then')
    least = cosines.min().item()    # NaN where a gradient is not finite
    return [at_least(f'gradients, {name}', least, SAME_DIRECTION, advice, f'cosine {least:.5f}'),
            at_most(f'vanished, {name}', vanished.item(), VANISHED, advice, 'share')]


# ---- Captions ----

def captions_agree(device):
    """Captions of the free photos by the captioner that ships: on the CPU those that are known, on
    the device those of the CPU."""
    on_cpu = captions_of_photos(CPU, torch.float32)
    count = len(CAPTIONS)
    findings = [_equal_captions('captions, CPU, float32', on_cpu, list(CAPTIONS.values()),
                                least=count - 1, advice=(
        'not what the captioner that ships wrote elsewhere. Are models/ and images/photos as '
        'they came?'))]
    for dtype in compared_dtypes(device, fast_dtype(device)):
        # In 16 bits 7 of 100 differ (docs/measurements.md).
        least = count if dtype == torch.float32 else count - 2
        findings.append(_equal_captions(
            f'captions, {short(dtype)}', captions_of_photos(device, dtype), on_cpu, least,
            advice_for(dtype)))
    return findings


def captions_of_photos(device, dtype):
    """Greedy captions of the free photos, in the order of their names."""
    captioner = shipped_captioner(device)
    captioner.dtype = dtype
    with full_float32(dtype):
        return captioner.caption(free_photos())


@functools.cache
def shipped_captioner(device):
    """The captioner that ships, without names and consensus, loaded once; its `dtype` is as it was
    last set.
    """
    return load_captioner(device=device, names=False, consensus=False)


def free_photos():
    """Paths of the photos in the repository, by name."""
    return sorted(find_photos([str(files.ROOT / 'images' / 'photos')]))


def _equal_captions(name, captions, expected, least, advice):
    equal = sum(caption == other for caption, other in zip(captions, expected, strict=True))
    return at_least(name, equal, least, advice, f'{equal} of {len(expected)} equal')


# ---- A run that was stopped ----

def stopped_run_goes_on(device):
    """A run that was stopped and continued, against one that never was: the weights at the end.

    Their difference is relative to what was learned after the stop.
    """
    with small_data() as (data, settings), quiet():
        straight = trained(open_run(settings(name='straight'), data, device))
        stopped = open_run(settings(name='stopped'), data, device)
        stop_in_next_epoch(stopped, step=2)
        at_stop = weights(stopped)
        continued = trained(open_run(settings(name='stopped'), data, device))
    apart = (weights(continued) - weights(straight)).norm()
    learned = (weights(straight) - at_stop).norm()
    bound = 0 if is_cpu(device) else CONTINUED
    advice = 'a run that was stopped goes on as another one: paste this into an issue'
    return [at_most('a run stopped and continued', (apart / learned).item(), bound, advice)]


@contextlib.contextmanager
def small_data():
    """Scenes in a temporary folder, where runs and caches go too within the block.

    Yields (data, a function that makes settings of a small model).
    """
    before = files.RUNS, files.CACHE
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files.RUNS, files.CACHE = folder / 'runs', folder / 'cache'
        try:
            with quiet():
                draw_scenes(folder, train=12, val=2, test=1, size=64, workers=1)
            torch.manual_seed(0)
            torch.save(resnet18().state_dict(), folder / 'resnet18.pt')
            yield CaptionData(folder), functools.partial(
                make_settings, backbone='resnet18', weights=str(folder / 'resnet18.pt'),
                embed_size=64, hidden_size=64, vocab_threshold=1, batch_size=16, epochs=2)
        finally:
            files.RUNS, files.CACHE = before


@contextlib.contextmanager
def quiet():
    """Within the block nothing is printed, nor any progress shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def trained(run):
    """Train a run to its end -> the run."""
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def stop_in_next_epoch(run, step):
    """Train for an epoch and some steps, then press the stop button, by which it is saved."""
    finish_epoch(run, train_one_epoch(run), validate(run))
    batches = run.phase.batches

    def batches_until_stop(*arguments):
        for number, batch in enumerate(batches(*arguments)):
            if number == step:
                signal.raise_signal(signal.SIGINT)
            yield batch

    run.phase.batches = batches_until_stop
    with contextlib.suppress(KeyboardInterrupt):
        train_one_epoch(run)


def weights(run):
    """All trained weights as one vector, on the CPU."""
    return torch.cat([weight.detach().flatten().cpu() for weight in run.phase.parameters])
