"""Training steps as CUDA graphs: the processor starts one thing instead of some hundred.

    graphs = StepGraphs(phase, update)      # update(batch): a step as it is otherwise
    for batch in graphs.batches(epoch, first_batch=0):
        norm, nats, _ = graphs.update(batch)

A GPU computes a step in a millisecond or two; PyTorch takes longer to start its operations one by
one. A graph is a recording of them that is replayed with other numbers at the same places in
memory, so it fits one shape: sizes are rounded up, to MULTIPLES. A shape is computed as usual when
it comes first, and recorded when it comes again. All that differs from batch to batch are the
numbers of its images, captions and scored positions; they are laid out for many batches at once,
and a step copies its own. (NVIDIA, CUDA C++ Programming Guide, CUDA Graphs.)

Axes: n images of a batch, b captions, T ids, W scored words.
"""

import contextlib
import gc
import itertools
import sys
import warnings
from typing import NamedTuple

import numpy as np
import torch

from captioning import distributed, losses
from captioning.batch_targets import TargetGroup, lay_out
from captioning.devices import moved
from captioning.gpu_layers import has_dropout_between_layers
from captioning.training.steps import Batch

EMPTY = -1    # position and target of a word that only pads
LAID_OUT = 64    # batches at a time: meanwhile the GPU computes those before
FIRST = 8        # of an epoch, for which it waits


class Shape(NamedTuple):
    """Sizes of a batch: n, how many numbers of views (n or 0), b, T and W."""

    images: int
    views: int
    captions: int
    longest: int
    words: int

    @property
    def parts(self):
        """Sizes of what a PackedBatch has numbers of."""
        return self.images, self.views, self.captions, self.captions, self.words


MULTIPLES = Shape(images=1, views=1, captions=16, longest=2, words=256)


class PackedBatch(NamedTuple):
    """A Batch as numbers: rows of its images, their views, the indices of its captions, the input
    of each, and scored positions, EMPTY where they only pad.

    numbers: one tensor of them all, on the device. words and captions: as in Batch.
    """

    numbers: torch.Tensor
    shape: Shape
    rows: np.ndarray
    words: int
    captions: int


