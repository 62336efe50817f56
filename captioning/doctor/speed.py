"""How fast this machine encodes, trains and decodes, beside what its yardsticks let expect.

    speed = Speed(device, size)
    report.section('Fast', speed.checks())

A piece of work is expected to take what the yardsticks say divided by a share that it should
reach. The shares are below what was measured: on CPUs, and on an H100 whose processor takes 10
microseconds to start an operation.
"""

import functools

import torch

from captioning.benchmark.decoding import seconds_to_decode
from captioning.benchmark.encoding import frozen_images_per_second, photos_per_second
from captioning.benchmark.made_up import (
    COCO_CAPTIONS,
    made_up_captions,
    made_up_vocabulary,
)
from captioning.benchmark.measure import seconds
from captioning.benchmark.training import features_phase, training_rates
from captioning.decoding import beam_search, greedy
from captioning.devices import decoding_batch, fast_dtype, is_cpu, training_dtype
from captioning.doctor.agreement import free_photos, shipped_captioner
from captioning.doctor.machine import cores, load, short, workers_for
from captioning.doctor.report import AS_EXPECTED, SLOWER, Finding, at_rate, in_time, number
from captioning.doctor.work import decoding_work, encoding_work, training_work
from captioning.doctor.yardsticks import Yardsticks, best_matrix_speed
from captioning.photos import load_image
from captioning.transforms import least_decoded, make_pixels

PLACES = 49             # of a grid of 7 x 7
# Share of what the yardsticks allow that is expected, (on a CPU, on an accelerator).
SHARES = {'encoding': (0.35, 0.25), 'files': (0.6, 0.25), 'every': (0.3, 0.12),
          'attention': (0.25, 0.08), 'decoding': (0.25, 0.1)}
GRAPH_CALLS = 14        # of a step as a CUDA graph
DRIFT = 1.3             # times: where a yardstick changes so much, other work is running
METHODS = (('greedy', greedy, {}), ('beam of 3', beam_search, {'beam_size': 3}))


