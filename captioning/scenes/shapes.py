"""The drawing language: lines such as 'oval main 50,50 20,10; again 25' -> outlines to paint.

    from captioning.scenes.shapes import shapes
    shapes(KINDS['boat'].drawing)       # [Shape(paint='sienna', width=4.0, points=[...]), ...]

The language is explained at the top of drawings.toml.
"""

import functools
import math
from typing import NamedTuple

from captioning.scenes.catalogue import KINDS, PARTS

SHARP, ROUND = 0.06, 0.25    # the share of an edge that is cut off at each of its ends
ANGLES = [step * math.pi / 4 for step in range(8)]
OCTAGON = [(1.08 * math.cos(angle), 1.08 * math.sin(angle)) for angle in ANGLES]


class Shape(NamedTuple):
    """A shape to paint.

    paint: name of its colour in the language. width: of a line, 0 for a filled shape. points: list
    of (x, y) on the grid of the drawing.
    """

    paint: str
    width: float
    points: list


@functools.cache
def shapes(drawing):
    """Parse a drawing, a tuple of lines -> list of Shape, the rearmost first.

    ValueError quotes a line that is not of the language.
    """
    parsed = []
    for line in drawing:
        try:
            parsed += _line_shapes(line)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"'{line}' cannot be drawn ({error}): the top of drawings.toml "
                             'explains what can.') from error
    return parsed


def _line_shapes(line):
    """The shapes of one line, with its repetitions."""
    figure, _, repetition = line.partition(';')
    once = _figure_shapes(figure)
    result = list(once)
    for factor, shift in _repetitions(repetition.split()):
        for paint, width, points in once:
            result.append(Shape(paint, width, [(factor * x + shift, y) for x, y in points]))
    return result


def _repetitions(words):
    """['again', '20', '40'] or ['mirrored'] -> list of (factor, shift) of x."""
    if words == ['mirrored']:
        return [(-1, 100)]
    if words and words[0] != 'again':
        raise ValueError(f"expected 'again' or 'mirrored', not '{words[0]}'")
    return [(1, int(shift)) for shift in words[1:]]


def _figure_shapes(figure):
    """The shapes of one line without its repetitions: one, or those of a part."""
    name, paint, *words = figure.split()
    size = float(words.pop(0)) if name in ('line', 'part') else 0
    points = [_point(word) for word in words]
    if name == 'part':
        return _part(paint, size, points[0])
    outline = OUTLINES[name]
    return [Shape(paint, size, outline(points))]


def _point(word):
    x, y = word.split(',')
    return int(x), int(y)


def _part(name, percent, centre):
    """The shapes of another drawing, reduced and moved to its new centre."""
    drawing = PARTS[name] if name in PARTS else KINDS[name].drawing
    centre_x, centre_y = centre

    def place(point):
        x, y = point
        return centre_x + (x - 50) * percent / 100, centre_y + (y - 50) * percent / 100

    return [Shape(paint, width * percent / 100, list(map(place, points)))
            for paint, width, points in shapes(drawing)]


def _oval(points):
    (x, y), (across, up) = points
    return _rounded([(x + across * dx, y + up * dy) for dx, dy in OCTAGON], ROUND)


def _box(points):
    (x1, y1), (x2, y2) = points
    return _rounded([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], SHARP)


def _polygon(points):
    return _rounded(points, SHARP)


def _blob(points):
    return _rounded(points, ROUND)


def _line(points):
    for _ in range(3):
        cut = _cut_corners(points, points[1:], ROUND)
        points = [points[0], *cut[1:-1], points[-1]]    # its ends stay where they are
    return points


OUTLINES = {'oval': _oval, 'box': _box, 'polygon': _polygon, 'blob': _blob, 'line': _line}


def _rounded(points, share):
    for _ in range(3):
        points = _cut_corners(points, points[1:] + points[:1], share)
    return points


def _cut_corners(starts, ends, share):
    """Replace each edge by two points on it, at `share` of its length from either end.

    Done again and again it tends to a smooth curve (Chaikin 1974, An algorithm for high-speed
    curve generation).
    """
    points = []
    for (x1, y1), (x2, y2) in zip(starts, ends, strict=False):
        for t in (share, 1 - share):
            points.append((x1 + (x2 - x1) * t, y1 + (y2 - y1) * t))
    return points
