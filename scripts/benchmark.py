"""Measure this machine: training, encoder, sampler, start-up, memory and growth; ratios of one run are comparable.

    python -m scripts.benchmark                             # all parts; run it on an idle machine
    python -m scripts.benchmark --only training encoder

Each part runs in a process of its own, whose peak memory is printed. COCO's sizes are made up where they are meant.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import SubsetRandomSampler

from data_loader import CoCoDataset, annotation_file, dataset_cache, get_loader, image_folder, load_image
from model import DecoderRNN, EncoderCNN
from scripts import run_main
from scripts.annotations import read_annotations
from scripts.batches import Captions, EpochSampler, by_length
from scripts.checkpoint import Captioner, latest_checkpoint, load_captioner
from scripts.data import prepare_data
from scripts.decoding import beam_search, greedy, sample
from scripts.evaluate import References, score
from scripts.features import default_device, encode, fast_dtype, make_transform, split_features
from scripts.sample import caption_photos
from scripts.train import (
    Run,
    Settings,
    caption_validation,
    enter_phase,
    final_scores,
    finish_epoch,
    open_run,
    read_split,
    train_one_epoch,
    train_step,
    validate,
)
from vocabulary import Vocabulary

COCO_IMAGES, COCO_CAPTIONS, COCO_WORDS = 82_783, 414_113, 9_955


def seconds(function, repeats=1):
    """Mean time of a call, the work on a GPU included."""
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize()
    return (time.perf_counter() - start) / repeats


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print('  ' + '   '.join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# ---- Training ----

def classic_loop(loc, vocab_file, batch_size, steps):
    """Captions/s of the course's loop: each step draws a length, makes an iterator, decodes and encodes each photo."""
    device = default_device()
    encoder = EncoderCNN(512).to(device)
    loader = get_loader(make_transform(**encoder.transform), 'train', batch_size, vocab_file=vocab_file,
                        cocoapi_loc=loc)
    decoder = DecoderRNN(512, 512, len(loader.dataset.vocab)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam([*encoder.embed.parameters(), *decoder.parameters()])

    def step():
        loader.batch_sampler.sampler = SubsetRandomSampler(loader.dataset.get_train_indices())
        images, captions = (part.to(device) for part in next(iter(loader)))
        decoder.zero_grad()
        encoder.zero_grad()
        scores = decoder(encoder(images), captions)
        criterion(scores.view(-1, scores.shape[2]), captions.view(-1)).backward()
        optimizer.step()

    step()    # the first one also loads libraries
    return batch_size / seconds(step, steps)


def bare_run(settings, train, vocab_size):
    """A Run that can take steps and has no folder."""
    device = default_device()
    encoder = EncoderCNN(settings.embed_size, 'resnet18', None).to(device)    # its backbone is not used
    encoder.embed[0] = nn.Linear(train.features.shape[1], settings.embed_size, bias=False, device=device)
    decoder = DecoderRNN(settings.embed_size, settings.hidden_size, vocab_size, dropout=settings.dropout).to(device)
    run = Run(settings, None, device, encoder.train(), decoder.train(), None, None, None, train.to(device), None, None)
    enter_phase(run, 'features')
    return run


def feature_rate(run, steps=30):
    """Captions/s of training from features, and its parts: share of making the batch, GFLOP/s of the arithmetic."""
    groups = run.length_groups
    batches = [run.sampler.whole(batch) for batch in range(min(steps + 5, run.sampler.batches))]
    for batch in batches[:5]:
        train_step(run, batch, None, batch)
    captions = sum(map(len, batches[5:]))
    whole = seconds(lambda: [train_step(run, batch, None, batch) for batch in batches[5:]])
    loading = seconds(lambda: [run.train.batch(batch, groups) for batch in batches[5:]])
    cells = sum(len(own) * run.train.lengths[batch[own]].max() for batch in batches[5:]
                for own in by_length(run.train.lengths[batch], groups))
    E, H, V = run.settings.embed_size, run.settings.hidden_size, run.decoder.linear.out_features
    work = 6 * cells * (4 * H * (E + H) + H * V)    # forward, and twice that backward; 2 operations a weight
    return captions / whole, loading / whole, work / whole / 1e9


def matrix_speed(dtype):
    """GFLOP/s of large matrix products on this device."""
    a = torch.randn(2048, 2048, device=default_device(), dtype=dtype)
    a @ a
    return 2 * 2048 ** 3 / seconds(lambda: a @ a, 20) / 1e9


def training(loc, batch_size=128):
    """Training from features against the loop of the classic notebooks, at equal batch size and vocabulary."""
    device = default_device()
    encoder = EncoderCNN(512).to(device)
    captions, vocab = read_split(Settings(cocoapi_loc=str(loc)), encoder, 'train')
    vocab_file = str(dataset_cache(loc) / 'vocab-5.pkl')
    classic = classic_loop(loc, vocab_file, batch_size, 3)
    rows = [('captions/s', 'of the classic', 'making the batch', 'GFLOP/s'),
            (f'classic loop, batch {batch_size}: {classic:.1f}', '1', '', '')]
    rates = {}
    for size in (batch_size, 2 * batch_size, 4 * batch_size, 8 * batch_size):
        rate, loading, speed = feature_rate(bare_run(Settings(batch_size=size), captions, len(vocab)))
        rates[size] = rate
        rows.append((f'from features, batch {size}: {rate:.0f}', f'{rate / classic:.0f} times', f'{loading:.1%}',
                     f'{speed:.0f}'))
    table(rows)
    print(f'  large matrix products: {matrix_speed(fast_dtype(device)):.0f} GFLOP/s in {fast_dtype(device)}, '
          f'{matrix_speed(torch.float32):.0f} in float32')
    per_image = seconds_per_image(loc, fast_dtype(device)), seconds_per_image(loc, torch.float32)
    images, count = len(captions.rows), len(captions.indices)
    for what, own in zip((fast_dtype(device), torch.float32), per_image, strict=True):
        first = images * own + count / rates[batch_size]
        print(f'  first epoch of {count:,} captions, {images:,} images encoded in {what}: {first:.0f} s, '
              f'{count / classic / first:.1f} times faster than the classic one ({count / classic:.0f} s)')
    profile(bare_run(Settings(batch_size=batch_size), captions, len(vocab)))


def profile(run):
    """What a step from features is made of: the operations that take most of its time."""
    batches = [run.sampler.whole(batch) for batch in range(20)]
    train_step(run, batches[0], None, batches[0])
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * (
        run.device.type == 'cuda')
    with torch.profiler.profile(activities=activities) as found:
        for batch in batches:
            train_step(run, batch, None, batch)
    took = 'self_device_time_total' if run.device.type == 'cuda' else 'self_cpu_time_total'
    entries = sorted(found.key_averages(), key=lambda entry: -getattr(entry, took))
    total = sum(getattr(entry, took) for entry in entries)
    print('  a step is ' + ', '.join(f'{entry.key.removeprefix("aten::")} {getattr(entry, took) / total:.0%}'
                                     for entry in entries[:8]))


def coco(_):
    """Training from features at COCO's sizes, made up: seconds an epoch."""
    captions = made_up_captions(COCO_CAPTIONS, COCO_IMAGES, COCO_WORDS)
    rows = [('batch', 'captions/s', 'seconds an epoch', 'making the batch', 'GFLOP/s')]
    for size in (128, 512, 2048):
        rate, loading, speed = feature_rate(bare_run(Settings(batch_size=size), captions, COCO_WORDS), 12)
        rows.append((size, f'{rate:.0f}', f'{COCO_CAPTIONS / rate:.1f}', f'{loading:.1%}', f'{speed:.0f}'))
    table(rows)


# ---- How captions are arranged into batches ----

class ListedBatches(EpochSampler):
    """Batches that `arrange(random, captions, batch_size)` lists for each epoch, in random order."""

    def __init__(self, arrange, captions, batch_size, seed):
        self.arrange, self.captions, self.batch_size = arrange, captions, batch_size
        super().__init__(captions.indices, batch_size, seed)

    def set_epoch(self, epoch, batch=0):
        super().set_epoch(epoch, batch)
        random = np.random.default_rng([self.seed, epoch])
        listed = self.arrange(random, self.captions, self.batch_size)
        self.listed, self.batches = [listed[i] for i in random.permutation(len(listed))], len(listed)

    def whole(self, batch):
        return self.listed[batch]

    def bounds(self, batch):
        before = sum(map(len, self.listed[:batch]))
        return before, before + len(self.whole(batch))


def one_length(random, captions, batch_size):
    """Captions of a batch are all of one length, as in the notebooks of the course."""
    order = random.permutation(captions.indices)
    own = [order[captions.lengths[order] == length] for length in np.unique(captions.lengths[order])]
    return [part[start:start + batch_size] for part in own for start in range(0, len(part), batch_size)]


def sorted_pools(random, captions, batch_size, pool=8):
    """Eight batches at a time are sorted by length together."""
    order, size = random.permutation(captions.indices), batch_size * pool
    own = [part[np.argsort(captions.lengths[part], kind='stable')] for start in range(0, len(order), size)
           for part in [order[start:start + size]]]
    return [part[start:start + batch_size] for part in own for start in range(0, len(part), batch_size)]


def batching(loc, epochs=4, seeds=3):
    """Arrangements of captions into batches: padding, speed, and validation after four epochs, means of three seeds.

    Loss in nats per word; CIDEr x100, greedy (and in brackets of each seed) and with a beam of 3. Not among the parts
    that run by default: half an hour on two cores. Its runs are in runs/batching-*.
    """
    rows = [('arrangement', 'padding', 'captions/s', 'loss', 'CIDEr greedy', 'CIDEr beam 3')]
    for name, groups, arrange in (('random', 1, None), ('random, 4 groups', 4, None), ('sorted pools', 1, sorted_pools),
                                  ('one length', 1, one_length)):
        best, rates, losses, beams = [], [], [], []
        for seed in range(seeds):
            run = open_run(Settings(name=f'batching-{name.replace(", ", "-").replace(" ", "-")}', cocoapi_loc=str(loc),
                                    seed=seed, epochs=epochs, length_groups=groups))
            if arrange:
                run.sampler = ListedBatches(arrange, run.train, run.settings.batch_size, seed)
            while not run.finished:
                finish_epoch(run, train_one_epoch(run), validate(run))
            best.append(100 * max(line['CIDEr'] for line in run.log))
            losses.append(run.log[-1]['val_loss'])
            rates += [line['captions_per_second'] for line in run.log]
            captioner = load_captioner(run.folder / 'best.pt', run.device)
            beams.append(100 * score(caption_validation(run, captioner, beam_size=3), run.references)['CIDEr'])
        run.sampler.set_epoch(0)
        shares = [run.train.lengths[whole[own]] for whole in map(run.sampler.whole, range(run.sampler.batches))
                  for own in by_length(run.train.lengths[whole], groups)]
        padding = 1 - sum(own.sum() for own in shares) / sum(len(own) * own.max() for own in shares)
        seen = ', '.join(f'{cider:.1f}' for cider in best)
        rows.append((name, f'{padding:.0%}', f'{np.median(rates):.0f}', f'{np.mean(losses):.3f}',
                     f'{np.mean(best):.1f} ({seen})', f'{np.mean(beams):.1f}'))
    table(rows)


# ---- Encoder ----

def seconds_per_image(loc, dtype, count=64):
    """Seconds to get the feature of a photo: decoding, transform and encoder."""
    encoder, device = EncoderCNN(4).to(default_device()), default_device()
    transform = make_transform(**encoder.transform)
    paths = sorted(image_folder(loc, 'train').iterdir())[:count]

    def work():
        batch = torch.stack([transform(load_image(path)) for path in paths])
        encode(encoder.backbone, batch.to(device), dtype)

    work()
    return seconds(work, 2) / len(paths)


def encoder(loc):
    """Images/s of the encoder in each precision and memory layout, and the share that reading photos takes."""
    device = default_device()
    rows, best = [('precision', 'layout', 'images/s')], 0
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            backbone = EncoderCNN(4).backbone.to(device).eval().to(memory_format=layout)
            images = torch.randn(32, 3, 224, 224, device=device).to(memory_format=layout)

            @torch.no_grad()
            def forward(backbone=backbone, images=images, dtype=dtype):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    backbone(images)

            forward()
            rate = 32 / seconds(forward, 3)
            best = max(best, rate)
            rows.append((str(dtype)[6:], str(layout)[6:], f'{rate:.1f}'))
    table(rows)
    paths = sorted(image_folder(loc, 'train').iterdir())[:128]
    transform = make_transform(**EncoderCNN(4).transform)
    reading = seconds(lambda: [transform(load_image(path)) for path in paths]) / len(paths)
    print(f'  reading a photo takes {1000 * reading:.1f} ms, {reading / (reading + 1 / best):.0%} of reading and '
          f'encoding it at {best:.1f} images/s')
    if device.type == 'cuda':
        resident_encoder(device)


def resident_encoder(device):
    """COCO's images as uint8 in GPU memory, resized there: seconds for all of them."""
    batch_size = 256    # encoded again and again
    photos = torch.randint(256, (batch_size, 3, 480, 640), dtype=torch.uint8, device=device)
    encoder = EncoderCNN(4).to(device).eval()
    mean, std = (torch.tensor(encoder.transform[key], device=device)[:, None, None] for key in ('mean', 'std'))

    def work():
        images = nn.functional.interpolate(photos.float() / 255, (224, 224), mode='bilinear', antialias=True)
        encode(encoder.backbone, (images - mean) / std, fast_dtype(device))

    work()
    print(f'  {COCO_IMAGES:,} images of 640x480 in GPU memory, resized there: '
          f'{seconds(work, 10) * COCO_IMAGES / batch_size:.1f} s')


# ---- Decoding ----

def decoding(loc, images=1000):
    """Images/s of the decoding methods, by the newest run on this data, or random weights whose captions hardly end."""
    device, features = default_device(), torch.randn(images, 2048)
    try:
        captioner = load_captioner(latest_checkpoint(loc), device)
        found, unreadable, _ = split_features(captioner.encoder, loc, 'val', limit=images)
        found = torch.from_numpy(np.delete(found, unreadable, axis=0)).float()
        features = found[torch.arange(images) % len(found)]
    except FileNotFoundError:
        torch.manual_seed(0)
        vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', *map(str, range(3_000))])
        encoder = EncoderCNN(512)
        captioner = Captioner(encoder, DecoderRNN(512, 512, len(vocab)), vocab, encoder.transform, device)
    photos = torch.randn(32, 3, *[captioner.encoder.transform['size']] * 2, device=device)
    encode(captioner.encoder.backbone, photos, fast_dtype(device))
    encoding = seconds(lambda: encode(captioner.encoder.backbone, photos, fast_dtype(device)), 4) * images / 32
    rows, first = [('method', 'images/s', 'times greedy', 'of the encoder')], None
    for name, method, options in [('greedy', greedy, {}), ('sampling', sample, {'nucleus': 0.9}), *(
            (f'beam {size}', beam_search, {'beam_size': size}) for size in (1, 3, 5, 10))]:
        captioner.decode(features[:256], method, **options)
        took = seconds(lambda method=method, options=options: captioner.decode(features, method, **options), 3)
        first = first or took
        rows.append((name, f'{images / took:.0f}', f'{took / first:.1f}', f'{took / encoding:.1%}'))
    table(rows)
    print(f'  {images:,} images, decoder with image={captioner.decoder.image!r}; the encoder takes {encoding:.1f} s, '
          f'{images / encoding:.0f} images/s')


def validation_photos(loc, images):
    """Ids and paths of the first validation images."""
    entries = read_annotations(annotation_file(loc, 'val'))['images'][:images]
    return [entry['id'] for entry in entries], [image_folder(loc, 'val') / entry['file_name'] for entry in entries]


def photos(loc, images=1000, beam_sizes=(1, 3, 5)):
    """Captioning photos as scripts.sample does, with the captioner that ships, beside the bare encoder."""
    captioner, (_, paths) = load_captioner(), validation_photos(loc, images)
    batch = torch.randn(32, 3, *[captioner.encoder.transform['size']] * 2, device=captioner.device)

    def bare():
        return seconds(lambda: encode(captioner.encoder.backbone, batch, captioner.dtype)) / len(batch)

    rows = [('beam', 'photos/s', 'bare encoder, images/s', 'share')]
    for size in beam_sizes:
        list(caption_photos(captioner, paths[:64], size))
        encoding, took = [], 0
        for first in range(0, len(paths), 32):    # by turns, for the speed of a machine drifts
            encoding.append(bare())
            some = paths[first:first + 32]
            took += seconds(lambda some=some, size=size: list(caption_photos(captioner, some, size)))
        speed, bare_speed = len(paths) / took, 1 / np.mean(encoding)
        rows.append((str(size), f'{speed:.1f}', f'{bare_speed:.1f}', f'{speed / bare_speed:.2f}'))
    table(rows)


def precision(loc, images=1000, beam_sizes=(1, 3)):
    """Photos captioned in float32 and in what is used otherwise, on the CPU and on a GPU: how many captions differ."""
    ids, paths = validation_photos(loc, images)
    references = References(annotation_file(loc, 'val'), image_ids=ids)
    rows = [('beam', 'computed in', 'other captions than the first line', 'CIDEr x100')]
    for size in beam_sizes:
        first = None
        for device in dict.fromkeys(('cpu', default_device().type)):
            captioner = load_captioner(device=device)
            for dtype in dict.fromkeys((torch.float32, captioner.dtype)):
                captioner.dtype = dtype
                found = {path: told[0]['caption'] for path, told, _ in caption_photos(captioner, paths, size)}
                first = first or found
                results = [{'image_id': own, 'caption': found[path]} for own, path in zip(ids, paths, strict=True)]
                rows.append((str(size), f'{str(dtype).removeprefix("torch.")}, {device}',
                             f'{np.mean([found[path] != first[path] for path in paths]):.1%}',
                             f'{100 * score(results, references)["CIDEr"]:.1f}'))
    table(rows)


# ---- Models ----

def models(loc, epochs=3, beam_sizes=(1, 3, 5, 10), images=('first', 'state', 'every', 'attention')):
    """Where the image enters the LSTM, words tied or not, beam sizes: validation after three epochs.

    Scores x100 with 95 % intervals over images. Not among the parts that run by default: half an hour on two cores.
    Its runs are in runs/models-*.
    """
    scores, rows = {'BLEU-4': [], 'CIDEr': [], 'images/s': []}, []
    for image in images:
        for tied in (False, True):
            name = f'{image}{", tied" * tied}'
            run = open_run(Settings(name='models-' + name.replace(', ', '-'), cocoapi_loc=str(loc), epochs=epochs,
                                    image=image, tied=tied))
            while not run.finished:
                finish_epoch(run, train_one_epoch(run), validate(run))
            final_scores(run)
            captioner, weights = load_captioner(run.folder / 'best.pt', run.device), sum(
                p.numel() for p in run.parameters)
            for own in scores.values():
                own.append([name])
            for size in beam_sizes:
                start = time.perf_counter()
                results = caption_validation(run, captioner, size)
                scores['images/s'][-1].append(f'{len(results) / (time.perf_counter() - start):.0f}')
                found = score(results, run.references, draws=1000)
                for what in ('BLEU-4', 'CIDEr'):
                    low, high = found['intervals'][what]
                    scores[what][-1].append(f'{100 * found[what]:.1f} [{100 * low:.1f}, {100 * high:.1f}]')
            rows.append((name, f'{weights / 1e6:.1f}', f'{run.log[-1]["val_loss"]:.3f}',
                         f'{np.median([line["captions_per_second"] for line in run.log]):.0f}'))
    table([('image', 'trained weights, millions', 'loss, nats per word', 'captions/s in training'), *rows])
    for what, own in scores.items():
        print(f'\n  {what}')
        table([('image', *(f'beam {size}' if size > 1 else 'greedy' for size in beam_sizes)), *own])


# ---- Data ----

def made_up_captions(count, images, words, features=2048):
    """Captions of random words, as long as COCO's (11 words on average), with random features."""
    random = np.random.default_rng(0)
    lengths = 2 + np.clip(random.gamma(4, 1.1, count) + 6.5, 5, 50).astype(int)
    ids = torch.from_numpy(random.integers(3, words, (count, int(lengths.max())), np.int32))
    ids[:, 0] = 0
    ids[torch.arange(ids.shape[1]) >= torch.from_numpy(lengths)[:, None] - 1] = 1
    return Captions(torch.rand(images, features, dtype=torch.float16), random.integers(images, size=count), ids,
                    lengths, np.ones(images, bool))


def sampler_cost(count, batch_size=128):
    """Microseconds a batch that the sampler takes over one epoch, its shuffling included."""
    sampler = EpochSampler(np.arange(count), batch_size)
    return seconds(lambda: [None for _ in sampler]) / len(sampler) * 1e6


def sampler(_):
    """The sampler's own cost at COCO's size."""
    for size in (128, 512):
        cost = sampler_cost(COCO_CAPTIONS, size)
        print(f'  {COCO_CAPTIONS:,} captions, batch {size}: {cost:.1f} microseconds a batch')


def write_made_up(folder, images, captions):
    """A captions file of COCO's shape and size, with words as frequent as in a language (Zipf)."""
    random = np.random.default_rng(0)
    words = np.array([f'word{number}' for number in range(28_000)])
    lengths = np.clip(random.gamma(4, 1.1, captions) + 5.5, 5, 50).astype(int)
    drawn = iter(words[np.minimum(random.zipf(1.3, lengths.sum()), len(words)) - 1].tolist())
    file = annotation_file(folder, 'train')
    for path in (file.parent, image_folder(folder, 'train')):
        path.mkdir(parents=True)
    file.write_text(json.dumps({
        'images': [{'id': number, 'file_name': f'COCO_train2014_{number:012}.jpg'} for number in range(images)],
        'annotations': [{'id': number, 'image_id': number % images,
                         'caption': ' '.join(next(drawn) for _ in range(length)).capitalize() + '.'}
                        for number, length in enumerate(lengths.tolist())]}))


def start(folder):
    """Seconds from the captions file to tensors ready for training: vocabulary, data set, table of ids."""
    begin = time.perf_counter()
    file = str(annotation_file(folder, 'train'))
    vocab = Vocabulary(5, str(Path(folder) / 'vocab.pkl'), annotations_file=file)
    dataset = CoCoDataset(None, 'train', 128, vocab, file, image_folder(folder, 'train'), str(folder))
    Captions.of_split(dataset, np.zeros((1, 1), np.float16))
    return time.perf_counter() - begin


def startup(_):
    """Start-up at COCO's size, from the captions file to tensors ready for training."""
    with tempfile.TemporaryDirectory() as folder:
        write_made_up(folder, COCO_IMAGES, COCO_CAPTIONS)
        for what in ('cold (captions are split into words)', 'warm (words are kept)'):
            took, memory = in_own_process(start, folder)
            print(f'  {what}: {took:.1f} s, peak memory {memory:.2f} GB')


def growth(_):
    """How time grows from 1,000 to 1,000,000 captions."""
    rows = [('captions', 'cold start, s', 'warm start, s', 'sampler, microseconds a batch', 'peak memory, GB')]
    for count in (1_000, 10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            write_made_up(folder, max(1, count // 5), count)
            cold, (warm, memory) = start(folder), in_own_process(start, folder)
        rows.append((f'{count:,}', f'{cold:.2f}', f'{warm:.2f}', f'{sampler_cost(count):.1f}', f'{memory:.2f}'))
    table(rows)


# ---- The command ----

def in_own_process(function, *args):
    """Call a function in a fresh process -> (what it returns, peak memory in GB)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_with_memory, function, args).result()


def _with_memory(function, args):
    answer, status = function(*args), Path('/proc/self/status')
    if status.exists():    # Linux, where ru_maxrss includes what the process that started this one once took
        return answer, int(status.read_text().split('VmHWM:')[1].split()[0]) / 2 ** 20
    return answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 30    # macOS counts bytes


PARTS = {part.__name__: part for part in (training, coco, encoder, decoding, photos, precision, sampler, startup,
                                          growth, batching, models)}
LONG = ('batching', 'models')    # hours together


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=PARTS, default=[name for name in PARTS if name not in LONG],
                        help=f'parts (default: all but {" and ".join(LONG)}, which train for half an hour and more)')
    parser.add_argument('--cocoapi-loc', help='folder that holds cocoapi/ (default: as the notebooks)')
    args = parser.parse_args()
    loc = prepare_data(args.cocoapi_loc)
    print(f'on {default_device()}, {torch.get_num_threads()} threads, torch {torch.__version__}')
    for name in args.only:
        print(f'{name}: {PARTS[name].__doc__.splitlines()[0]}', flush=True)
        begin = time.perf_counter()
        _, memory = in_own_process(PARTS[name], loc)
        print(f'  peak memory {memory:.2f} GB; {time.perf_counter() - begin:.0f} s\n', flush=True)


if __name__ == '__main__':
    run_main(main)
