"""What scenes are made of, read from the .toml files beside this module.

    from captioning.scenes.catalogue import KINDS, PLACES
    KINDS['boat'].colours       # ['red', 'yellow', 'white', 'green', 'purple']

What the fields mean is explained at the top of those files.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of thing (drawings.toml)."""

    nouns: list
    colours: list
    places: list
    acts: list
    drawing: tuple
    flies: bool = False
    perches: bool = False
    person: bool = False


class Place(NamedTuple):
    """A place (places.toml)."""

    phrases: list
    sky: list
    ground: list
    backdrop: tuple


class Spot(NamedTuple):
    """Where a thing stands and how large it is, in hundredths of the picture (scenes.toml)."""

    x: float
    y: float
    size: float


class Count(NamedTuple):
    """A number of things (scenes.toml)."""

    weight: float
    phrases: list
    words: list
    spots: list


class Size(NamedTuple):
    """A size of things (scenes.toml)."""

    scale: float
    phrases: list


class Relation(NamedTuple):
    """A relation of the main thing to a second one (scenes.toml)."""

    phrases: list
    others: list
    spots: list


def _read(name):
    with Path(__file__).with_name(name).open('rb') as file:
        return tomllib.load(file)


def _with_drawing(record, field, table):
    drawing = tuple(table[field])    # what is drawn again is looked up by it
    return record(**{**table, field: drawing})


def _with_spots(record, table):
    spots = [Spot(**spot) for spot in table['spots']]
    return record(**{**table, 'spots': spots})


_drawings, _places, _scenes = _read('drawings.toml'), _read('places.toml'), _read('scenes.toml')

COLOURS = _drawings['colours']
PEOPLE = _drawings['people']
PARTS = {name: tuple(drawing) for name, drawing in _drawings['parts'].items()}
KINDS = {name: _with_drawing(Kind, 'drawing', table) for name, table in _drawings['things'].items()}
PLACES = {name: _with_drawing(Place, 'backdrop', table) for name, table in _places.items()}
COUNTS = {int(count): _with_spots(Count, table) for count, table in _scenes['counts'].items()}
SIZES = {name: Size(**table) for name, table in _scenes['sizes'].items()}
RELATIONS = {name: _with_spots(Relation, table) for name, table in _scenes['relations'].items()}
