"""Train a captioner: settings, one epoch, validation, and the run folder that records it all.

    python -m scripts.train --name scenes
    torchrun --nproc-per-node 2 -m scripts.train --name scenes      # on several GPUs or machines

    run = open_run(Settings(name='scenes'))             # or continues it
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))

Phase 'features' reads what the frozen encoder gave for each image, kept on disk. Where they are asked for, phase 'tune'
goes on from the best of those with the encoder's last stages, through photos, and phase 'reward' goes on from there and
makes captions likelier that score well as a whole.
Axes: B batch, T caption length, V vocabulary, C channels of a feature, N images.
"""

import argparse
import contextlib
import json
import math
import signal
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import model
from data_loader import ROOT, CoCoDataset, annotation_file, dataset_cache, image_folder, resolve_cocoapi_loc
from scripts import decoding, distributed, run_main, write_aside
from scripts.batches import IGNORED, Captions, EpochSampler
from scripts.checkpoint import (
    Captioner,
    build_encoder,
    check_fits,
    load_captioner,
    load_tuned,
    load_weights,
    model_state,
    read_checkpoint,
    save_checkpoint,
)
from scripts.compare import format_runs, read_runs
from scripts.features import (
    AugmentedPhotos,
    default_device,
    encode,
    fast_dtype,
    image_batches,
    loading_workers,
    split_features,
    weights_hash,
)
from scripts.rewards import CiderReward
from scripts.runs import find_folder, hold, identity, let_go, mark_opened, record
from vocabulary import Vocabulary


def setting(default, reason):
    return field(default=default, metadata={'help': reason})


@dataclass
class Settings:
    """What an experiment is made of. Each one is also a flag of `python -m scripts.train`."""

    name: str = setting('run', 'folder under runs/')
    cocoapi_loc: str | None = setting(None, 'folder that holds cocoapi/; default: $COCOAPI_LOC, here, or the scenes')
    seed: int = setting(0, 'of the first weights, the order of captions and dropout')
    start: str | None = setting(None, 'checkpoint whose weights are the first ones; default: random ones')
    save_seconds: float = setting(45.0, 'work that a kill may lose')

    backbone: str = setting('resnet50', 'the CNN: a torchvision classifier')
    weights: str = setting('models/resnet50_v1_imagenet.pt', "the CNN's: a file, or a torchvision weights name")
    image: str = setting('every', "where it enters the LSTM: 'every' word, 'first', 'state' or 'attention'")
    tied: bool = setting(False, 'a word is read and written by the same vector')
    vocab_threshold: int = setting(5, 'a word must occur this often in the training captions')
    embed_size: int = setting(512, 'of a word, and of the image as the LSTM sees it')
    hidden_size: int = setting(512, 'of the LSTM')
    num_layers: int = setting(1, 'of the LSTM')
    dropout: float = setting(0.5, 'share of inputs and outputs of the LSTM that are dropped in training')

    batch_size: int = setting(128, 'captions a step, of all processes together')
    by_image: bool = setting(False, 'a step takes images with all their captions, as it always does with attention')
    views: int = setting(1, 'of each training image: as it is, 2: also flipped, from 3: also cropped at random')
    length_groups: int = setting(0, 'parts of like length of a batch, to save padding; 0: four on a CPU, one on a GPU')
    epochs: int = setting(10, 'passes over all training captions, on features of the frozen CNN')
    learning_rate: float = setting(2e-3, 'highest, reached after the warm-up; then it falls to 0 along a cosine')
    warmup: float = setting(0.05, 'share of the steps in which the learning rate rises from 0')
    weight_decay: float = setting(0.01, 'AdamW: pull of the weights towards 0')
    label_smoothing: float = setting(0.1, 'share of the target that is spread over all words')
    clip_norm: float = setting(5.0, 'longest gradient; longer ones are scaled down')

    patience: int = setting(5, 'epochs without a better CIDEr after which a phase ends')
    val_images: int = setting(5000, 'images of the validation split that are used')
    max_len: int = setting(20, 'words of a generated caption, start and end included')

    tune_epochs: int = setting(0, 'passes over all training images after that, the last stages of the CNN trained')
    tune_stages: int = setting(1, 'children of the CNN that are tuned, counted from its end: those with weights')
    tune_batch_size: int = setting(32, 'images a step, each with all its captions')
    tune_learning_rate: float = setting(1e-4, 'highest of the tuned stages')
    tune_head_rate: float = setting(2e-4, 'highest of the rest meanwhile')
    tune_crop: float = setting(0.7, 'smallest share of a photo that is kept by random crops; 1: no crops')
    tune_cache: bool = setting(False, 'keep on disk what the frozen stages give, flipped and not, and do not crop')

    reward_epochs: int = setting(0, 'passes over all training images after that, rewarding the better captions')
    reward_batch_size: int = setting(50, 'images a step')
    reward_samples: int = setting(5, 'captions that are drawn of each image')
    reward_baseline: str = setting('mean', "what a caption must beat: the 'mean' of the others, or the 'greedy' one")
    reward_learning_rate: float = setting(5e-4, 'highest meanwhile')
    reward_cross_entropy: float = setting(0.1, "share of the usual loss, which keeps the captions a person's")

    def __post_init__(self):
        least = {'seed': 0, 'batch_size': 1, 'views': 1, 'tune_batch_size': 1, 'length_groups': 0, 'epochs': 0,
                 'tune_epochs': 0, 'patience': 1, 'val_images': 1, 'tune_stages': 1, 'reward_epochs': 0,
                 'reward_batch_size': 1,
                 'reward_samples': 2 if self.reward_baseline == 'mean' else 1}
        if self.reward_baseline not in ('mean', 'greedy'):
            raise ValueError(f"reward_baseline='{self.reward_baseline}': expected 'mean' or 'greedy'.")
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f'{name}={getattr(self, name)}: expected a whole number from {value}.')
        if not self.epochs and not (self.start and (self.tune_epochs or self.reward_epochs)):
            raise ValueError(f'epochs=0 needs `start`, which is {self.start}, and tune_epochs or reward_epochs, which '
                             f'are {self.tune_epochs} and {self.reward_epochs}: there is nothing to train.')