class Speed:
    """The checks of speed on one device, which share data and yardsticks.

    size: a Size. The first check measures the yardsticks; without them nothing is expected.
    """

    def __init__(self, device, size):
        self.device, self.size = device, size
        self.fast, self.trained_in = fast_dtype(device), training_dtype(device)
        self.has_graphs = hasattr(torch.get_device_module(device), 'CUDAGraph')
        self.load = load()    # before anything is measured
        self.yardsticks, self.encoding_rate = None, None

    def checks(self):
        """Pairs (name, function that returns a list of Finding)."""
        checks = [('yardsticks', self.measure_yardsticks), ('encoding', self.encoding),
                  ('from files to features', self.files)]
        kinds = [('every', batch_size) for batch_size in self.size.batches]
        kinds.append(('attention', self.size.batches[-1]))
        for kind in kinds:
            for graphs in (False, True) if self.has_graphs else (False,):
                check = functools.partial(self.epoch, *kind, graphs)
                checks.append((epoch_name(*kind, graphs), check))
        return [*checks, ('decoding', self.decoding), ('steadiness', self.steadiness)]

    # ---- What is expected ----

    def measure_yardsticks(self):
        self.yardsticks = Yardsticks.measured(self.device, self.size)
        gflops, gigabytes, call = self.yardsticks
        findings = [Finding(f'matrix products, {short(dtype)}', f'{number(value)} GFLOP/s')
                    for dtype, value in gflops.items()]
        return [*findings, Finding('a large copy', f'{number(gigabytes)} GB/s'),
                Finding('a small operation', f'{1e6 * call:.1f} microseconds')]

    def share(self, kind):
        on_cpu, on_accelerator = SHARES[kind]
        return on_cpu if is_cpu(self.device) else on_accelerator

    def expected_seconds(self, work, dtype, kind):
        """Seconds that a Work should take at most; None without yardsticks."""
        if self.yardsticks is None:
            return None
        return self.yardsticks.seconds(work, dtype) / self.share(kind)

    def advice(self, work, dtype, on_accelerator):
        """Why something is slow, most likely, and what to try.

        on_accelerator: what to try there.
        """
        if self.load is not None and self.load > cores() / 2:
            return (f'other work is running (load {self.load:.1f} on {cores()} cores). Run this '
                    'again when it has ended')
        if is_cpu(self.device):
            return advice_on_threads()
        if self.yardsticks is None:
            return on_accelerator
        parts = self.yardsticks.parts(work, dtype)
        longest = max(parts, key=parts.get)
        if longest == 'calls':
            return f'the processor does not start operations fast enough: {on_accelerator}'
        return (f'{longest} should be what takes the time. Is something else using the device, or '
                f'is it hot? Else {on_accelerator}')

    # ---- Encoding ----

    def encoding(self):
        size = self.size
        work = encoding_work(size.encoded, self.fast)
        self.encoding_rate = frozen_images_per_second(
            self.fast, self.device, size.encoded, size.repeats, size.encoded_in_all)
        expected = None
        if batch_seconds := self.expected_seconds(work, self.fast, 'encoding'):
            expected = size.encoded / batch_seconds
        advice = self.advice(work, self.fast, 'paste this into an issue')
        return [at_rate(f'encoding, batches of {size.encoded}', self.encoding_rate, expected,
                        'images/s', advice)]

    def files(self):
        """Read the free photos over and over, as training reads photos, and encode them."""
        photos = free_photos()
        paths = [photos[number % len(photos)] for number in range(self.size.photos)]
        photo_rate = photos_per_second(self.fast, self.device, paths)
        workers = workers_for(self.device, len(paths))
        reading = reading_seconds(photos)
        least = None
        if self.encoding_rate:    # of it alone it is known how long both take
            encoding = 1 / self.encoding_rate
            least = max(reading / workers, encoding) if workers else reading + encoding
        advice = (f'{workers} processes read photos, {1000 * reading:.1f} ms each. More cores or '
                  'more shared memory allow more of them (in Docker --shm-size 2g); is the disk '
                  'slow?')
        expected = least and self.share('files') / least
        return [at_rate('from files to features', photo_rate, expected, 'photos/s', advice)]

    # ---- Training ----

    @functools.cached_property
    def pooled(self):
        size = self.size
        return made_up_captions(size.captions, size.images, size.words, size.channels)

    @functools.cached_property
    def grids(self):
        size = self.size
        count = 5 * size.grid_images
        return made_up_captions(count, size.grid_images, size.words, size.channels, PLACES)

    @functools.cache    # noqa: B019, there is one Speed an examination
    def training(self, image, batch_size, graphs):
        """How fast steps are, by image, batch and cuda_graphs -> (Rates, their Work)."""
        size = self.size
        captions = self.grids if image == 'attention' else self.pooled
        phase = features_phase(captions, made_up_vocabulary(size.words), self.device, image=image,
                               batch_size=batch_size, cuda_graphs=graphs, **size.model)
        steps = size.graph_steps if graphs else size.steps
        rates = training_rates(phase, steps, size.warm_up)
        work = training_work(phase, rates, batch_size, PLACES if image == 'attention' else 1)
        if graphs:
            work = work._replace(calls=GRAPH_CALLS)
        return rates._replace(start=rates.start * COCO_CAPTIONS / len(captions.indices)), work

    def epoch(self, image, batch_size, graphs=False):
        """Seconds of an epoch of COCO's captions: its beginning, and some steps extrapolated."""
        rates, work = self.training(image, batch_size, graphs)
        took = COCO_CAPTIONS / rates.captions + rates.start
        expected = None
        if step_seconds := self.expected_seconds(work, self.trained_in, image):
            expected = COCO_CAPTIONS / batch_size * step_seconds
        measured = f'{number(took)} s, {number(rates.captions)}/s'
        to_try = ('paste this into an issue' if graphs or not self.has_graphs else
                  'try --cuda-graphs, or a larger --batch-size with a higher --learning-rate')
        advice = self.advice(work, self.trained_in, to_try)
        name = epoch_name(image, batch_size, graphs)
        return [in_time(name, took, expected, measured, advice)]

    # ---- Decoding ----

    def decoding(self):
        captioner, photos = shipped_captioner(self.device), free_photos()
        captioner.dtype = self.fast
        count = self.size.decoded or decoding_batch(self.device)
        rows = torch.arange(count, device=self.device) % len(photos)
        features = captioner.features(photos)[rows].half()
        return [self._decoding_by(captioner, features, *method) for method in METHODS]

    def _decoding_by(self, captioner, features, name, method, options):
        took = seconds_to_decode(captioner, features, method, options)
        captions = captioner.decode(features[:16], method, **options)
        words = max(len(caption.ids) for caption in captions) - 1
        work = decoding_work(captioner.decoder, len(features), words, options.get('beam_size', 1))
        seconds_expected = self.expected_seconds(work, self.fast, 'decoding')
        expected = seconds_expected and len(features) / seconds_expected
        advice = self.advice(work, self.fast, 'caption more photos at once')
        return at_rate(f'captions decoded, {name}', len(features) / took, expected, 'captions/s',
                       advice)

    # ---- Can these numbers be trusted? ----

    def steadiness(self):
        """The first yardstick once more: a machine that does other work as well gives another."""
        if self.yardsticks is None:
            return []
        again = best_matrix_speed(torch.float32, self.size)
        before = self.yardsticks.gflops[torch.float32]
        steady = max(before, again) < DRIFT * min(before, again)
        advice = ('speed changed while this ran, so no number above is certain: other work, or '
                  'heat. Run it again on an idle machine')
        return [Finding('matrix products, float32, again', f'{number(again)} GFLOP/s',
                        f'within {DRIFT} times', AS_EXPECTED if steady else SLOWER,
                        '' if steady else advice)]


def epoch_name(image, batch_size, graphs=False):
    features = 'attention' if image == 'attention' else 'pooled'
    return f"COCO's epoch, {features}, {batch_size}{', graphs' if graphs else ''}"


def advice_on_threads():
    threads, count = torch.get_num_threads(), cores()
    better = count if threads < count else max(1, count // 2)    # one a core, not two
    return (f'PyTorch computes in {threads} threads on {count} cores: try '
            f'OMP_NUM_THREADS={better}. Does another program compute?')


def reading_seconds(photos):
    """Seconds that one process takes to read a photo."""
    pixels = make_pixels(224)
    least = least_decoded(224)
    return seconds(lambda: [pixels(load_image(photo, least)) for photo in photos]) / len(photos)
