"""Figures that the notebooks share. Each returns a matplotlib figure; a notebook shows it, a script saves it.

    figure = show_images(paths, captions)
    python -m scripts.plots images      # the pictures of the README: the diagram, scenes, photos with captions
"""

import argparse
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from data_loader import ROOT, SCENES, image_folder, load_image
from scripts import run_main, write_aside

GRACE_HOPPER = Path(matplotlib.get_data_path()) / 'sample_data' / 'grace_hopper.jpg'    # in the public domain
BLUE, ORANGE, GREEN, GREY = '#3b6fb6', '#e08214', '#4d9a4d', '#777777'
matplotlib.rcParams.update({'axes.spines.top': False, 'axes.spines.right': False, 'figure.dpi': 80,
                            'savefig.bbox': 'tight', 'font.size': 10})


def show_images(images, texts, columns=4, width=2.9, title=None, colours=None):
    """Pictures (paths or PIL images) in a grid, `width` inches each, a text under each; long lines are wrapped.

    A file that cannot be read is shown as a grey square: a page of pictures should not fail for one of them.
    """
    texts = ['\n'.join(textwrap.fill(line, round(13 * width)) for line in text.split('\n')) for text in texts]
    rows, columns = -(-len(images) // columns), min(columns, len(images))
    picture_height, top = 0.85 * width, 0.4 if title else 0.05                               # inches, as all below
    row_height = picture_height + 0.16 * max(text.count('\n') + 1 for text in texts) + 0.25
    total_width, total_height = width * columns, row_height * rows + top
    figure = Figure(figsize=(total_width, total_height))
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, upper = i % columns * width, total_height - top - i // columns * row_height
        axis = figure.add_axes(((left + 0.08) / total_width, (upper - picture_height) / total_height,
                                (width - 0.16) / total_width, picture_height / total_height))
        axis.imshow(image if isinstance(image, Image.Image) else _load_or_grey(image))
        axis.axis('off')
        axis.set_anchor('NW')
        figure.text((left + 0.08) / total_width, (upper - picture_height - 0.06) / total_height, text, va='top',
                    fontsize=9, color=colours[i] if colours else 'black')
    if title:
        figure.text(0.5, 1 - 0.1 / total_height, title, ha='center', va='top', fontweight='bold')
    return figure


def _load_or_grey(path):
    try:
        return load_image(path)
    except OSError:
        return Image.new('RGB', (224, 224), 'lightgrey')


def plot_lengths(lengths):
    """Histogram of caption lengths in words."""
    figure = Figure(figsize=(7, 2.6), layout='constrained')
    axis = figure.subplots()
    counts = Counter(lengths)
    axis.bar(counts.keys(), counts.values(), color=BLUE)
    axis.axvline(np.mean(lengths), color=ORANGE, label=f'mean {np.mean(lengths):.1f}')
    axis.set(xlabel='words in a caption, punctuation included', ylabel='captions')
    axis.legend(frameon=False)
    return figure


def plot_coverage(counts, thresholds):
    """Word frequency by rank, and the share of all tokens that a vocabulary covers. counts: how often each word is."""
    ordered = np.sort(np.asarray(counts))[::-1]
    figure = Figure(figsize=(9, 2.8), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.loglog(np.arange(1, len(ordered) + 1), ordered, color=BLUE)
    left.set(xlabel='rank of the word', ylabel='occurrences')
    right.plot(np.arange(1, len(ordered) + 1), 100 * np.cumsum(ordered) / ordered.sum(), color=BLUE)
    sizes = {}
    for threshold in thresholds:
        sizes.setdefault(int((ordered >= threshold).sum()), []).append(str(threshold))
    for (size, own), colour in zip(sizes.items(), (ORANGE, GREEN, GREY), strict=False):
        covered = 100 * ordered[:size].sum() / ordered.sum()
        label = f'threshold {", ".join(own)}: {size:,} words, {covered:.1f} %'
        right.plot(size, covered, 'o', color=colour, label=label)
    right.legend(frameon=False, loc='lower right', fontsize=8)
    right.set(xscale='log', xlabel='words in the vocabulary', ylabel='tokens covered, %')
    return figure


def plot_curves(log):
    """The learning curve: loss per word in training and validation, and scores of validation captions, by epoch."""
    epochs = [line['epoch'] for line in log]
    figure = Figure(figsize=(9, 3), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [line['train_loss'] for line in log], 'o-', color=GREY, ms=3, label='training (with dropout)')
    left.plot(epochs, [line['val_loss'] for line in log], 'o-', color=BLUE, ms=3, label='validation')
    left.set(xlabel='epoch', ylabel='loss, nats per word')
    for name, colour in (('CIDEr', ORANGE), ('BLEU-4', GREEN), ('ROUGE-L', GREY)):
        right.plot(epochs, [100 * line[name] for line in log], 'o-', color=colour, ms=3, label=name)
    right.set(xlabel='epoch', ylabel='score of greedy captions, x100', ylim=(0, None))
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_runs(logs):
    """Learning curves of several runs, {name: log}: validation loss and CIDEr by epoch; the last one stands out."""
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    left, right = figure.subplots(1, 2)
    for number, (name, log) in enumerate(logs.items()):
        last = number == len(logs) - 1
        style = {'color': ORANGE if last else matplotlib.colormaps['viridis'](0.85 * number / len(logs)),
                 'lw': 2 if last else 1, 'ms': 3, 'marker': 'o', 'label': name}
        epochs = [line['epoch'] for line in log]
        left.plot(epochs, [line['val_loss'] for line in log], **style)
        right.plot(epochs, [100 * line['CIDEr'] for line in log], **style)
    left.set(xlabel='epoch', ylabel='validation loss, nats per word')
    right.set(xlabel='epoch', ylabel='CIDEr of greedy captions, x100', ylim=(0, None))
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*right.get_legend_handles_labels(), loc='outside lower center', frameon=False, ncols=5, fontsize=8)
    return figure


def plot_likeliest_words(steps, words):
    """The likeliest words at each step. steps: lists of (id, probability), best first; words: {id: word}."""
    figure = Figure(figsize=(1.05 * len(steps) + 0.6, 2.4), layout='constrained')
    axis = figure.subplots()
    chances = np.array([[chance for _, chance in step] for step in steps]).T                # (top, steps)
    axis.imshow(chances, cmap='Blues', vmin=0, vmax=1.2, aspect='auto')
    for column, step in enumerate(steps):
        for row, (idx, chance) in enumerate(step):
            axis.text(column, row, f'{words[idx]}\n{chance:.0%}', ha='center', va='center', fontsize=8,
                      fontweight='bold' if row == 0 else 'normal', color='white' if chance > 0.6 else 'black')
    axis.set(xticks=range(len(steps)), xticklabels=range(1, len(steps) + 1), yticks=range(len(chances)),
             yticklabels=range(1, len(chances) + 1), xlabel='step', ylabel='rank')
    axis.spines[:].set_visible(False)
    return figure


def plot_attention(image, words, weights):
    """Where the decoder looked for each word. words: T of them; weights: (T, P), P places row by row of a square grid.

    Brightness shows the share of attention, scaled for each word; the largest share is written beside it.
    """
    side = round(weights.shape[1] ** 0.5)
    columns = min(6, len(words) + 1)
    rows = -(-(len(words) + 1) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows), layout='constrained')
    axes = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    picture = image.convert('RGB').resize((224, 224))
    for axis in axes:
        axis.axis('off')
    axes[0].imshow(picture)
    for axis, word, own in zip(axes[1:], words, np.asarray(weights), strict=False):
        share = Image.fromarray((own / own.max()).reshape(side, side).astype(np.float32))
        share = np.asarray(share.resize((224, 224), Image.Resampling.BICUBIC)).clip(0, 1)[:, :, None]
        axis.imshow((np.asarray(picture) * (0.25 + 0.75 * share)).astype(np.uint8))
        axis.set_title(f'{word}  {own.max():.0%}', fontsize=9)
    return figure