GROUPS = {'name': 'run', 'backbone': 'model', 'batch_size': 'training on features', 'patience': 'validation',
          'tune_epochs': 'fine-tuning of the CNN', 'reward_epochs': 'self-critical training'}    # each group's first
PHASES = {'features': 'epochs', 'tune': 'tune_epochs', 'reward': 'reward_epochs'}    # in this order; their lengths


@dataclass
class Run:
    """An experiment under way. `epoch` counts finished epochs, `batch` finished batches of the one under way."""

    settings: Settings
    folder: Path
    device: torch.device
    encoder: nn.Module
    decoder: nn.Module
    sizes: tuple                # keyword arguments of encoder and of decoder
    backbone_hash: str          # of the encoder's weights before any tuning
    vocab: Vocabulary
    train: Captions
    val: Captions
    references: object          # evaluate.References of the validation images; None in ranks other than 0
    phase: str = 'features'     # of PHASES, or 'finished'
    phase_epoch: int = 0        # finished epochs of this phase
    epoch: int = 0
    batch: int = 0
    sums: dict = field(default_factory=dict)    # of the epoch under way
    log: list = field(default_factory=list)     # one dict an epoch
    saved_at: float = 0.0
    # What enter_phase sets: the stages that are tuned, what they read from disk, the weights that are trained, ...
    tuned: nn.Module = None
    views: list = None
    parameters: list = None
    optimizer: torch.optim.Optimizer = None
    sampler: EpochSampler = None
    network: nn.Module = None
    reward: CiderReward = None

    @property
    def finished(self):
        return self.phase == 'finished'

    @property
    def captioner(self):
        return Captioner(self.encoder, self.decoder, self.vocab, self.encoder.transform, self.device)

    @property
    def of_images(self):
        """Is a batch made of images with all their captions, or of captions?"""
        return self.phase != 'features' or self.settings.by_image or self.settings.image == 'attention'

    @property
    def length_groups(self):
        return self.settings.length_groups or (1 if self.device.type == 'cuda' else 4)

    @property
    def phase_epochs(self):
        return getattr(self.settings, PHASES[self.phase])


class Network(nn.Module):
    """What one step computes from features or, through the tuned stages, from what these read."""

    def __init__(self, encoder, decoder, tuned):
        super().__init__()
        self.tuned, self.embed, self.decoder = tuned, encoder.embed, decoder

    def forward(self, inputs, texts):
        """inputs: (B, ...). texts: pairs of rows of the inputs (b,) and captions (b, T). Returns scores (b, T, V)."""
        embedded = self.embed(self.tuned(inputs))
        return [self.decoder(embedded[rows], captions) for rows, captions in texts]


