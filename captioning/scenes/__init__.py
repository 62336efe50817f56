"""The built-in data: captioned picture-book scenes, drawn by code, with the truth of each.

    from captioning.scenes import draw_scenes
    draw_scenes('data/scenes')      # or python -m scripts.scenes

    drawings.toml     every kind of thing: nouns, colours, places, acts, drawing; the language
    places.toml       the places and what is drawn behind the things
    scenes.toml       counts, sizes and relations
    catalogue.py      these three as Python values: KINDS, PLACES, RELATIONS ...
    composition.py    make_scene: choose what a scene shows
    shapes.py         shapes: a drawing -> outlines to paint
    drawing.py        draw_scene: a scene -> pixels
    captions.py       make_captions: a scene -> five captions
    dataset.py        draw_scenes: write images and captions in the layout of COCO 2014
    unseen.py         kinds of things that no training caption tells of: are they named?

A scene is a dict, which the annotation files keep as the key `scene` of each image: `place`,
`held_out` and `objects`, the main thing first. Each object has `kind`, `nouns` (any of them names
it), `colour` or None, `size`, `count` and `relation`: of the main thing to the second, else None.
The last colour of a kind is held out: only test images with `held_out` show it. They measure
whether a model can combine a thing and a colour that it has never seen together.
"""

from captioning.scenes.captions import WORDS, make_captions
from captioning.scenes.composition import make_scene
from captioning.scenes.dataset import VERSION, draw_scenes
from captioning.scenes.drawing import draw_scene

__all__ = ['VERSION', 'WORDS', 'draw_scene', 'draw_scenes', 'make_captions', 'make_scene']