def plot_trade(points, xlabel, ylabel):
    """Points with names, {name: (x, y)}, joined in their order: what more of x brings of y."""
    figure = Figure(figsize=(6, 2.8), layout='constrained')
    axis = figure.subplots()
    axis.plot(*zip(*points.values(), strict=True), 'o-', color=BLUE, ms=5)
    for name, point in points.items():
        axis.annotate(name, point, xytext=(6, -10), textcoords='offset points', fontsize=9)
    axis.margins(x=0.12, y=0.2)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def plot_transform(image, transform, mean, std):
    """A photo before and after the transform, the latter turned back to colours."""
    after = transform(image).permute(1, 2, 0).numpy() * np.array(std) + np.array(mean)
    figure = Figure(figsize=(6.5, 3.2), layout='constrained')
    for axis, picture, name in zip(figure.subplots(1, 2), (np.asarray(image), after.clip(0, 1)),
                                   ('as in the file', 'as the encoder sees it'), strict=True):
        axis.imshow(picture)
        axis.set_title(f'{name}: {picture.shape[0]} x {picture.shape[1]}', fontsize=10)
        axis.axis('off')
    return figure


def plot_model():
    """A diagram of encoder and decoder: one image, one vector, one word after the other."""
    words = ['<start>', 'a', 'dog', 'runs', '.']
    figure = Figure(figsize=(11, 4.1))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 22), ylim=(0, 8.2))
    axis.axis('off')

    def box(x, y, width, height, text, colour):
        axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle='round,pad=0.04,rounding_size=0.15',
                                      facecolor=colour + '26', edgecolor=colour, linewidth=1.5))
        axis.text(x + width / 2, y + height / 2, text, ha='center', va='center', fontsize=10)

    def arrow(start, end, style='-'):
        axis.annotate('', end, start, arrowprops={'arrowstyle': '->', 'color': GREY, 'linewidth': 1.3, 'ls': style})

    for x, text, note, colour in ((0.4, 'image', '(3, 224, 224)', GREY), (3.2, 'ResNet-50\nfrozen', '(2048,)', BLUE),
                                  (6.0, 'linear\ntrained', '(512,)', ORANGE)):
        box(x, 3.2, 2, 1.5, text, colour)
        axis.text(x + 1, 2.75, note, ha='center', fontsize=8, color=GREY)
        arrow((x + 2.05, 3.95), (x + 2.75, 3.95))
    axis.text(4.2, 5.3, 'EncoderCNN', ha='center', fontweight='bold', color=BLUE)
    axis.text(14.9, 7.75, 'DecoderRNN', ha='center', fontweight='bold', color=ORANGE)
    for i, word in enumerate(['image', *words]):
        x = 8.9 + 2.15 * i
        box(x, 3.2, 1.6, 1.5, 'LSTM', ORANGE)
        if i:
            box(x, 0.5, 1.6, 0.9, word, GREY)
            axis.text(x + 0.8, 1.75, 'embedding', ha='center', va='center', fontsize=8, color=GREY)
            arrow((x + 0.8, 1.95), (x + 0.8, 3.1))
            axis.text(x + 0.8, 2.5, '+', ha='center', va='center', fontsize=11, color=GREY, zorder=3, bbox={
                'boxstyle': 'circle,pad=0.1', 'facecolor': 'white', 'edgecolor': GREY})
            arrow((x - 0.45, 3.95), (x - 0.1, 3.95))
            arrow((x + 0.8, 4.8), (x + 0.8, 5.4))
            box(x, 5.5, 1.6, 0.8, 'softmax', ORANGE)
            arrow((x + 0.8, 6.35), (x + 0.8, 6.75))
            axis.text(x + 0.8, 7.0, [*words, '<end>'][i], ha='center', va='center', fontsize=11, fontweight='bold')
            if i < len(words):
                arrow((x + 1.45, 6.8), (x + 2.25, 1.5), ':')
    axis.plot([8.35, 8.35, 8.9 + 2.15 * 5 + 0.8], [3.95, 2.5, 2.5], color=GREY, linewidth=1.3, zorder=1)
    return figure