# ---- Opening a run ----

def read_split(settings, encoder, split):
    """Captions of 'train' or 'val' with their features, computed if they are not cached -> (Captions, Vocabulary)."""
    loc = resolve_cocoapi_loc(settings.cocoapi_loc)
    cache = dataset_cache(loc)
    annotations, vocab_file = str(annotation_file(loc, 'train')), cache / f'vocab-{settings.vocab_threshold}.pkl'
    vocab = Vocabulary(settings.vocab_threshold, vocab_file, annotations_file=annotations)    # quick: tokens are kept
    dataset = CoCoDataset(None, split, settings.batch_size, vocab, str(annotation_file(loc, split)),
                          image_folder(loc, split), str(cache))
    limit = settings.val_images if split == 'val' else None
    features, unreadable, _ = split_features(encoder, loc, split, limit)
    views = [split_features(encoder, loc, split, view=view)[0] for view in range(1, settings.views)
             if split == 'train']
    return Captions.of_split(dataset, features, unreadable, limit, views), vocab


def open_run(settings, device=None):
    """Start the experiment, or continue the same one where it was. Prints which, and where its files are."""
    if settings.weights is None:
        raise ValueError('weights=None: a random backbone cannot be had again for captioning. Save it, give its path.')
    device = torch.device(device or default_device())
    source = Path(model.__file__).read_text()    # before the minutes of extraction, in which it may be edited
    what = identity(settings, source)
    torch.manual_seed(settings.seed)
    encoder_sizes = {'embed_size': settings.embed_size, 'backbone': settings.backbone, 'weights': settings.weights,
                     'grid': settings.image == 'attention'}
    encoder = build_encoder(encoder_sizes).to(device)
    backbone_hash = weights_hash(encoder.backbone)
    start = distributed.from_first(lambda: read_checkpoint(ROOT / settings.start)) if settings.start else None
    if start and _is_tuned(start):    # then the features are to be those of its encoder
        load_tuned(encoder, start, settings.start)
    (train, vocab), (val, _) = _first_then_all(
        lambda: [read_split(settings, encoder, split) for split in ('train', 'val')])
    decoder_sizes = {'embed_size': settings.embed_size, 'hidden_size': settings.hidden_size, 'vocab_size': len(vocab),
                     'num_layers': settings.num_layers, 'dropout': settings.dropout, 'start_id': vocab.start_id,
                     'end_id': vocab.end_id, 'image': settings.image, 'tied': settings.tied}
    torch.manual_seed(settings.seed)    # again: how much chance was used up depends on what was in the cache
    decoder = model.DecoderRNN(**decoder_sizes).to(device)
    folder = distributed.from_first(lambda: find_folder(settings.name, what))
    distributed.from_first(lambda: hold(folder))
    run = Run(settings, folder, device, encoder, decoder, (encoder_sizes, decoder_sizes), backbone_hash, vocab,
              train.to(device), val.to(device), None if distributed.rank() else _references(settings, val))
    last = folder / 'last.pt'
    state = distributed.from_first(lambda: read_checkpoint(last) if last.exists() else None)
    if state:
        _restore(run, state)
        done = 'is finished, with' if run.finished else f'continues after {run.batch} batches and'
        print(f'{folder.relative_to(ROOT)}: {done} {run.epoch} epochs')
    else:
        if start:
            _load_weights(run, start, settings.start)
        enter_phase(run, _phases(settings)[0])
        trained = sum(parameter.numel() for parameter in run.parameters)
        total = sum(parameter.numel() for part in (encoder, decoder) for parameter in part.parameters())
        facts = {'device': str(device), 'ranks': distributed.ranks(), 'backbone_hash': backbone_hash,
                 'parameters': [trained, total]}
        distributed.from_first(lambda: record(folder, settings, what, source, **facts))
        print(f'{folder.relative_to(ROOT)}: a new run of '
              f'{sum(getattr(settings, name) for name in PHASES.values())} epochs on {device}, '
              f'{trained / 1e6:.1f} million trained weights')
    distributed.from_first(lambda: mark_opened(folder))
    if run.finished:
        let_go(folder)
    return run


def _first_then_all(read):
    """What `read()` gives, in every rank: the first computes what is to be kept on disk, the others read it."""
    if distributed.ranks() > 1:
        distributed.from_first(lambda: read() and None)
    return read()


