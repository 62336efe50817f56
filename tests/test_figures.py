"""Figures show what they should: looked at as pixels, since a blank one raises nothing."""

import numpy as np
import pytest
from conftest import COLOURS, draw_square
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from captioning import figures
from captioning.attention import show_attention
from captioning.captioner import Captioner
from captioning.diagram import plot_model
from captioning.figures import (
    contact_sheet,
    plot_attention,
    plot_coverage,
    plot_curves,
    plot_lengths,
    plot_likeliest_words,
    plot_runs,
    plot_trade,
    plot_transform,
    save_figure,
    show_images,
)
from captioning.scoring import metrics
from captioning.transforms import make_transform
from model import DecoderRNN, EncoderCNN
from vocabulary import Vocabulary

LOG = [{'epoch': epoch, 'train_loss': 4 - epoch / 2, 'val_loss': 4 - epoch / 3,
        'CIDEr': 0.1 * epoch, 'BLEU-4': 0.05 * epoch, 'ROUGE-L': 0.1 * epoch}
       for epoch in (1, 2, 3)]
HALF, FIFTH = [0.5] * 3, [0.2] * 3      # mean and standard deviation of three channels
STEPS = [[(1, 0.9), (0, 0.1)], [(0, 0.6), (1, 0.2)]]
FIGURES = {
    'lengths': lambda: plot_lengths([5, 6, 6, 7, 9]),
    'coverage': lambda: plot_coverage([100, 30, 5, 1, 1], (1, 5)),
    'curves': lambda: plot_curves(LOG),
    'curves of one epoch': lambda: plot_curves(LOG[:1]),
    'runs': lambda: plot_runs({'one': LOG[:2], 'two': LOG}),
    'model': plot_model,
    'likeliest words': lambda: plot_likeliest_words(STEPS, {0: 'a', 1: 'dog'}),
    'attention': lambda: plot_attention(
        Image.new('RGB', (50, 40), 'red'), list('abcdefgh'), np.random.rand(8, 9)),
    'attention of one word': lambda: plot_attention(
        Image.new('L', (50, 40), 'grey'), ['a'], np.ones((1, 4)) / 4),
    'trade': lambda: plot_trade(
        {'1': (0.5, 44), '3': (1, 50), '5': (1.6, 50.5)}, 'seconds', 'CIDEr'),
    'transform': lambda: plot_transform(
        Image.new('RGB', (50, 40), 'blue'), make_transform(60, HALF, FIFTH), HALF, FIFTH),
}


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def share(image, colour):
    return (np.abs(image - colour).max(-1) < 12).mean()


@pytest.mark.parametrize(('count', 'columns', 'title'),
                         [(1, 1, None), (3, 4, 'three'), (9, 4, None)])