def contact_sheet(paths, columns=6, size=200):
    """Pictures side by side without text, each `size` pixels wide and high -> PIL image."""
    sheet = Image.new('RGB', (columns * size, -(-len(paths) // columns) * size), 'white')
    for i, path in enumerate(paths):
        picture = load_image(path).resize((size, size), Image.Resampling.LANCZOS)
        sheet.paste(picture, (i % columns * size, i // columns * size))
    return sheet


def save_figure(figure, path):
    """Write a figure, aside and renamed, in the format that the path's ending names."""
    with write_aside(path) as aside:
        figure.savefig(aside, format=Path(path).suffix[1:], dpi=110)


def main():
    from scripts.checkpoint import load_captioner  # here, because no figure needs a model
    parser = argparse.ArgumentParser(description='Draw the pictures of the README, from data/scenes and images/photos.')
    parser.add_argument('folder', help='where model.png, scenes.jpg and own_photos.jpg go')
    folder = Path(parser.parse_args().folder)
    save_figure(plot_model(), folder / 'model.png')
    with write_aside(folder / 'scenes.jpg') as aside:
        contact_sheet(sorted(image_folder(SCENES, 'val').iterdir())[:24]).save(aside, 'JPEG', quality=88)
    photos = [*sorted((ROOT / 'images' / 'photos').iterdir()), GRACE_HOPPER]
    captions = load_captioner().caption(photos, beam_size=5)
    save_figure(show_images(photos, captions, columns=3, width=2.6), folder / 'own_photos.jpg')


if __name__ == '__main__':
    run_main(main)