def _is_tuned(state):
    return any(key.startswith('backbone.') for key in state['encoder']['state'])


def _phases(settings):
    return [phase for phase, name in PHASES.items() if getattr(settings, name)]


def _references(settings, val):
    from scripts.evaluate import References  # here, because training must run without nltk and pycocoevalcap
    file = annotation_file(resolve_cocoapi_loc(settings.cocoapi_loc), 'val')
    return References(file, [val.image_ids[row] for row in val.rows])


def enter_phase(run, phase):
    """Set up a phase: what is trained, at which rates, and what a step goes through."""
    settings, backbone = run.settings, run.encoder.backbone
    with_weights = [at for at, stage in enumerate(backbone) if any(True for _ in stage.parameters())]
    if settings.tune_epochs and settings.tune_stages >= len(with_weights):
        raise ValueError(f'tune_stages={settings.tune_stages}: {settings.backbone} has {len(with_weights)}, and the '
                         'first stays frozen.')
    stages = with_weights[-settings.tune_stages]    # that many children from here on, and those without weights
    if settings.tune_epochs and phase != 'features':
        backbone[stages:].requires_grad_(True)
    tuned = backbone[stages:] if phase == 'tune' else nn.Sequential()
    if phase == 'tune' and settings.tune_cache:
        loc = resolve_cocoapi_loc(settings.cocoapi_loc)
        run.views = _first_then_all(lambda: [split_features(run.encoder, loc, 'train', stages=stages, view=view)[0]
                                             for view in (0, 1)])
    if phase == 'reward':
        if settings.tune_epochs:    # features of the tuned encoder
            (run.train, _), (run.val, _) = _first_then_all(
                lambda: [read_split(settings, run.encoder, split) for split in ('train', 'val')])
            run.train, run.val = run.train.to(run.device), run.val.to(run.device)
        run.reward = CiderReward(run.train)
    head_rate = {'features': settings.learning_rate, 'tune': settings.tune_head_rate,
                 'reward': settings.reward_learning_rate}[phase]
    rates = [(run.encoder.embed, head_rate), (run.decoder, head_rate)]
    if phase == 'tune':
        rates.append((tuned, settings.tune_learning_rate))
    groups = [{'params': list(part.parameters()), 'lr': rate, 'highest': rate} for part, rate in rates]
    run.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay,
                                      fused=run.device.type in ('cuda', 'cpu'))
    run.parameters = [parameter for group in groups for parameter in group['params']]
    images = max(1, round(settings.batch_size * len(run.train.rows) / len(run.train.indices)))    # with their captions
    run.phase, run.tuned, run.phase_epoch = phase, tuned, 0
    size = {'features': images if run.of_images else settings.batch_size, 'tune': settings.tune_batch_size,
            'reward': settings.reward_batch_size}[phase]
    run.sampler = EpochSampler(run.train.rows if run.of_images else run.train.indices, size, settings.seed,
                               distributed.rank(), distributed.ranks())
    run.network = distributed.parallel(Network(run.encoder, run.decoder, tuned), share=run.encoder.embed)


# ---- Training ----

def caption_losses(scores, targets):
    """Scores (B, T, V) and targets (B, T), IGNORED where not scored -> sums over words: cross-entropy, smoothing.

    The mean of the first over the words is the loss in nats per word; the second is the cross-entropy with the uniform
    distribution over words, for label smoothing (Szegedy et al. 2016, Rethinking the Inception Architecture).
    """
    log_chances = F.log_softmax(scores.float(), dim=-1)                                   # (B, T, V)
    cross_entropy = F.nll_loss(log_chances.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction='sum')
    return cross_entropy, -(log_chances.mean(dim=-1) * (targets != IGNORED)).sum()