def test_pictures_fill_their_grid_with_texts_under_them(count, columns, title):
    pictures = [Image.new('RGB', (224, 224), 'red') for _ in range(count)]
    texts = ['a long caption of several words that is wrapped ' * 3] * count
    image = pixels(show_images(pictures, texts, columns, title=title))
    cells = -(-count // columns) * min(columns, count)
    assert share(image, (255, 0, 0)) > 0.3 * count / cells
    last_line = image[-40:].max(-1) < 128
    assert last_line.mean() > 0.002, 'the last line of text lies outside the figure'
    red_rows = (np.abs(image - (255, 0, 0)).max(-1) < 12).any(1)
    assert not red_rows[-30:].any()


def test_an_unreadable_picture_is_a_grey_square(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no picture')
    image = pixels(show_images([tmp_path / 'a.jpg'], ['a'], columns=1))
    assert share(image, (211, 211, 211)) > 0.3


def test_coloured_texts(tmp_path):
    path = tmp_path / 'a.png'
    draw_square(path, 'white')
    image = pixels(show_images([path], ['WWWWWWWWWWWW'], columns=1, colours=['green']))
    assert (image[..., 1] - image[..., 0] > 30).mean() > 0.001


@pytest.mark.parametrize('name', FIGURES)
def test_figures_are_not_blank(name, tmp_path):
    draw = FIGURES[name]
    image = pixels(draw())
    assert (image.min(-1) < 245).mean() > 0.01
    save_figure(draw(), tmp_path / 'figure.png')
    assert Image.open(tmp_path / 'figure.png').width > 300


def test_an_empty_log_draws_empty_axes():
    pixels(plot_curves([]))


def curves_of(axis):
    """{label: values that are drawn}"""
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in axis.lines}


def test_fractions_share_a_panel_and_a_plain_number_has_its_own(monkeypatch):
    monkeypatch.setattr(metrics, 'CURVES', ('CIDEr', 'distinct words', 'BLEU-4'))
    monkeypatch.setattr(figures, 'is_fraction', lambda name: name != 'distinct words')
    log = [{**line, 'distinct words': 100 + line['epoch']} for line in LOG]
    figure = plot_curves(log)
    pixels(figure)
    _, scores, numbers = figure.axes
    assert np.allclose(curves_of(scores)['CIDEr'], [10, 20, 30])
    assert curves_of(scores).keys() == {'CIDEr', 'BLEU-4'}
    assert curves_of(numbers)['distinct words'].tolist() == [101, 102, 103]
    assert 'x100' in scores.get_ylabel() and 'x100' not in numbers.get_ylabel()


def test_a_score_that_older_epochs_lack_begins_later_or_is_left_out():
    log = [{key: value for key, value in line.items()
            if key != 'ROUGE-L' and not (key == 'CIDEr' and line['epoch'] < 3)} for line in LOG]
    figure = plot_curves(log)
    pixels(figure)
    scores = curves_of(figure.axes[1])
    assert scores.keys() == {'CIDEr', 'BLEU-4'}
    assert np.isnan(scores['CIDEr']).tolist() == [True, True, False]


def test_each_run_keeps_its_colour_where_an_older_one_lacks_a_score():
    older = [{key: line[key] for key in ('epoch', 'val_loss')} for line in LOG]
    figure = plot_runs({'older': older, 'newer': LOG}, scores=('CIDEr', 'BLEU-4'))
    pixels(figure)
    _, cider, bleu = figure.axes
    assert 'x100' in bleu.get_ylabel()
    for axis in (cider, bleu):
        assert np.isnan(curves_of(axis)['older']).all()
        assert axis.lines[1].get_color() == figures.ORANGE
    assert np.allclose(curves_of(cider)['newer'], [10, 20, 30])


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def test_attention_is_shown_of_the_greedy_caption_or_of_another(small_weights):
    encoder = EncoderCNN(16, 'resnet18', small_weights, grid=True)
    decoder = DecoderRNN(16, 16, vocab_size=6, image='attention')
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'red', 'square'])
    transform = {'size': 64, 'mean': HALF, 'std': FIFTH}
    captioner = Captioner(encoder, decoder, vocab, transform, 'cpu')
    photo = Image.new('RGB', (50, 40), 'red')
    features = captioner.features([photo])
    greedy, = captioner.decode(features)
    shown = titles(show_attention(captioner, photo))
    assert [title.split()[0] for title in shown] == [vocab.idx2word[i] for i in greedy.ids[1:]]
    assert all(title.endswith('%') for title in shown)
    assert titles(show_attention(captioner, photo, greedy.ids, features)) == shown

    other = [vocab.start_id, 5, 4, 3, vocab.end_id]
    words = [title.split()[0] for title in titles(show_attention(captioner, photo, other))]
    assert words == ['square', 'red', 'a', '<end>']


def test_contact_sheet_places_pictures_in_rows(tmp_path):
    paths = [tmp_path / f'{colour}.png' for colour in COLOURS]
    for path in paths:
        Image.new('RGB', (9, 9), path.stem).save(path)
    sheet = contact_sheet(paths, columns=4, size=20)
    assert sheet.size == (80, 40)
    assert sheet.getpixel((70, 10)) == (255, 255, 0) and sheet.getpixel((30, 30)) == (0, 0, 0)
