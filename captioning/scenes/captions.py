"""Say what a scene shows.

    from captioning.scenes import make_captions, make_scene
    make_captions(make_scene(0, 'train', 5), random.Random(0))    # ['a brown puppy is ...', ...]
"""

import re

from captioning.scenes.catalogue import COLOURS, COUNTS, KINDS, PLACES, RELATIONS, SIZES

CAPTIONS = 5    # of each image, as in COCO
PATTERNS = (
    '{things} {are} {doing} {relation} {place}',
    '{things} {doing} {relation} {place}',
    '{things} {do} {relation} {place}',
    '{things} {relation} {place}',
    'there {are} {things} {relation} {place}',
    '{place} there {are} {things} {relation}',
    'a picture of {things} {relation} {place}',
    '{place} {things} {are} {doing} {relation}',
    'we see {things} {relation} {place}',
)
IRREGULAR = {
    'run': 'running',
    'swim': 'swimming',
    'sit': 'sitting',
    'lie': 'lying',
}

# The words by which a caption can be judged, kept in every annotation file as info['words'].
WORDS = {
    'place': {name: [phrase.split()[-1] for phrase in place.phrases]
              for name, place in PLACES.items()},
    'relation': {name: relation.phrases for name, relation in RELATIONS.items()},
    'colour': list(COLOURS),
    'count': {number: count.words for number, count in COUNTS.items()},
}


def make_captions(scene, rng):
    """Five different captions of `scene` -> list of str.

    One of them may leave out the colour of the main thing. All variation comes from `rng`, a
    random.Random.
    """
    main = scene['objects'][0]
    without_colour = rng.randrange(10)    # in half of the scenes one of the five
    captions = {}    # as they are said -> as they are typed
    while len(captions) < CAPTIONS:
        colour = main['colour'] if len(captions) != without_colour else None
        caption = _caption(scene, colour, rng)
        typed = _as_typed(caption, rng)
        captions.setdefault(caption, typed)
    return list(captions.values())


def _caption(scene, colour, rng):
    """One caption in small letters, without a full stop."""
    main, *others = scene['objects']
    many = main['count'] > 1
    doing, do = _verb_forms(main, rng)
    relation = _relation_phrase(main, others, rng)
    pattern = rng.choice(PATTERNS)
    things = _thing_phrase(main, colour, rng)
    places = _place_phrases(scene['place'], KINDS[main['kind']])
    unsaid = [''] * 3 * len(others)    # beside a second thing the place is often left out
    place = rng.choice(places + unsaid)
    text = pattern.format(things=things, are='are' if many else 'is', doing=doing, do=do,
                          relation=relation, place=place)
    single_spaced = ' '.join(text.split())
    return re.sub(r'\ba(?= [aeiou])', 'an', single_spaced)


def _verb_forms(main, rng):
    """What the main thing does, as ('riding a bike', 'rides a bike')."""
    acts = ['sit'] if main['relation'] == 'on' else KINDS[main['kind']].acts
    verb, _, noun = rng.choice(acts).partition(' ')
    doing = IRREGULAR.get(verb, verb.rstrip('e') + 'ing')
    if main['count'] > 1:
        do = verb
        target = noun and f'{noun}s'
    else:
        do = verb.replace('fly', 'flie') + 's'
        target = noun and f'a {noun}'
    return f'{doing} {target}', f'{do} {target}'


def _relation_phrase(main, others, rng):
    """'next to a big tree', or nothing for a thing that stands alone."""
    if not others:
        return ''
    relation = rng.choice(RELATIONS[main['relation']].phrases)
    return f'{relation} {_thing_phrase(others[0], None, rng)}'


def _thing_phrase(thing, colour, rng):
    """Name a thing as a person would: 'two big red balls', 'a boy in blue'."""
    many = thing['count'] > 1
    nouns = thing['nouns'][many::2]    # singular and plural take turns
    count = rng.choice(COUNTS[thing['count']].phrases)
    size = rng.choice(SIZES[thing['size']].phrases)
    noun = rng.choice(nouns + nouns[:1])    # the usual one more often
    if not colour:
        return f'{count} {size} {noun}'
    if KINDS[thing['kind']].person:
        wearing = rng.choice(('in', 'wearing', 'dressed in'))
        return f'{count} {size} {noun} {wearing} {colour}'
    return f'{count} {size} {colour} {noun}'


def _place_phrases(place, kind):
    """What may be said of the place; what flies is over it, where there is a sky to see."""
    if kind.flies and place not in ('night', 'room'):
        return [f'over the {place}', f'in the sky over the {place}']
    return PLACES[place].phrases


def _as_typed(caption, rng):
    """As people type captions: most with a capital letter, most with a full stop."""
    start = caption.capitalize() if rng.random() < 0.7 else caption
    return start + rng.choice(('.', '.', ' .', ''))
