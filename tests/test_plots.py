"""Figures show what they should: looked at as pixels, since a blank one raises nothing."""

import numpy as np
import pytest
from conftest import COLOURS, draw_square
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from scripts.features import make_transform
from scripts.plots import (
    contact_sheet,
    plot_attention,
    plot_coverage,
    plot_curves,
    plot_lengths,
    plot_likeliest_words,
    plot_model,
    plot_trade,
    plot_transform,
    save_figure,
    show_images,
)


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def share(image, colour):
    return (np.abs(image - colour).max(-1) < 12).mean()


@pytest.mark.parametrize(('count', 'columns', 'title'), [(1, 1, None), (3, 4, 'three'), (9, 4, None)])
def test_pictures_fill_their_grid_with_texts_under_them(tmp_path, count, columns, title):
    pictures = [Image.new('RGB', (224, 224), 'red') for _ in range(count)]
    image = pixels(show_images(pictures, ['a long caption of several words that is wrapped ' * 3] * count, columns,
                               title=title))
    cells = -(-count // columns) * min(columns, count)
    assert share(image, (255, 0, 0)) > 0.3 * count / cells
    assert (image[-40:].max(-1) < 128).mean() > 0.002    # the last line of text is within the figure
    red_rows = (np.abs(image - (255, 0, 0)).max(-1) < 12).any(1)
    assert not red_rows[-30:].any()


def test_an_unreadable_picture_is_a_grey_square(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no picture')
    assert share(pixels(show_images([tmp_path / 'a.jpg'], ['a'], columns=1)), (211, 211, 211)) > 0.3


def test_coloured_texts(tmp_path):
    path = tmp_path / 'a.png'
    draw_square(path, 'white')
    image = pixels(show_images([path], ['WWWWWWWWWWWW'], columns=1, colours=['green']))
    assert (image[..., 1] - image[..., 0] > 30).mean() > 0.001


LOG = [{'epoch': e, 'train_loss': 4 - e / 2, 'val_loss': 4 - e / 3, 'CIDEr': 0.1 * e, 'BLEU-4': 0.05 * e,
        'ROUGE-L': 0.1 * e} for e in (1, 2, 3)]


@pytest.mark.parametrize('figure', [
    lambda: plot_lengths([5, 6, 6, 7, 9]), lambda: plot_coverage([100, 30, 5, 1, 1], (1, 5)), lambda: plot_curves(LOG),
    lambda: plot_curves(LOG[:1]), plot_model,
    lambda: plot_likeliest_words([[(1, 0.9), (0, 0.1)], [(0, 0.6), (1, 0.2)]], {0: 'a', 1: 'dog'}),
    lambda: plot_attention(Image.new('RGB', (50, 40), 'red'), list('abcdefgh'), np.random.rand(8, 9)),
    lambda: plot_attention(Image.new('L', (50, 40), 'grey'), ['a'], np.ones((1, 4)) / 4),
    lambda: plot_trade({'1': (0.5, 44), '3': (1, 50), '5': (1.6, 50.5)}, 'seconds', 'CIDEr'),
    lambda: plot_transform(Image.new('RGB', (50, 40), 'blue'), make_transform(60, [0.5] * 3, [0.2] * 3), [0.5] * 3,
                           [0.2] * 3)])
def test_figures_are_not_blank(figure, tmp_path):
    image = pixels(figure())
    assert (image.min(-1) < 245).mean() > 0.01
    save_figure(figure(), tmp_path / 'figure.png')
    assert Image.open(tmp_path / 'figure.png').width > 300


def test_an_empty_log_draws_empty_axes():
    pixels(plot_curves([]))


def test_contact_sheet_places_pictures_in_rows(tmp_path):
    paths = [tmp_path / f'{colour}.png' for colour in COLOURS]
    for path in paths:
        Image.new('RGB', (9, 9), path.stem).save(path)
    sheet = contact_sheet(paths, columns=4, size=20)
    assert sheet.size == (80, 40)
    assert sheet.getpixel((70, 10)) == (255, 255, 0) and sheet.getpixel((30, 30)) == (0, 0, 0)
