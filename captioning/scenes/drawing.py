"""Draw a scene.

    from captioning.scenes import draw_scene, make_scene
    draw_scene(make_scene(0, 'train', 5), 256, random.Random(0)).show()
"""

import functools
import math

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageOps

from captioning.scenes.catalogue import (
    COLOURS,
    COUNTS,
    KINDS,
    PEOPLE,
    PLACES,
    RELATIONS,
    SIZES,
)
from captioning.scenes.shapes import shapes

DETAIL = 4    # pictures are drawn this many times larger and averaged down: edges become smooth
HORIZON = 58    # of the picture: in percent of its side, from the top
BACKDROP_HORIZON = 35    # the y of the grid of backdrops that comes to lie there
SHADOW = (30, 26, 50, 60)    # on the ground: a translucent blue grey
SHADE = (40, 20, 70)    # on the side of a thing that the light does not reach: violet


def draw_scene(scene, size, rng):
    """Draw `scene` -> PIL image, RGB, `size` by `size` pixels.

    All variation comes from `rng`, a random.Random.
    """
    image = _draw_place(scene['place'], size * DETAIL, rng)
    turn = rng.choice((-1, 1))
    middle = rng.uniform(46, 54)
    ground = rng.uniform(-2, 4)
    scale = SIZES[scene['objects'][0]['size']].scale
    for thing, spot in _arrangement(scene['objects']):
        x = middle + turn * spot.x + rng.uniform(-2, 2)
        y = ground + spot.y
        _draw_thing(image, thing, (x, y), spot.size * scale, rng)
    return image.reduce(DETAIL)


def _arrangement(objects):
    """What to draw, the rearmost first -> list of (thing, Spot)."""
    main, *others = objects
    if others:
        spots = RELATIONS[main['relation']].spots
        return list(zip([*others, main], spots, strict=True))
    spots = COUNTS[main['count']].spots
    if KINDS[main['kind']].flies:
        spots = [spot._replace(y=17 + 1.3 * spot.y) for spot in spots]    # up into the sky
    return [(main, spot) for spot in spots]


def _draw_place(name, side, rng):
    """Sky, ground and what is behind the things -> image."""
    image = _sky_and_ground(name, side).copy()
    horizon = _horizon(side)
    flip = rng.choice((-1, 1))
    shift = rng.uniform(-57, -43)
    unit = rng.uniform(1.15, 1.27) * side / 100

    def to_pixels(point):
        x, y = point
        down = (BACKDROP_HORIZON - y) * unit
        return flip * (x + shift) * unit + side / 2, down + horizon

    _paint(image, PLACES[name].backdrop, {}, unit, 0, to_pixels)
    return image


@functools.cache
def _sky_and_ground(name, side):
    """What is the same in all pictures of a place, to be copied -> image."""
    image = Image.new('RGB', (side, side))
    _fill(image, 0, _horizon(side), PLACES[name].sky)
    _fill(image, _horizon(side), side, PLACES[name].ground)
    return image


def _horizon(side):
    return side * HORIZON // 100


def _fill(image, top, bottom, colours):
    """Fill a band of the image with a gradient from one colour to another, downwards."""
    grey = Image.linear_gradient('L').resize((image.width, bottom - top))
    image.paste(ImageOps.colorize(grey, *colours), (0, top))


def _draw_thing(image, thing, foot, size, rng):
    """Draw one object of a scene with its foot at (x, y) = `foot`, y up, and of this `size`.

    Both are in hundredths of the picture.
    """
    kind = KINDS[thing['kind']]
    unit = size * image.width / 10000    # of the drawing's grid, in pixels
    paints = _paints(thing, rng)
    left, top = unit * 70, unit * 115    # where its foot is in its layer
    to_pixels = _hand_drawn(left, top, unit, rng)
    layer = Image.new('RGBA', (round(left * 2), round(top + unit * 15)))
    outline = max(1, round(unit * 1.2))
    _paint(layer, kind.drawing, paints, unit, outline, to_pixels)
    x = round(foot[0] / 100 * image.width)
    y = round((1 - foot[1] / 100) * image.width)
    if not kind.flies and thing['relation'] != 'on':
        _draw_shadow(image, x, y, unit)
    solid = layer.getchannel('A')
    box = solid.getbbox()
    corner = x - round(left) + box[0], y - round(top) + box[1]
    image.paste(layer.crop(box), corner, solid.crop(box))
    image.paste(SHADE, corner, _shaded(solid, box, unit))


