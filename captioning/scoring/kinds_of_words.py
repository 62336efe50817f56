"""Where captions go wrong: precision and recall by kind of word, against what people said.

    columns = {'captions': judge_words(results, references)}
    print(format_words(columns))        # who, doing, count, colour, clothing, thing, place
"""

from collections import Counter, defaultdict

import numpy as np

from captioning.tables import text_table

# Words of each kind that captions of photographs use most, in the singular. 'doing' is any word in
# -ing.
KINDS = {
    'who': '''man guy woman lady boy girl child kid toddler baby person people crowd couple family
        player dog puppy cat horse cow sheep bird elephant bear zebra giraffe biker cyclist skier
        surfer snowboarder skateboarder climber runner rider''',
    'count': 'one two three four five six several many',
    'colour': '''red orange yellow green blue purple pink brown black white gray grey tan blond
        blonde golden''',
    'clothing': '''shirt t-shirt jacket coat dress suit swimsuit hat cap helmet short jeans pants
        uniform jersey shoe vest sweater costume glasses sunglasses goggles scarf tie''',
    'thing': '''ball frisbee bike bicycle motorcycle car truck bus train boat kayak surfboard
        skateboard snowboard ski sled stick toy rope bench table chair swing slide ramp fence wall
        tree flower sign guitar microphone camera book umbrella bag food drink tent flag fountain
        stair ladder''',
    'place': '''beach sand ocean sea wave water pool lake river waterfall snow mountain hill cliff
        rock grass field park forest wood dirt mud street road sidewalk city building house room
        kitchen stage stadium court track playground bridge yard''',
}
# Of other words the singular is the word without its last 's'.
IRREGULAR = '''men:man women:woman children:child ladies:lady puppies:puppy babies:baby
    benches:bench buses:bus beaches:beach families:family couches:couch'''
UNCHANGED = 'people glasses sunglasses grass bus dress jeans pants goggles'
SINGULAR = dict(pair.split(':') for pair in IRREGULAR.split())
SINGULAR |= {word: word for word in UNCHANGED.split()}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
NO_ACTIVITY = frozenset('''something anything nothing everything thing ring string king wing spring
    ceiling building railing clothing evening morning swing sling'''.split())

CELL = '{said:8,}{right:8.1%}{found:8.1%}'
NOTE = 'right: said by a reference too; found: said, of the words that two references agree on'


def judge_words(results, references):
    """Precision and recall of captions by kind of word -> {kind: dict}.

    'said': words of that kind in all captions; 'right': the share of them that any reference of
    their image has. 'expected': words that two references or more have; 'found': the share of those
    that the caption has. Synonyms count as wrong, so compare with people, judged alike. Images
    without references are left out.
    """
    results = [result for result in results if result['image_id'] in references.tokens]
    captions = references.tokenize([result['caption'] for result in results])
    totals = {kind: np.zeros(4, int) for kind in ('who', 'doing', *KINDS)}
    for result, caption in zip(results, captions, strict=True):
        said = _words_by_kind(caption)
        targets = [_words_by_kind(target) for target in references.tokens[result['image_id']]]
        for kind, total in totals.items():
            total += _counts(said[kind], [target[kind] for target in targets])
    return {kind: _shares(total) for kind, total in totals.items()}


def _counts(said, targets):
    """(4,): how many words of one kind a caption says, of them right; how many are expected, found.

    said: the words of the caption. targets: those of each reference. All are sets.
    """
    theirs = Counter()
    for words in targets:
        theirs.update(words)
    agreed = {word for word, count in theirs.items() if count > 1}
    right = said & theirs.keys()
    found = said & agreed
    return np.array([len(said), len(right), len(agreed), len(found)])


def _shares(counts):
    said, right, expected, found = counts.tolist()
    return {'said': said, 'right': right / max(said, 1),
            'expected': expected, 'found': found / max(expected, 1)}


def _words_by_kind(tokens):
    """{kind: set of its words in the singular} of the tokens of a caption."""
    words = defaultdict(set)
    for token in tokens.split():
        word = SINGULAR.get(token, token.removesuffix('s'))
        is_activity = word.endswith('ing') and word not in NO_ACTIVITY
        kind = 'doing' if is_activity else KIND_OF.get(word)
        words[kind].add(word)
    return words


def format_words(columns):
    """What judge_words gives, {name: ...} -> text table."""
    names = [f'{name:>24}' for name in columns]
    measures = [f'{"said":>8}{"right":>8}{"found":>8}'] * len(columns)
    rows = [['', *names], ['', *measures]]
    first, *_ = columns.values()
    for kind in first:
        cells = [CELL.format(**judged[kind]) for judged in columns.values()]
        rows.append([kind, *cells])
    return f'{text_table(rows)}\n{NOTE}'
