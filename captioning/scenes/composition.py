"""Choose what a scene shows.

    from captioning.scenes import make_scene
    make_scene(seed=0, split='train', index=5)    # {'place': 'street', 'held_out': False, ...}
"""

from random import Random

from captioning.scenes.catalogue import COUNTS, KINDS, RELATIONS, SIZES


def make_scene(seed, split, index):
    """Choose what image number `index` of `split` shows -> scene, as the package describes it."""
    rng = Random(f'{seed} {split} {index}')
    held_out = split == 'test' and index % 4 == 3
    kinds = [name for name, kind in KINDS.items() if kind.colours or not held_out]
    kind = rng.choice(kinds)
    place = rng.choice(KINDS[kind].places)
    count = rng.choices(list(COUNTS), [count.weight for count in COUNTS.values()])[0]
    others = _others(kind, place)
    relation = _choose_relation(others, rng) if count == 1 and others else None
    size = rng.choice(list(SIZES)) if count == 1 and not relation else 'medium'
    other = rng.choice(others[relation]) if relation else None
    objects = [_object(kind, size, count, relation, held_out, rng)]
    if relation:
        objects.append(_object(other, size, count, None, False, rng))
    return {'place': place, 'held_out': held_out, 'objects': objects}


def _others(kind, place):
    """The relations a thing of this kind can have here -> {relation: kinds of second things}."""
    possible = {}
    for name, relation in RELATIONS.items():
        others = [other for other in relation.others
                  if other != kind and place in KINDS[other].places]
        if others and _can_be(KINDS[kind], name):
            possible[name] = others
    return possible


def _can_be(kind, relation):
    """Things that fly are above others, and only they are; on others are only those that perch."""
    return kind.flies == (relation == 'above') and (kind.perches or relation != 'on')


def _choose_relation(others, rng):
    """A relation in 60 % of the scenes in which one is possible, else None."""
    if rng.random() >= 0.6:
        return None
    relations = list(others)
    if 'on' in others:
        relations += ['on'] * 3    # few kinds can perch, so they do it often
    return rng.choice(relations)


def _object(kind, size, count, relation, held_out, rng):
    """One entry of a scene's `objects`; its colour is the one held out, or one of the others."""
    *seen, last = KINDS[kind].colours or [None, None]
    colour = rng.choice([last] if held_out else seen)
    return {
        'kind': kind,
        'nouns': list(KINDS[kind].nouns),
        'size': size,
        'count': count,
        'relation': relation,
        'colour': colour,
    }