def _draw_shadow(image, x, y, unit):
    """The shadow on the ground at the foot of a thing, all in pixels."""
    across, up = unit * 48, unit * 8
    box = (x - across, y - up, x + across, y + up)
    ImageDraw.Draw(image, 'RGBA').ellipse(box, SHADOW)


def _paints(thing, rng):
    """The paints of the drawing language for this thing -> {name: (red, green, blue)}."""
    brightness = rng.uniform(0.92, 1.04)
    paints = {name: ImageColor.getrgb(rng.choice(colours)) for name, colours in PEOPLE.items()}
    colour = ImageColor.getrgb(COLOURS[thing['colour'] or 'white'])
    main = tuple(min(255, int(value * brightness)) for value in colour)
    paints['main'] = main
    paints['dark'] = tuple(value * 4 // 5 for value in main)
    paints['light'] = tuple((value + 255) // 2 for value in main)
    return paints


def _hand_drawn(left, top, unit, rng):
    """No two things alike: each is stretched, leaning and bent a little -> function of a point.

    It takes a point of the grid to pixels of a layer in which the foot is at (left, top).
    """
    flip = rng.choice((-1, 1))
    wide = rng.uniform(0.93, 1.07)
    tall = rng.uniform(0.94, 1.06)
    lean = rng.uniform(-0.07, 0.07)
    bend = rng.uniform(0.5, 2)
    phase = rng.uniform(0, 6)

    def to_pixels(point):
        x, y = point
        wave_x = bend * math.sin(y / 20 + phase)
        wave_y = bend * math.sin(x / 20 + phase)
        across = (x - 50) * wide + y * lean + wave_x
        up = y * tall + wave_y
        return left + unit * flip * across, top - unit * up

    return to_pixels


def _shaded(solid, box, unit):
    """Mask of what is in the shade, where light falls from the upper left on a `solid` mask.

    box: the part of it that is drawn on, and that the result is of.
    """
    blur = ImageFilter.BoxBlur(unit * 0.6)
    blurred = solid.reduce(8).filter(blur).resize(solid.size)
    shift = round(unit * 4)
    moved = blurred.crop([side + shift for side in box])
    dark = moved.point([(255 - value) * 3 // 10 for value in range(256)])
    return ImageChops.multiply(solid.crop(box), dark)


def _paint(image, drawing, paints, unit, outline, to_pixels):
    """Paint the shapes of a drawing.

    paints: colours that are not of CSS. unit: pixels of a unit of the grid, for the width of lines.
    outline: width in pixels, 0 for none. to_pixels: function from a point of the grid to the image.
    """
    pen = ImageDraw.Draw(image)
    for shape in shapes(drawing):
        points = [to_pixels(point) for point in shape.points]
        colour = paints.get(shape.paint) or ImageColor.getrgb(shape.paint)
        edge = tuple(value * 2 // 3 for value in colour) if outline else colour
        width = shape.width * unit
        if width == 0:
            pen.polygon(points, colour)
            pen.line(points + points[:2], edge, max(1, outline))
        elif width <= 3 * outline:    # with an outline it would be all outline
            _stroke(pen, points, width, colour)
        else:
            _stroke(pen, points, width + 2 * outline, edge)
            _stroke(pen, points, width, colour)


def _stroke(pen, points, width, colour):
    """A line with round ends."""
    pen.line(points, colour, max(1, round(width)), 'curve')
    for end in (points[0], points[-1]):
        pen.circle(end, width / 2, colour)
