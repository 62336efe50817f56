"""Are captions of the built-in scenes true? A scene says what it shows, so this can be computed.

    judge_scenes(results, annotations)      # {'seen': {'thing': 0.99, 'count': 0.97, ...}, ...}
    scene_mistakes(result, annotations)     # ['colour', 'place']
"""

import re

from captioning.scoring.variety import words_of

ARTICLE_WINDOW = 4                      # words before a thing that may hold its number


def judge_scenes(results, annotations):
    """How often captions of the built-in scenes are right -> {group: {aspect: share}}.

    Groups are 'seen' and 'held-out': held-out scenes show the main thing in a colour that training
    never shows it in. Aspects are 'thing', the main one, by any noun for it; its 'count' ('a',
    'two', 'a couple of'; a plural alone is wrong) and 'colour'; 'several', the count where it is
    not one; 'place'; and 'relation', to the second thing. Shares are of the scenes that have the
    aspect; None where no scene has.
    """
    words = annotations['info']['words']
    scenes = {image['id']: image['scene'] for image in annotations['images']}
    verdicts = {}
    for result in results:
        scene = scenes[result['image_id']]
        group = 'held-out' if scene['held_out'] else 'seen'
        verdict = _judge(words_of(result['caption']), scene, words)
        verdicts.setdefault(group, []).append(verdict)
    return {group: _shares(rows) for group, rows in verdicts.items()}


def scene_mistakes(result, annotations):
    """What judge_scenes calls wrong in one caption -> list of 'thing', 'colour', 'place', ..."""
    verdict, = judge_scenes([result], annotations).values()
    return [aspect for aspect, share in verdict.items() if share == 0]


def _judge(said, scene, words):
    """{aspect: is it right?} of one caption, given as its words; None where the scene lacks it."""
    main, *others = scene['objects']
    colour, relation = main['colour'], main['relation']
    counted = _count_is_right(said, main, words['count'])
    place_words = words['place'][scene['place']]
    related = None
    if relation:
        related = _is_related(said, words['relation'][relation], others[0]['nouns'])
    return {'thing': not set(said).isdisjoint(main['nouns']),
            'count': counted,
            'colour': colour in said if colour else None,
            'several': counted if main['count'] > 1 else None,
            'place': not set(said).isdisjoint(place_words),
            'relation': related}


def _count_is_right(said, main, count_words):
    """Is the last number before the first noun for the main thing that of the scene?"""
    noun_at = next((at for at, word in enumerate(said) if word in main['nouns']), None)
    if noun_at is None:
        return False
    numbers = {word: int(count) for count, names in count_words.items() for word in names}
    before = said[max(noun_at - ARTICLE_WINDOW, 0):noun_at]
    counts = [numbers[word] for word in before if word in numbers]
    singular = main['nouns'][::2]    # nouns stand in pairs, singular and plural
    agrees = main['count'] > 1 or said[noun_at] in singular
    return counts[-1:] == [main['count']] and agrees


def _is_related(said, phrases, nouns):
    """Does the caption name the relation, and after at most four words the second thing?"""
    pattern = rf'\b({"|".join(phrases)}) (\S+ ){{0,4}}({"|".join(nouns)})\b'
    return bool(re.search(pattern, ' '.join(said)))


def _shares(verdicts):
    shares = {}
    for aspect in verdicts[0]:
        judged = [verdict[aspect] for verdict in verdicts if verdict[aspect] is not None]
        shares[aspect] = sum(judged) / len(judged) if judged else None
    return shares
