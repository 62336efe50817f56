"""Train a captioner on cached features: settings, one epoch, validation, and the folder that records it all.

    python -m scripts.train --name scenes --epochs 15

    run = open_run(Settings(name='scenes'))             # or continues it
    while run.epoch < run.settings.epochs:
        finish_epoch(run, train_one_epoch(run), validate(run))

runs/NAME/ then holds settings.json, model.py as it was, log.jsonl (a line an epoch), last.pt, best.pt and scores.json.
Axes: B batch, T caption length, V vocabulary, C channels of a feature.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import model
from data_loader import ROOT, CoCoDataset, annotation_file, dataset_cache, image_folder, resolve_cocoapi_loc
from scripts import file_hash, run_main, write_aside
from scripts.annotations import annotations_hash
from scripts.checkpoint import (
    Captioner,
    build_encoder,
    load_captioner,
    model_state,
    read_checkpoint,
    save_checkpoint,
    weights_file,
)
from scripts.evaluate import References, diversity, format_scores, score
from scripts.features import TRANSFORM, default_device, fast_dtype, split_features, weights_hash
from vocabulary import Vocabulary

LONGEST = 100    # words of a caption that is trained on: one longer would pad its whole batch


def setting(default, reason):
    return field(default=default, metadata={'help': reason})


@dataclass
class Settings:
    """What an experiment is made of. Each one is also a flag of `python -m scripts.train`."""

    name: str = setting('run', 'folder under runs/')
    cocoapi_loc: str | None = setting(None, 'folder that holds cocoapi/; default: $COCOAPI_LOC, here, or the scenes')
    seed: int = setting(0, 'of the first weights, the order of captions and dropout')
    backbone: str = setting('resnet50', 'the frozen CNN: a torchvision ResNet')
    weights: str = setting('models/resnet50_v1_imagenet.pt', "the CNN's: a file, or a torchvision weights name")
    vocab_threshold: int = setting(5, 'a word must occur this often in the training captions')
    embed_size: int = setting(512, 'of a word, and of the image as the LSTM sees it')
    hidden_size: int = setting(512, 'of the LSTM')
    num_layers: int = setting(1, 'of the LSTM')
    dropout: float = setting(0.5, 'share of inputs and outputs of the LSTM that are dropped in training')
    batch_size: int = setting(128, 'captions a step')
    pool: int = setting(1, 'batches whose captions are sorted by length together; above 1 saves padding, and hurts')
    epochs: int = setting(15, 'passes over all training captions')
    learning_rate: float = setting(2e-3, 'highest, reached after the warm-up; then it falls to 0 along a cosine')
    warmup: float = setting(0.05, 'share of the steps in which the learning rate rises from 0')
    weight_decay: float = setting(0.01, 'AdamW: pull of the weights towards 0')
    label_smoothing: float = setting(0.1, 'share of the target that is spread over all words')
    clip_norm: float = setting(5.0, 'longest gradient; longer ones are scaled down')
    val_images: int = setting(5000, 'images of the validation split that are used')
    max_len: int = setting(20, 'words of a generated caption, start and end included')
    save_seconds: float = setting(60.0, 'work that a kill may lose')


class Captions:
    """The captions of one split's first `limit` images with their features, as batches, without unreadable images."""

    def __init__(self, dataset, features, unreadable, limit):
        self.dataset = dataset
        self.features = torch.from_numpy(np.array(features))                     # (N, C) float16, in memory
        usable = np.ones(len(dataset.paths), bool)
        usable[unreadable] = False
        usable[limit:] = False
        self.image_rows = dataset.image_rows
        self.lengths = np.array(dataset.caption_lengths)
        self.indices = np.flatnonzero(usable[self.image_rows] & (self.lengths <= LONGEST))      # that can be used
        if too_long := int((self.lengths > LONGEST).sum()):
            print(f'{too_long} captions of more than {LONGEST} words are left out')
        with_caption = np.isin(np.arange(len(usable)), self.image_rows)
        self.rows = np.flatnonzero(usable & with_caption)                        # images to caption and to score
        if not len(self.indices):
            raise ValueError(f'no image in {dataset.img_folder} could be read: nothing to train on.')

    def epoch_batches(self, batch_size, pool, seed, epoch):
        """Every caption once, as a list of index arrays; lengths are mixed, but alike within `pool` batches."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(self.indices)
        batches = []
        for start in range(0, len(order), batch_size * pool):
            together = order[start:start + batch_size * pool]
            together = together[np.argsort(self.lengths[together], kind='stable')]
            batches += np.split(together, range(batch_size, len(together), batch_size))
        return [batches[i] for i in random.permutation(len(batches))]

    def batch(self, indices, device):
        """-> features (B, C) float32, captions (B, T), targets (B, T): -100 at position 0 and where padded."""
        captions, lengths = self.dataset.padded_ids(indices)
        position = torch.arange(captions.shape[1])
        targets = captions.masked_fill((position == 0) | (position >= lengths[:, None]), -100)
        features = self.features[torch.from_numpy(self.image_rows[indices])].float()
        return features.to(device), captions.to(device), targets.to(device)


@dataclass
class Run:
    """An experiment under way. `epoch` counts finished epochs, `batch` finished batches of the one under way."""

    settings: Settings
    folder: Path
    device: torch.device
    encoder: torch.nn.Module
    decoder: torch.nn.Module
    sizes: tuple                # keyword arguments of encoder and of decoder
    vocab: Vocabulary
    train: Captions
    val: Captions
    references: References
    parameters: list            # those that are trained
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    batch: int = 0
    sums: dict = field(default_factory=dict)    # of the epoch under way
    log: list = field(default_factory=list)     # one dict an epoch
    saved_at: float = 0.0

    @property
    def captioner(self):
        return Captioner(self.encoder, self.decoder, self.vocab, TRANSFORM, self.device)


# ---- Opening a run: what identifies it, and its parts ----

def read_split(settings, encoder, split):
    """Captions of 'train' or 'val' with their features, computed if they are not cached -> (Captions, Vocabulary)."""
    loc = resolve_cocoapi_loc(settings.cocoapi_loc)
    cache = dataset_cache(loc)
    annotations, vocab_file = str(annotation_file(loc, 'train')), cache / f'vocab-{settings.vocab_threshold}.pkl'
    vocab = Vocabulary(settings.vocab_threshold, vocab_file, annotations_file=annotations)    # quick: tokens are kept
    dataset = CoCoDataset(None, split, settings.batch_size, vocab, str(annotation_file(loc, split)),
                          image_folder(loc, split), str(cache))
    features, unreadable, images = split_features(encoder, loc, split, settings.val_images if split == 'val' else None)
    return Captions(dataset, features, unreadable, len(images)), vocab


def identity(settings, source):
    """What makes a run the one that it is: settings, the text of model.py, weights and data -> dict of plain values."""
    loc, weights = resolve_cocoapi_loc(settings.cocoapi_loc), weights_file(settings.weights)
    what = {key: value for key, value in asdict(settings).items() if key not in ('name', 'cocoapi_loc', 'save_seconds')}
    what['model.py'] = hashlib.sha256(source.encode()).hexdigest()[:16]
    what['content of weights'] = file_hash(weights)[:16] if weights else None
    what |= {f'{split} data': annotations_hash(annotation_file(loc, split))[:16] for split in ('train', 'val')}
    return what


def find_folder(name, wanted):
    """The folder of the run with the identity `wanted`, else the first free one of NAME, NAME-2, NAME-3, ..."""
    before = None
    taken = {int(match[1] or 1): folder for folder in (ROOT / 'runs').glob(f'{name}*')
             if (match := re.fullmatch(re.escape(name) + r'(?:-(\d+))?', folder.name))
             and (folder / 'settings.json').exists()}
    for _, folder in sorted(taken.items()):
        before = json.loads((folder / 'settings.json').read_text())['identity']
        if before == wanted:
            return folder
    folder = ROOT / 'runs' / (f'{name}-{max(taken) + 1}' if taken else name)
    if before:
        changes = [f'{key}: {before.get(key)} -> {wanted.get(key)}' for key in {**before, **wanted}
                   if before.get(key) != wanted.get(key)]
        print(f'{folder.name}: a new run, since the one before differs in {"; ".join(changes)}')
    return folder


def open_run(settings, device=None):
    """Start the experiment, or continue the same one where it was. Prints which, and where its files are."""
    if settings.weights is None:
        raise ValueError('weights=None: a random backbone cannot be had again for captioning. Save it, give its path.')
    device = torch.device(device or default_device())
    source = Path(model.__file__).read_text()    # before the minutes of extraction, in which it may be edited
    what = identity(settings, source)
    folder = find_folder(settings.name, what)
    torch.manual_seed(settings.seed)
    encoder_sizes = {'embed_size': settings.embed_size, 'backbone': settings.backbone, 'weights': settings.weights}
    encoder = build_encoder(encoder_sizes).to(device)
    train, vocab = read_split(settings, encoder, 'train')
    val, _ = read_split(settings, encoder, 'val')
    decoder_sizes = {'embed_size': settings.embed_size, 'hidden_size': settings.hidden_size, 'vocab_size': len(vocab),
                     'num_layers': settings.num_layers, 'dropout': settings.dropout, 'start_id': vocab.start_id,
                     'end_id': vocab.end_id}
    torch.manual_seed(settings.seed)    # again: how much chance was used up depends on what was in the cache
    decoder = model.DecoderRNN(**decoder_sizes).to(device)
    image_ids = [val.dataset.image_ids[row] for row in val.rows]
    references = References(annotation_file(resolve_cocoapi_loc(settings.cocoapi_loc), 'val'), image_ids)
    trained = [p for p in (*encoder.parameters(), *decoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay,
                                  fused=device.type in ('cuda', 'cpu'))
    run = Run(settings, folder, device, encoder, decoder, (encoder_sizes, decoder_sizes), vocab, train, val, references,
              trained, optimizer)
    if (folder / 'last.pt').exists():
        _restore(run, read_checkpoint(folder / 'last.pt'))
        print(f'{folder.relative_to(ROOT)}: continues after {run.epoch} epochs and {run.batch} batches')
    else:
        _record(run, what, source)
        print(f'{folder.relative_to(ROOT)}: a new run of {settings.epochs} epochs on {device}, '
              f'{sum(p.numel() for p in trained) / 1e6:.1f} million trained weights')
    os.utime(folder / 'settings.json')    # the run that 3_Inference and `sample` take
    return run


def _record(run, what, source):
    """Write what the run is made of: settings, revision, versions, hashes, and model.py."""
    revision = None
    with contextlib.suppress(OSError):    # no git here
        git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True)
        revision = git.stdout.strip() or None
    versions = {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}
    record = {'settings': asdict(run.settings), 'identity': what, 'revision': revision,
              'backbone_hash': weights_hash(run.encoder.backbone), 'versions': versions,
              'device': str(run.device), 'processor': platform.processor() or platform.machine()}
    for file, content in (('model.py', source), ('settings.json', json.dumps(record, indent=1))):
        with write_aside(run.folder / file) as aside:
            aside.write_text(content)


# ---- Training ----

def caption_losses(scores, targets):
    """Scores (B, T, V) and targets (B, T), -100 where not scored -> sums over words: cross-entropy, smoothing, count.

    The mean of the first over the count is the loss per word in nats; the second is the cross-entropy with the uniform
    distribution over words, for label smoothing (Szegedy et al. 2016, Rethinking the Inception Architecture).
    """
    scored = targets != -100
    log_chances = F.log_softmax(scores[scored].float(), dim=-1)                           # (words, V)
    cross_entropy = -log_chances.gather(1, targets[scored][:, None]).sum()
    return cross_entropy, -log_chances.mean(dim=1).sum(), scored.sum()


def learning_rate(settings, step, steps):
    """Rises in a line over the warm-up, then falls along a cosine to 0 at the last of `steps`."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_one_epoch(run):
    """Train on every caption once, or on what is left of an epoch under way -> averages, to log.

    Keys: train_loss (nats per word, with dropout, without smoothing), gradient_norm, learning_rate (of the last step),
    captions_per_second.
    """
    settings = run.settings
    batches = run.train.epoch_batches(settings.batch_size, settings.pool, settings.seed, run.epoch)
    steps = settings.epochs * len(batches)
    run.encoder.train()
    run.decoder.train()
    run.saved_at = time.monotonic()
    progress = tqdm(total=len(run.train.indices), desc=f'epoch {run.epoch + 1}/{settings.epochs}', unit=' captions',
                    initial=sum(map(len, batches[:run.batch])), mininterval=0.5)
    with progress, delayed_interrupt() as interrupted:
        while run.batch < len(batches):
            rate = learning_rate(settings, run.epoch * len(batches) + run.batch, steps)
            for group in run.optimizer.param_groups:
                group['lr'] = rate
            start = time.perf_counter()
            _train_step(run, batches[run.batch])
            run.sums['seconds'] = run.sums.get('seconds', 0.0) + time.perf_counter() - start
            progress.update(len(batches[run.batch]))
            run.batch += 1
            if interrupted() or time.monotonic() - run.saved_at > settings.save_seconds:
                progress.set_postfix(loss=f'{float(run.sums["loss"]) / float(run.sums["words"]):.3f}')
                _save_last(run)
            if interrupted():
                print(f'interrupted and saved after {run.epoch} epochs and {run.batch} batches: run again to continue')
                raise KeyboardInterrupt
    return {'train_loss': float(run.sums['loss']) / float(run.sums['words']),
            'gradient_norm': float(run.sums['norm']) / len(batches),
            'learning_rate': run.optimizer.param_groups[0]['lr'],
            'captions_per_second': len(run.train.indices) / run.sums['seconds']}