def learning_rate(step, steps, highest, warmup):
    """Rises in a line over the warm-up, a share of the steps, then falls along a cosine to 0 at the last."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_one_epoch(run):
    """Train on every caption once, or on what is left of an epoch under way -> averages, to log.

    Keys: train_loss (nats per word, with the phase's dropout, without smoothing), gradient_norm, learning_rate (of the
    last step), captions_per_second; in the phase 'reward' also reward, the mean CIDEr-D of what was drawn.
    """
    settings, batches = run.settings, run.sampler.batches
    run.sampler.set_epoch(run.epoch, run.batch)
    for part in (run.encoder, run.decoder):
        part.train(run.phase != 'reward')    # there what is drawn and what is trained must be the same: no dropout
    for module in run.decoder.modules() if run.phase == 'reward' else ():
        if isinstance(module, nn.RNNBase):    # cuDNN gives no gradients in eval mode
            module.train().dropout = 0.0
    run.saved_at = time.monotonic()
    norms = []
    progress = tqdm(total=len(run.sampler.items), initial=run.sampler.bounds(run.batch)[0], mininterval=0.5,
                    desc=f'epoch {run.epoch + 1}', unit=' images' if run.of_images else ' captions',
                    disable=distributed.rank() > 0)
    with progress, delayed_interrupt() as interrupted, _memory_explained(run):
        start = time.perf_counter()
        for items, inputs in _inputs(run):
            for group in run.optimizer.param_groups:
                group['lr'] = learning_rate(run.phase_epoch * batches + run.batch, batches * run.phase_epochs,
                                            group['highest'], settings.warmup)
            whole = run.sampler.whole(run.batch)
            norms.append(train_step(run, items, inputs, whole))
            run.batch += 1
            progress.update(len(whole))
            due = interrupted() or run.batch == batches or time.monotonic() - run.saved_at > settings.save_seconds
            if due or len(norms) == 50:    # not each time: it waits for the GPU
                _check_finite(run, norms)
                progress.set_postfix(loss=f'{float(run.sums["loss"]) / run.sums["words"]:.3f}')
            now = time.perf_counter()
            run.sums['seconds'], start = run.sums.get('seconds', 0.0) + now - start, now
            if due:
                _save_last(run)
            if interrupted():
                print(f'interrupted and saved after {run.epoch} epochs and {run.batch} batches: run again to continue')
                raise KeyboardInterrupt
    reward = {'reward': float(run.sums['reward']) / len(run.sampler.items)} if run.phase == 'reward' else {}
    return {'phase': run.phase, 'train_loss': float(run.sums['loss']) / run.sums['words'],
            'gradient_norm': float(run.sums['norm']) / batches, 'learning_rate': run.optimizer.param_groups[-1]['lr'],
            'captions_per_second': run.sums['captions'] / run.sums['seconds'], **reward}


def _inputs(run):
    """What is left of the epoch, batch by batch: this rank's items, and what the network reads in the phase 'tune'."""
    return tuning_batches(run) if run.phase == 'tune' else ((items, None) for items in run.sampler)


def train_step(run, items, inputs, whole):
    """One step on this rank's items (captions, or images with all their captions) of the whole batch -> gradient norm.

    Chance is set from the seed and the step, so that a run resumed in the middle needs no state of it.
    """
    settings, train = run.settings, run.train
    step = (settings.seed * 1_000_003 + run.epoch * run.sampler.batches + run.batch) * distributed.ranks()
    torch.manual_seed(step + distributed.rank())
    if run.of_images:
        rows, captions, texts = items, train.of_images(whole), train.image_texts(items, run.length_groups)
    else:
        rows, captions, texts = train.image_rows[items], whole, train.texts(items, run.length_groups)
    if run.phase != 'tune':
        inputs = train.of_rows(torch.from_numpy(rows), drawn_views(run, items, settings.views))
    words = int(train.lengths[captions].sum()) - len(captions)    # of all ranks; the start word is not scored
    sampled, dtype = [], fast_dtype(run.device)
    if run.phase == 'reward':
        sampled, advantages, rewards = sample_captions(run, items, inputs)
        rewards = distributed.total(rewards.sum() / settings.reward_samples)
        run.sums['reward'] = run.sums.get('reward', 0) + rewards
    with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
        scores = run.network(inputs, [(rows, captions) for rows, captions, _ in texts + sampled])
    losses = [caption_losses(own, targets) for own, (_, _, targets) in zip(scores, texts, strict=False)]
    cross_entropy, smoothing = (sum(parts) for parts in zip(*losses, strict=True))
    smooth = settings.label_smoothing
    loss = ((1 - smooth) * cross_entropy + smooth * smoothing) / words
    if sampled:
        share = settings.reward_cross_entropy
        drawn = scores[-1].float().index_fill(2, torch.tensor(run.vocab.unk_id, device=run.device), -torch.inf)
        loss = share * loss + (1 - share) * policy_loss(drawn, sampled[0][2], advantages)    # as they were drawn
    run.optimizer.zero_grad()
    (loss * distributed.ranks()).backward()    # DistributedDataParallel takes the mean over ranks; the sum is meant
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, settings.clip_norm)
    run.optimizer.step()
    total = distributed.total(cross_entropy.detach())
    for key, value in (('loss', total), ('words', words), ('captions', len(captions)), ('norm', norm)):
        run.sums[key] = run.sums.get(key, 0) + value
    return norm


