"""The figures that notebooks and commands share. Each is returned, to be shown or saved.

    figure = show_images(paths, captions)
    save_figure(figure, 'captions.jpg')

Photos with texts come first, then the curves of training, then one caption looked at closely.
"""

import itertools
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from captioning.files import write_aside
from captioning.photos import load_image
from captioning.scoring import metrics
from captioning.scoring.metrics import SELECTION, is_fraction

SAMPLE_DATA = Path(matplotlib.get_data_path()) / 'sample_data'
GRACE_HOPPER = SAMPLE_DATA / 'grace_hopper.jpg'    # in the public domain
BLUE, ORANGE, GREEN, GREY = '#3b6fb6', '#e08214', '#4d9a4d', '#777777'
LEAST_SHOWN = 600                       # pixels of a photo's shorter side that a figure can show
PANEL = 4.5                             # inches, the width of one panel of learning curves
matplotlib.rcParams.update({
    'axes.spines.top': False,
    'axes.spines.right': False,
    'figure.dpi': 80,
    'savefig.bbox': 'tight',
    'font.size': 10,
})


def save_figure(figure, path):
    """Write a figure, aside and renamed, in the format that the path's suffix names."""
    with write_aside(path) as aside:
        figure.savefig(aside, format=Path(path).suffix[1:], dpi=110)


# ---- Photos ----

def show_images(images, texts, columns=4, width=2.9, title=None, colours=None):
    """Photos (paths or PIL images) in a grid, `width` inches each, with a text under each.

    Long lines are wrapped. colours: one for each text. A file that cannot be read is shown as a
    grey square: a page of photos should not fail because of one of them.
    """
    texts = [_wrapped(text, round(13 * width)) for text in texts]
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    lines = max(text.count('\n') + 1 for text in texts)

    photo_height = 0.85 * width                           # all sizes and positions are in inches
    row_height = photo_height + 0.16 * lines + 0.25
    top = 0.4 if title else 0.05
    total_width, total_height = width * columns, row_height * rows + top

    figure = Figure(figsize=(total_width, total_height))
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        left = i % columns * width + 0.08
        upper = total_height - top - i // columns * row_height
        lower = upper - photo_height
        axis = figure.add_axes((left / total_width, lower / total_height,
                                (width - 0.16) / total_width, photo_height / total_height))
        axis.imshow(image if isinstance(image, Image.Image) else _load_or_grey(image))
        axis.axis('off')
        axis.set_anchor('NW')
        colour = colours[i] if colours else 'black'
        figure.text(left / total_width, (lower - 0.06) / total_height, text,
                    va='top', fontsize=9, color=colour)
    if title:
        figure.text(0.5, 1 - 0.1 / total_height, title, ha='center', va='top', fontweight='bold')
    return figure


def _wrapped(text, characters):
    """A text with its long lines broken; the line breaks that it has stay."""
    return '\n'.join(textwrap.fill(line, characters) for line in text.split('\n'))


def _load_or_grey(path):
    try:
        return load_image(path, LEAST_SHOWN)
    except OSError:
        return Image.new('RGB', (224, 224), 'lightgrey')