def _train_step(run, indices):
    features, captions, targets = run.train.batch(indices, run.device)
    dtype = fast_dtype(run.device)
    with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
        scores = run.decoder(run.encoder.embed(features), captions)
    cross_entropy, smoothing, words = caption_losses(scores, targets)
    smooth = run.settings.label_smoothing
    loss = ((1 - smooth) * cross_entropy + smooth * smoothing) / words
    run.optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, run.settings.clip_norm)
    if not torch.isfinite(norm):
        raise RuntimeError(f'epoch {run.epoch + 1}, batch {run.batch + 1}: loss {loss.item()} and gradient norm '
                           f'{norm.item()} are not finite. Lower the learning rate? last.pt is from before.')
    run.optimizer.step()
    for key, value in (('loss', cross_entropy.detach()), ('words', words), ('norm', norm)):
        run.sums[key] = run.sums.get(key, 0) + value


@contextlib.contextmanager
def delayed_interrupt():
    """Within the block Ctrl-C and the notebook's stop button only set what the yielded function tells."""
    pressed = []
    try:
        before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    except ValueError:    # not in the main thread: nothing is delayed
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@torch.no_grad()
def validate(run):
    """Loss on the validation captions, and scores of greedy captions of their images -> dict, to log."""
    run.encoder.eval()
    run.decoder.eval()
    total, words = 0.0, 0
    for start in range(0, len(run.val.indices), 512):
        features, captions, targets = run.val.batch(run.val.indices[start:start + 512], run.device)
        cross_entropy, _, count = caption_losses(run.decoder(run.encoder.embed(features), captions), targets)
        total, words = total + cross_entropy.item(), words + count.item()
    scores = score(caption_validation(run, run.captioner), run.references)
    kept = {key: scores[key] for key in ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr')}
    return {'val_loss': total / words, **kept}


def caption_validation(run, captioner):
    """Greedy captions of the validation images in the COCO results format."""
    sentences = captioner.caption_features(run.val.features[run.val.rows], run.settings.max_len)
    return [{'image_id': run.val.dataset.image_ids[row], 'caption': sentence}
            for row, sentence in zip(run.val.rows, sentences, strict=True)]


# ---- Keeping ----

def finish_epoch(run, train, val):
    """Log the epoch, keep it as best.pt if its CIDEr is the highest so far, and as last.pt."""
    entry = {'epoch': run.epoch + 1, **train, **val, 'train_seconds': round(run.sums['seconds'], 2)}
    run.log.append({key: round(value, 5) if isinstance(value, float) else value for key, value in entry.items()})
    run.epoch, run.batch, run.sums = run.epoch + 1, 0, {}
    if run.log[-1]['CIDEr'] >= max(line['CIDEr'] for line in run.log):
        best = model_state(run.encoder, run.decoder, run.vocab, *run.sizes)
        save_checkpoint(run.folder / 'best.pt', {**best, 'epoch': run.epoch, 'settings': asdict(run.settings)})
    with write_aside(run.folder / 'log.jsonl') as aside:
        aside.write_text(''.join(json.dumps(line) + '\n' for line in run.log))
    _save_last(run)    # last: what is not in there is done again
    return run.log[-1]


def _save_last(run):
    """Everything that the rest of the run depends on."""
    progress = {'epoch': run.epoch, 'batch': run.batch, 'log': run.log,
                'sums': {key: torch.as_tensor(value).item() for key, value in run.sums.items()}}
    random = {'cpu': torch.get_rng_state()}
    if run.device.type == 'cuda':
        random['cuda'] = torch.cuda.get_rng_state(run.device)
    save_checkpoint(run.folder / 'last.pt', {
        **model_state(run.encoder, run.decoder, run.vocab, *run.sizes), 'settings': asdict(run.settings),
        'optimizer': run.optimizer.state_dict(), 'progress': progress, 'random': random})
    run.saved_at = time.monotonic()


def _restore(run, state):
    run.encoder.load_state_dict(state['encoder']['state'], strict=False)    # the backbone is not in there
    run.decoder.load_state_dict(state['decoder']['state'])
    run.optimizer.load_state_dict(state['optimizer'])
    for key, value in state['progress'].items():
        setattr(run, key, value)
    torch.set_rng_state(state['random']['cpu'])
    if run.device.type == 'cuda' and 'cuda' in state['random']:
        torch.cuda.set_rng_state(state['random']['cuda'], run.device)


def final_scores(run):
    """Scores of the best epoch on the validation images, with intervals and diversity; kept in scores.json."""
    results = caption_validation(run, load_captioner(run.folder / 'best.pt', run.device))
    scores = {**score(results, run.references, draws=1000), 'diversity': diversity(results)}
    for file, content in (('captions_val.json', results), ('scores.json', scores)):
        with write_aside(run.folder / file) as aside:
            aside.write_text(json.dumps(content, indent=1))
    return results, scores


def comparable_scores(run):
    """Scores of all finished runs on the same validation captions -> {folder name: scores}, the oldest first."""
    def data(folder):
        found = json.loads((folder / 'settings.json').read_text())['identity']
        return found['val data'], found['val_images']

    files = sorted(run.folder.parent.glob('*/scores.json'), key=lambda file: file.stat().st_mtime)
    return {file.parent.name: json.loads(file.read_text()) for file in files if data(file.parent) == data(run.folder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for entry in fields(Settings):
        kind = str if entry.default is None else type(entry.default)
        parser.add_argument('--' + entry.name.replace('_', '-'), type=kind, default=entry.default,
                            help=f'{entry.metadata["help"]} (default: {entry.default})')
    run = open_run(Settings(**vars(parser.parse_args())))
    while run.epoch < run.settings.epochs:
        entry = finish_epoch(run, train_one_epoch(run), validate(run))
        print(' '.join(f'{key} {value}' for key, value in entry.items()))
    _, scores = final_scores(run)
    print(format_scores({run.folder.name: scores}))


if __name__ == '__main__':
    run_main(main)