def drawn_views(run, items, views):
    """Which of so many views of its image each item is shown this time -> array (B,), or None where there is one."""
    if views > 1:
        return np.array([np.random.default_rng([run.settings.seed, run.epoch, item]).integers(views) for item in items])


# ---- Self-critical training: captions are drawn, and made likelier if they are better than others of the image ----

@torch.no_grad()
def sample_captions(run, items, inputs):
    """Draw captions of the images `items` with features (B, ...) -> their text, advantages (S,), rewards (S,).

    text: rows of the inputs, captions and targets, as Captions.texts has them. advantages: by how much each caption's
    CIDEr-D is above the mean of the image's other samples, or above that of the greedy caption.
    Rennie et al. 2017, Self-critical Sequence Training for Image Captioning.
    """
    settings, count, rules = run.settings, run.settings.reward_samples, {
        'max_len': run.settings.max_len, 'forbidden': [run.vocab.unk_id]}
    seeds = [np.random.default_rng([settings.seed, run.epoch, row]).integers(2 ** 62, size=count) for row in items]
    embedded = run.encoder.embed(inputs)
    drawn = decoding.sample(run.decoder, embedded.repeat_interleave(count, dim=0),
                            seeds=np.concatenate(seeds).tolist(), **rules)
    rewards = run.reward([caption.ids for caption in drawn], np.repeat(items, count)).view(-1, count)     # (B, samples)
    if settings.reward_baseline == 'greedy':
        best = decoding.greedy(run.decoder, embedded, **rules)
        baseline = run.reward([caption.ids for caption in best], items)[:, None]
    else:
        baseline = (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
    lengths = torch.tensor([len(caption.ids) for caption in drawn], device=run.device)
    captions = torch.full((len(drawn), int(lengths.max())), run.vocab.end_id, device=run.device)
    for row, caption in enumerate(drawn):
        captions[row, :len(caption.ids)] = torch.tensor(caption.ids)
    position = torch.arange(captions.shape[1], device=run.device)
    targets = captions.masked_fill((position == 0) | (position >= lengths[:, None]), IGNORED)
    rows = torch.arange(len(items), device=run.device).repeat_interleave(count)
    return [(rows, captions, targets)], (rewards - baseline).flatten(), rewards


def policy_loss(scores, targets, advantages):
    """Scores (S, T, V) of drawn captions, targets (S, T), advantages (S,) -> loss, a mean over their words.

    Its gradient is that of the expected reward, downwards (REINFORCE, Williams 1992).
    """
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction='none')
    words = distributed.total((targets != IGNORED).sum())
    return (losses.view_as(targets).sum(dim=1) * advantages).sum() / words


@contextlib.contextmanager
def _memory_explained(run):
    """Where memory does not suffice within the block, say which setting to lower."""
    try:
        yield
    except RuntimeError as error:    # torch.OutOfMemoryError is one, and processors raise it plain
        if 'out of memory' not in str(error) and "can't allocate memory" not in str(error):
            raise
        name = {'tune': 'tune_batch_size', 'reward': 'reward_batch_size'}.get(run.phase, 'batch_size')
        raise RuntimeError(f'out of memory in epoch {run.epoch + 1}, batch {run.batch + 1}: lower {name} (now '
                           f'{getattr(run.settings, name)}). {str(error)[:120]}') from None


def _check_finite(run, norms):
    """Stop where a gradient norm of the last batches is not a number; empties the list."""
    values = torch.stack(norms).tolist()
    norms.clear()
    for batch, value in enumerate(values, run.batch - len(values) + 1):
        if not math.isfinite(value):
            raise RuntimeError(f'epoch {run.epoch + 1}, batch {batch}: loss and gradient are not finite (the norm is '
                               f'{value}). Lower the learning rate? What was saved is from before.')