def pack(phase, shares):
    """Batches of items -> list of PackedBatch, all in one piece of memory."""
    train = phase.train
    layout = lay_out(train, list(map(phase.captions_of, shares)), multiple=MULTIPLES.longest)
    all_rows = [phase.items.rows(items) for items in shares]
    all_views = phase.views_of(shares) or [np.zeros(0, int)] * len(shares)
    numbers, packed = [], []
    for number, (rows, views) in enumerate(zip(all_rows, all_views, strict=True)):
        chosen = slice(*layout.bounds[number:number + 2])
        scored = layout.scored[slice(*layout.word_bounds[number:number + 2])]
        captions = chosen.stop - chosen.start
        sizes = len(rows), len(views), captions, layout.longest[number], len(scored)
        shape = Shape(*(-(-size // multiple) * multiple
                        for size, multiple in zip(sizes, MULTIPLES, strict=True)))
        parts = rows, views, layout.indices[chosen], layout.inputs[chosen], scored
        for part, size, padding in zip(parts, shape.parts, (0, 0, 0, 0, EMPTY), strict=True):
            numbers += part, np.full(size - len(part), padding)
        packed.append(PackedBatch(None, shape._replace(longest=sizes[3]), rows, len(scored),
                                  captions))
    lengths = [sum(batch.shape.parts) for batch in packed]
    on_device = moved(np.concatenate(numbers), train.table.device).split(lengths)
    return [batch._replace(numbers=part) for batch, part in zip(packed, on_device, strict=True)]


def unpacked(batch, train):
    """The Batch of a PackedBatch; train: Captions."""
    rows, views, indices, inputs, scored = batch.numbers.split(batch.shape.parts)
    features = train.features_of(rows, views if batch.shape.views else None)
    captions = train.table[indices, :batch.shape.longest].long()            # (b, T)
    counts, scored = scored != EMPTY, scored.clamp(min=0)
    targets = captions.flatten()[scored].where(counts, EMPTY)               # (W,)
    group = TargetGroup(inputs, captions, scored, targets)
    return Batch(batch.rows, features, [group], batch.words, batch.captions)


class StepGraphs:
    """The graphs of a phase, one for each shape of a batch.

    A step that waits for the GPU cannot be recorded. The second step of all finds that out; then
    all are computed as usual.
    """

    def __init__(self, phase, update):
        self.phase, self.update_as_usual = phase, update
        self.graphs, self.seen, self.addresses = {}, set(), []
        self.steps, self.gave_up = 0, False
        self.module = torch.get_device_module(phase.device)
        self.stream, self.memory = self.module.Stream(), None

    def batches(self, epoch, first_batch):
        """As Phase.batches -> an iterator of PackedBatch."""
        self._forget_what_moved()
        self.phase.sampler.set_epoch(epoch, first_batch)
        shares = list(self.phase.sampler)
        later = range(FIRST, len(shares), LAID_OUT)
        parts = [shares[:FIRST], *(shares[first:first + LAID_OUT] for first in later)]
        return itertools.chain.from_iterable(pack(self.phase, part) for part in parts if part)

    def _forget_what_moved(self):
        """Drop all graphs where what they read is elsewhere in memory than at the epoch before."""
        network, train = self.phase.network, self.phase.train
        read = *network.parameters(), *network.buffers(), train.features, train.table
        addresses = [tensor.data_ptr() for tensor in read]
        if addresses != self.addresses:
            self.graphs.clear()
            self.seen.clear()
            gc.collect()    # graphs that no one has any more must not go while one is recorded
            self.addresses, self.memory = addresses, self.module.graph_pool_handle()

    def update(self, batch):
        """As Phase.update."""
        self.steps += 1
        is_new = batch.shape not in self.graphs
        if is_new and batch.shape in self.seen and self.steps > 2 and not self.gave_up:
            self._record(batch)
        if batch.shape in self.graphs:
            return self.graphs[batch.shape].replay(batch)
        if self.steps == 2:
            self._try_without_waiting(batch)
        self.seen.add(batch.shape)
        with self._on_own_stream():    # libraries prepare themselves there for this shape
            return self.update_as_usual(unpacked(batch, self.phase.train))

    def _try_without_waiting(self, batch):
        """Compute the loss of a batch, for nothing but to see whether that waits for the GPU."""
        buffers = list(self.phase.network.buffers())
        kept = [buffer.clone() for buffer in buffers]
        random_numbers = self.module.get_rng_state()
        before = self.module.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)    # it is a prototype, PyTorch says
            self.module.set_sync_debug_mode('error')
        try:
            with self._on_own_stream():
                self.phase.step_loss(unpacked(batch, self.phase.train)).loss.backward()
        except RuntimeError as error:
            self.gave_up = True
            _tell(str(error).strip().splitlines()[0])
        finally:
            self.module.set_sync_debug_mode(before)
        self.module.set_rng_state(random_numbers)
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)

    def _record(self, batch):
        try:
            with self._on_own_stream():
                self.graphs[batch.shape] = StepGraph(self, batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:    # any code may be in a decoder; PyTorch cannot go on
            reason = str(error.__context__ or error).strip().splitlines()[0]
            raise RuntimeError(f'this step cannot be recorded as a CUDA graph ({reason}): train '
                               'with cuda_graphs=False.') from error

    @contextlib.contextmanager
    def _on_own_stream(self):
        """Recording is not possible on the stream that PyTorch computes on by default."""
        usual = self.module.current_stream()
        self.stream.wait_stream(usual)
        try:
            with self.module.stream(self.stream):
                yield
        finally:
            usual.wait_stream(self.stream)


class StepGraph:
    """The graph of one shape, and the memory that it reads."""

    def __init__(self, graphs, batch):
        self.optimizer = graphs.phase.optimizer
        device = batch.numbers.device
        self.numbers = batch.numbers.clone()
        self.words = torch.ones((), device=device)
        self.rates = [torch.zeros((), device=device) for _ in self.optimizer.param_groups]
        self.graph = graphs.module.CUDAGraph()
        recorded = batch._replace(numbers=self.numbers, words=self.words)
        with (self._optimizer_on_device(),
              graphs.module.graph(self.graph, pool=graphs.memory, stream=graphs.stream)):
            self.norm, self.nats, _ = graphs.update_as_usual(
                unpacked(recorded, graphs.phase.train))

    def replay(self, batch):
        """Take a step with another batch of the same shape -> (gradient norm, nats, None)."""
        self.numbers.copy_(batch.numbers)
        self.words.fill_(batch.words)
        for rate, weights in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(weights['lr'])
        self.graph.replay()
        return self.norm.clone(), self.nats.clone(), None    # the next replay writes over them

    @contextlib.contextmanager
    def _optimizer_on_device(self):
        """Within the block it reads the learning rates from memory that can be changed later."""
        groups = self.optimizer.param_groups
        before = [group['lr'] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group.update(lr=rate, capturable=True)
        try:
            yield
        finally:
            for group, rate in zip(groups, before, strict=True):
                group.update(lr=rate, capturable=False)


# ---- Where there are none ----

def told_reason_against(phase):
    """Can the steps of a phase not be recorded? -> None, or why not, which is printed too."""
    reason = _reason_against(phase)
    if reason:
        _tell(reason)
    return reason


def _tell(reason):
    print(f'cuda_graphs: steps are computed as usual, since {reason}', file=sys.stderr)


def _reason_against(phase):
    if not hasattr(torch.get_device_module(phase.device), 'CUDAGraph'):
        return f'{phase.device} has no graphs'
    if distributed.ranks() > 1:
        return 'several processes take part in each'
    if not phase.train.in_memory:
        return 'the features are not in the memory of the device'
    if has_dropout_between_layers(phase.model.decoder, phase.device):
        return 'cuDNN draws the dropout between layers'
    if phase.settings.loss not in losses.LEAVE_OUT_PADDING:
        return (f'the loss {phase.settings.loss!r} is not in LEAVE_OUT_PADDING of '
                'captioning/losses.py')
    return None
