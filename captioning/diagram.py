"""The diagram of encoder and decoder: one image, one vector, one word after the other.

    figure = plot_model()                                 # a matplotlib figure
"""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from captioning.figures import BLUE, GREY, ORANGE

WORDS = ['<start>', 'a', 'dog', 'runs', '.']
STEP = 2.15                             # from one step of the decoder to the next
FIRST_STEP = 8.9                        # where the decoder begins
MIDDLE = 3.95                           # height of the arrows from layer to layer


def plot_model():
    """Draw the diagram, in units of half an inch -> matplotlib figure."""
    figure = Figure(figsize=(11, 4.1))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 22), ylim=(0, 8.2))
    axis.axis('off')
    _draw_encoder(axis)
    _draw_decoder(axis)
    return figure


def _draw_encoder(axis):
    """Image, backbone and linear layer, the shape of their output under each."""
    layers = (
        (0.4, 'image', '(3, 224, 224)', GREY),
        (3.2, 'ResNet-50\nfrozen', '(2048,)', BLUE),
        (6.0, 'linear\ntrained', '(512,)', ORANGE),
    )
    for x, text, shape, colour in layers:
        _box(axis, x, 3.2, 2, 1.5, text, colour)
        axis.text(x + 1, 2.75, shape, ha='center', fontsize=8, color=GREY)
        _arrow(axis, (x + 2.05, MIDDLE), (x + 2.75, MIDDLE))
    axis.text(4.2, 5.3, 'EncoderCNN', ha='center', fontweight='bold', color=BLUE)


def _draw_decoder(axis):
    """The LSTM, unrolled: it reads the image, then word after word, and scores the next."""
    axis.text(14.9, 7.75, 'DecoderRNN', ha='center', fontweight='bold', color=ORANGE)
    _box(axis, FIRST_STEP, 3.2, 1.6, 1.5, 'LSTM', ORANGE)
    next_words = [*WORDS[1:], '<end>']
    for i, (word, next_word) in enumerate(zip(WORDS, next_words, strict=True)):
        x = FIRST_STEP + STEP * (i + 1)
        _draw_step(axis, x, word, next_word)
        if next_word != '<end>':    # it is what the next step reads
            _arrow(axis, (x + 1.45, 6.8), (x + 2.25, 1.5), ':')

    image_line = [8.35, 8.35, FIRST_STEP + STEP * 5 + 0.8], [MIDDLE, 2.5, 2.5]    # to every step
    axis.plot(*image_line, color=GREY, linewidth=1.3, zorder=1)


def _draw_step(axis, x, word, next_word):
    """One step, from below: word, embedding, plus the image, LSTM, softmax, next word."""
    centre = x + 0.8
    _box(axis, x, 0.5, 1.6, 0.9, word, GREY)
    _label(axis, centre, 1.75, 'embedding', fontsize=8, color=GREY)
    _arrow(axis, (centre, 1.95), (centre, 3.1))
    circle = {'boxstyle': 'circle,pad=0.1', 'facecolor': 'white', 'edgecolor': GREY}
    _label(axis, centre, 2.5, '+', fontsize=11, color=GREY, zorder=3, bbox=circle)

    _arrow(axis, (x - 0.45, MIDDLE), (x - 0.1, MIDDLE))
    _box(axis, x, 3.2, 1.6, 1.5, 'LSTM', ORANGE)
    _arrow(axis, (centre, 4.8), (centre, 5.4))
    _box(axis, x, 5.5, 1.6, 0.8, 'softmax', ORANGE)
    _arrow(axis, (centre, 6.35), (centre, 6.75))
    _label(axis, centre, 7.0, next_word, fontsize=11, fontweight='bold')


def _box(axis, x, y, width, height, text, colour):
    """A box with rounded corners, (x, y) its lower left one, and a text in it."""
    axis.add_patch(FancyBboxPatch(
        (x, y), width, height, boxstyle='round,pad=0.04,rounding_size=0.15',
        facecolor=colour + '26', edgecolor=colour, linewidth=1.5))
    _label(axis, x + width / 2, y + height / 2, text, fontsize=10)


def _label(axis, x, y, text, **style):
    axis.text(x, y, text, ha='center', va='center', **style)


def _arrow(axis, start, end, style='-'):
    line = {'arrowstyle': '->', 'color': GREY, 'linewidth': 1.3, 'ls': style}
    axis.annotate('', end, start, arrowprops=line)