@contextlib.contextmanager
def delayed_interrupt():
    """Within the block Ctrl-C, SIGTERM and the notebook's stop button only set what the yielded function tells.

    Of several processes each would notice at another step: these end at once, and lose what a kill loses.
    """
    pressed = []
    if distributed.ranks() > 1:
        yield lambda: False
        return
    try:
        before = {kind: signal.signal(kind, lambda *_: pressed.append(True))
                  for kind in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:    # not in the main thread: nothing is delayed
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


# ---- Fine-tuning: the tuned stages read what the frozen ones give for photos ----

def tuning_batches(run):
    """What is left of an epoch of the phase 'tune': yields this rank's rows of images, and inputs of the tuned stages.

    Photos are flipped and cropped at random and go through the frozen stages; or what these give is read from disk.
    """
    settings, frozen = run.settings, run.encoder.backbone[:-len(run.tuned)]
    if settings.tune_cache:
        for rows in run.sampler:
            views = drawn_views(run, rows, 2)
            inputs = np.stack([run.views[view][row] for view, row in zip(views, rows, strict=True)])
            yield rows, torch.from_numpy(inputs).to(run.device).float()
    else:
        photos = AugmentedPhotos(run.train.paths, run.encoder.transform, settings.tune_crop, [settings.seed, run.epoch])
        for rows, images in torch.utils.data.DataLoader(photos, batch_sampler=run.sampler,
                                                        num_workers=loading_workers(run.device)):
            yield rows.numpy(), encode(frozen, images.to(run.device), fast_dtype(run.device))


def tuned_features(run):
    """Features of the validation images as the encoder gives them now, (N, C) float16; 0 where there is none."""
    features = torch.zeros_like(run.val.features)
    for rows, images, _ in image_batches(run.val.paths, run.val.rows, run.encoder.transform, run.device):
        features[rows] = encode(run.encoder.backbone, images, fast_dtype(run.device)).to(features)
    return features


# ---- Validation ----

@torch.no_grad()
def validate(run):
    """Loss on the validation captions, and scores of greedy captions of their images -> dict, to log."""
    with _memory_explained(run):
        return distributed.from_first(lambda: _validate(run))


def _validate(run):
    run.encoder.eval()
    run.decoder.eval()
    if run.phase == 'tune':
        run.val.features = tuned_features(run)
    total, words = 0.0, 0
    for start in range(0, len(run.val.indices), 512):
        indices = run.val.indices[start:start + 512]
        features, texts = run.val.batch(indices, groups=4)
        embedded = run.encoder.embed(features)
        for rows, captions, targets in texts:
            total += caption_losses(run.decoder(embedded[rows], captions), targets)[0].item()
        words += int(run.val.lengths[indices].sum()) - len(indices)
    from scripts.evaluate import score
    scores = score(caption_validation(run, run.captioner), run.references)
    kept = {key: scores[key] for key in ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr')}
    return {'val_loss': total / words, **kept}


def caption_validation(run, captioner, beam_size=1):
    """Captions of the validation images in the COCO results format; a beam of 1 is greedy."""
    sentences = captioner.caption_features(run.val.features, run.settings.max_len, beam_size, run.val.rows)
    return [{'image_id': run.val.image_ids[row], 'caption': sentence}
            for row, sentence in zip(run.val.rows, sentences, strict=True)]


# ---- Keeping ----

def finish_epoch(run, train, val):
    """Log the epoch, keep it as best.pt if its CIDEr is the highest so far, and as last.pt; end a phase that is over.

    A phase is over after its epochs, or after `patience` of them without a better CIDEr. An interrupt waits.
    """
    with delayed_interrupt() as interrupted:
        _finish_epoch(run, train, val)
        if interrupted():
            print(f'interrupted and saved after {run.epoch} epochs: run again to continue')
            raise KeyboardInterrupt
    return run.log[-1]


def _finish_epoch(run, train, val):
    entry = {'epoch': run.epoch + 1, **train, **val, 'train_seconds': round(run.sums['seconds'], 2)}
    run.log.append({key: float(f'{value:.5g}') if isinstance(value, float) else value for key, value in entry.items()})
    run.epoch, run.phase_epoch, run.batch, run.sums = run.epoch + 1, run.phase_epoch + 1, 0, {}
    best = max(run.log, key=lambda line: line['CIDEr'])
    if best is run.log[-1]:
        state = {**_model_state(run), 'epoch': run.epoch, 'settings': asdict(run.settings)}
        distributed.from_first(lambda: save_checkpoint(run.folder / 'best.pt', state))
    if run.phase_epoch >= run.phase_epochs or run.epoch - max(
            best['epoch'], run.epoch - run.phase_epoch) >= run.settings.patience:
        _next_phase(run)
    distributed.from_first(lambda: _write_log(run))
    _save_last(run)    # last: what is not in there is done again
    if run.finished:
        let_go(run.folder)


def _write_log(run):
    with write_aside(run.folder / 'log.jsonl') as aside:
        aside.write_text(''.join(json.dumps(line) + '\n' for line in run.log))


def _next_phase(run):
    if run.phase_epoch < run.phase_epochs:
        print(f'no better CIDEr in {run.settings.patience} epochs: phase {run.phase!r} ends after {run.phase_epoch}')
    phases = _phases(run.settings)
    if run.phase == phases[-1]:
        run.phase = 'finished'
        return
    path = run.folder / 'best.pt'
    state = distributed.from_first(lambda: read_checkpoint(path))
    if run.phase == 'tune' and not _is_tuned(state):
        run.encoder.backbone.load_state_dict(build_encoder(run.sizes[0]).backbone.state_dict())    # tuning did not help
    _load_weights(run, state, path)
    enter_phase(run, phases[phases.index(run.phase) + 1])


def _model_state(run):
    return model_state(run.encoder, run.decoder, run.vocab, *run.sizes, run.backbone_hash)


def _save_last(run):
    """Everything that the rest of the run depends on. Chance is not in there: it comes from the seed and the step."""
    run.saved_at = time.monotonic()
    if distributed.rank():
        return
    progress = {key: getattr(run, key) for key in ('phase', 'phase_epoch', 'epoch', 'batch', 'log')}
    progress['sums'] = {key: torch.as_tensor(value).item() for key, value in run.sums.items()}
    save_checkpoint(run.folder / 'last.pt', {**_model_state(run), 'settings': asdict(run.settings),
                                             'optimizer': run.optimizer.state_dict(), 'progress': progress})


def _load_weights(run, state, path):
    check_fits(state, run.sizes, run.vocab, run.backbone_hash, path)
    load_weights(run.encoder, state['encoder']['state'], path)    # the frozen stages are not in there
    load_weights(run.decoder, state['decoder']['state'], path)


def _restore(run, state):
    progress = state['progress']
    _load_weights(run, state, run.folder / 'last.pt')
    enter_phase(run, progress['phase'] if progress['phase'] in PHASES else _phases(run.settings)[-1])
    run.optimizer.load_state_dict(state['optimizer'])
    for key, value in progress.items():
        setattr(run, key, value)


def final_scores(run):
    """Scores of the best epoch on the validation images, with intervals and diversity; kept in scores.json."""
    return distributed.from_first(lambda: _final_scores(run))


def _final_scores(run):
    from scripts.evaluate import diversity, score
    captioner = load_captioner(run.folder / 'best.pt', run.device)
    if run.settings.tune_epochs:
        loc = resolve_cocoapi_loc(run.settings.cocoapi_loc)
        run.val.features = torch.from_numpy(np.array(split_features(
            captioner.encoder, loc, 'val', limit=run.settings.val_images)[0])).to(run.device)
    results = caption_validation(run, captioner)
    scores = {**score(results, run.references, draws=1000), 'diversity': diversity(results)}
    for file, content in (('captions_val.json', results), ('scores.json', scores)):
        with write_aside(run.folder / file) as aside:
            aside.write_text(json.dumps(content, indent=1))
    return results, scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--device', help='cuda, mps or cpu (default: the first of these that is there)')
    for entry in fields(Settings):
        if entry.name in GROUPS:
            group = parser.add_argument_group(GROUPS[entry.name])
        kind = str if entry.default is None else type(entry.default)
        more = {'action': argparse.BooleanOptionalAction} if kind is bool else {'type': kind}
        group.add_argument('--' + entry.name.replace('_', '-'), default=entry.default, **more,
                           help=f'{entry.metadata["help"]} (default: {entry.default})')
    settings = vars(parser.parse_args())
    device = distributed.connect(settings.pop('device'))
    run = open_run(Settings(**settings), device)
    while not run.finished:
        entry = finish_epoch(run, train_one_epoch(run), validate(run))
        print(' '.join(f'{key} {value}' for key, value in entry.items()), flush=True)
    final_scores(run)
    print(distributed.from_first(lambda: format_runs(read_runs(like=run.folder))))
    distributed.disconnect()


if __name__ == '__main__':
    run_main(main)