def contact_sheet(paths, columns=6, size=200):
    """Photos side by side without text, each `size` pixels wide and high -> PIL image."""
    rows = -(-len(paths) // columns)
    sheet = Image.new('RGB', (columns * size, rows * size), 'white')
    for i, path in enumerate(paths):
        photo = load_image(path, 2 * size).resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(photo, (i % columns * size, i // columns * size))
    return sheet


def plot_transform(image, transform, mean, std):
    """A photo before and after a transform, the latter with its normalisation undone.

    transform: PIL image -> tensor (3, height, width). mean, std: of the three channels.
    """
    normalized = transform(image).permute(1, 2, 0).numpy()
    transformed = (normalized * np.array(std) + np.array(mean)).clip(0, 1)
    panels = {'as in the file': np.asarray(image), 'as the encoder sees it': transformed}

    figure = Figure(figsize=(6.5, 3.2), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, (name, pixels) in zip(axes, panels.items(), strict=True):
        height, width = pixels.shape[:2]
        axis.imshow(pixels)
        axis.set_title(f'{name}: {height} x {width}', fontsize=10)
        axis.axis('off')
    return figure


# ---- Data ----

def plot_lengths(lengths):
    """Histogram of caption lengths in words, one for each caption."""
    mean = np.mean(lengths)
    counts = Counter(lengths)
    figure = Figure(figsize=(7, 2.6), layout='constrained')
    axis = figure.subplots()
    axis.bar(counts.keys(), counts.values(), color=BLUE)
    axis.axvline(mean, color=ORANGE, label=f'mean {mean:.1f}')
    axis.set(xlabel='words in a caption, punctuation included', ylabel='captions')
    axis.legend(frameon=False)
    return figure


def plot_coverage(counts, thresholds):
    """Word frequency by rank, and the share of all tokens that a vocabulary covers.

    counts: how often each word occurs. thresholds: the vocabulary of each has the words that occur
    that often, and is marked on the curve.
    """
    counts = np.sort(np.asarray(counts))[::-1]
    ranks = np.arange(1, len(counts) + 1)
    covered = 100 * np.cumsum(counts) / counts.sum()
    figure = Figure(figsize=(9, 2.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.loglog(ranks, counts, color=BLUE)
    left.set(xlabel='rank of the word', ylabel='occurrences')

    right.plot(ranks, covered, color=BLUE)
    marks = zip(_thresholds_by_size(counts, thresholds).items(), (ORANGE, GREEN, GREY),
                strict=False)
    for (size, same_size), colour in marks:
        share = 100 * counts[:size].sum() / counts.sum()
        label = f'threshold {", ".join(same_size)}: {size:,} words, {share:.1f} %'
        right.plot(size, share, 'o', color=colour, label=label)
    right.legend(frameon=False, loc='lower right', fontsize=8)
    right.set(xscale='log', xlabel='words in the vocabulary', ylabel='tokens covered, %')
    return figure


def _thresholds_by_size(counts, thresholds):
    """{words in the vocabulary: the thresholds, as text, that give this size}."""
    sizes = {}
    for threshold in thresholds:
        size = int((counts >= threshold).sum())
        sizes.setdefault(size, []).append(str(threshold))
    return sizes


# ---- Learning curves ----

def plot_curves(log):
    """The learning curve of a run: loss per word, and scores of validation captions, by epoch.

    log: one dict an epoch. The scores are those in metrics.CURVES: fractions share a panel, a plain
    number has its own. One that the log of an older run lacks is left out, or begins later.
    """
    logged = [name for name in metrics.CURVES if not log or any(name in line for line in log)]
    fractions = [name for name in logged if is_fraction(name)]
    numbers = [name for name in logged if not is_fraction(name)]
    score_panels = {'score': fractions} if fractions else {}
    score_panels.update({name: [name] for name in numbers})

    figure, (loss_axis, *score_axes) = _epoch_panels(1 + len(score_panels), height=3)
    _curve(loss_axis, log, 'train_loss', color=GREY, label='training (with dropout)')
    _curve(loss_axis, log, 'val_loss', color=BLUE, label='validation')
    loss_axis.set(ylabel='loss, nats per word')
    for axis, (title, names) in zip(score_axes, score_panels.items(), strict=True):
        for name, colour in zip(names, itertools.cycle((ORANGE, GREEN, GREY, BLUE))):
            _curve(axis, log, name, _scale(name), color=colour, label=name)
        _label_scores(axis, title, is_fraction(names[0]))
    for axis in (loss_axis, *score_axes):
        axis.legend(frameon=False)
    return figure


def plot_runs(logs, scores=(SELECTION,)):
    """Learning curves of several runs: validation loss and scores by epoch; the last stands out.

    logs: {name of the run: its log}. scores: names of metrics, a panel each; a run whose log lacks
    one has no curve there.
    """
    figure, (loss_axis, *score_axes) = _epoch_panels(1 + len(scores), height=3.4)
    for number, (run, log) in enumerate(logs.items()):
        is_last = number == len(logs) - 1
        colour = ORANGE if is_last else matplotlib.colormaps['viridis'](0.85 * number / len(logs))
        style = {'color': colour, 'lw': 2 if is_last else 1, 'label': run}
        _curve(loss_axis, log, 'val_loss', **style)
        for axis, name in zip(score_axes, scores, strict=True):
            _curve(axis, log, name, _scale(name), **style)
    loss_axis.set(ylabel='validation loss, nats per word')
    for axis, name in zip(score_axes, scores, strict=True):
        _label_scores(axis, name, is_fraction(name))
    figure.legend(*loss_axis.get_legend_handles_labels(), loc='outside lower center',
                  frameon=False, ncols=5, fontsize=8)
    return figure


def _epoch_panels(count, height):
    """A figure with panels side by side over epochs -> (figure, axes)."""
    figure = Figure(figsize=(PANEL * count, height), layout='constrained')
    axes = figure.subplots(1, count, sharex=True, squeeze=False)[0]
    for axis in axes:
        axis.set(xlabel='epoch')
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _curve(axis, log, name, scale=1, **style):
    """Draw a loss or score by epoch; there is no point where a line of the log lacks it."""
    epochs = [line['epoch'] for line in log]
    values = [scale * line.get(name, np.nan) for line in log]
    axis.plot(epochs, values, 'o-', ms=3, **style)


def _scale(name):
    return 100 if is_fraction(name) else 1


def _label_scores(axis, title, fraction):
    axis.set_ylabel(f'{title} of greedy captions' + (', x100' if fraction else ''))
    if fraction:    # a plain number may be negative
        axis.set_ylim(bottom=0)


def plot_trade(points, xlabel, ylabel):
    """Named points, {name: (x, y)}, joined in their order: what more of x brings of y."""
    figure = Figure(figsize=(6, 2.8), layout='constrained')
    axis = figure.subplots()
    axis.plot(*zip(*points.values(), strict=True), 'o-', color=BLUE, ms=5)
    for name, point in points.items():
        axis.annotate(name, point, xytext=(6, -10), textcoords='offset points', fontsize=9)
    axis.margins(x=0.12, y=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


# ---- One caption, looked at closely ----

def plot_likeliest_words(steps, words):
    """The likeliest words at each step of a caption.

    steps: for each a list of (id, probability), the likeliest first. words: {id: word}.
    """
    probabilities = np.array([[probability for _, probability in step] for step in steps]).T
    ranks = range(len(probabilities))                     # probabilities: (ranks, steps)
    figure = Figure(figsize=(1.05 * len(steps) + 0.6, 2.4), layout='constrained')
    axis = figure.subplots()
    axis.imshow(probabilities, cmap='Blues', vmin=0, vmax=1.2, aspect='auto')
    for column, step in enumerate(steps):
        for rank, (idx, probability) in enumerate(step):
            weight = 'bold' if rank == 0 else 'normal'
            colour = 'white' if probability > 0.6 else 'black'
            axis.text(column, rank, f'{words[idx]}\n{probability:.0%}', ha='center', va='center',
                      fontsize=8, fontweight=weight, color=colour)
    axis.set_xticks(range(len(steps)), range(1, len(steps) + 1))
    axis.set_yticks(ranks, range(1, len(ranks) + 1))
    axis.set(xlabel='step', ylabel='rank')
    axis.spines[:].set_visible(False)
    return figure


def plot_attention(image, words, weights):
    """Where the decoder looked for each word: the photo, bright where it looked.

    words: T of them. weights: (T, P), P places row by row of a square grid. Brightness is scaled
    for each word; the largest share of attention is written beside the word.
    """
    side = round(weights.shape[1] ** 0.5)
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis('off')

    photo = image.convert('RGB').resize((224, 224))
    axes[0].imshow(photo)
    for axis, word, shares in zip(axes[1:], words, np.asarray(weights), strict=False):
        brightness = 0.25 + 0.75 * _enlarged(shares.reshape(side, side))
        axis.imshow((np.asarray(photo) * brightness).astype(np.uint8))
        # Without y matplotlib would look for room above all ticks, and take twice as long.
        axis.set_title(f'{word}  {shares.max():.0%}', fontsize=9, y=1.0)
    return figure


def _enlarged(shares):
    """Shares of attention on a grid -> (224, 224, 1), smooth, the largest 1."""
    relative = Image.fromarray((shares / shares.max()).astype(np.float32))
    smooth = relative.resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(smooth).clip(0, 1)[:, :, None]      # bicubic goes a little beyond 0 and 1
