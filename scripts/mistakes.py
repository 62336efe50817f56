"""Where captions go wrong: what they say of whom, how many, which colour, where, against what people said.

    columns = {'captions': judge_words(results, references)}        # References of scripts.evaluate
    print(format_words(columns))
"""

# Words of each kind that captions of photographs use most, in the singular; 'doing' is any word in -ing.
KINDS = {
    'who': '''man guy woman lady boy girl child kid toddler baby person people crowd couple family player dog puppy cat
        horse cow sheep bird elephant bear zebra giraffe biker cyclist skier surfer snowboarder skateboarder climber
        runner rider''',
    'count': 'one two three four five six several many',
    'colour': 'red orange yellow green blue purple pink brown black white gray grey tan blond blonde golden',
    'clothing': '''shirt t-shirt jacket coat dress suit swimsuit hat cap helmet short jeans pants uniform jersey shoe
        vest sweater costume glasses sunglasses goggles scarf tie''',
    'thing': '''ball frisbee bike bicycle motorcycle car truck bus train boat kayak surfboard skateboard snowboard ski
        sled stick toy rope bench table chair swing slide ramp fence wall tree flower sign guitar microphone camera book
        umbrella bag food drink tent flag fountain stair ladder''',
    'place': '''beach sand ocean sea wave water pool lake river waterfall snow mountain hill cliff rock grass field park
        forest wood dirt mud street road sidewalk city building house room kitchen stage stadium court track
        playground bridge yard'''}
SINGULAR = {'men': 'man', 'women': 'woman', 'children': 'child', 'ladies': 'lady', 'puppies': 'puppy', 'babies': 'baby',
            'people': 'people', 'glasses': 'glasses', 'sunglasses': 'sunglasses', 'grass': 'grass', 'bus': 'bus',
            'dress': 'dress', 'jeans': 'jeans', 'pants': 'pants', 'goggles': 'goggles', 'benches': 'bench',
            'buses': 'bus', 'beaches': 'beach', 'families': 'family', 'couches': 'couch'}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
NOTHING_DONE = frozenset('something anything nothing everything thing ring string king wing spring ceiling building '
                         'railing clothing evening morning swing sling'.split())


def _kinds(tokens):
    """{kind: words of that kind in the singular} of one caption's tokens."""
    found = {}
    for word in tokens.split():
        word = SINGULAR.get(word, word.removesuffix('s'))
        kind = 'doing' if word.endswith('ing') and word not in NOTHING_DONE else KIND_OF.get(word)
        found.setdefault(kind, set()).add(word)
    return found


def judge_words(results, references):
    """Of which kinds of words do captions get right what they say, and say what people say?

    Returns {kind: {'said', 'right', 'expected', 'found'}}: words of that kind in all captions; the share of them that
    any reference of their image has; words that two references or more have; the share of those that the caption has.
    Synonyms count as wrong, so compare with people, judged alike.
    """
    counts = {kind: dict.fromkeys(('said', 'right', 'expected', 'found'), 0) for kind in ('who', 'doing', *KINDS)}
    results = [result for result in results if result['image_id'] in references.tokens]
    tokens = references.tokenize([result['caption'] for result in results])
    for result, own in zip(results, map(_kinds, tokens), strict=True):
        others = [_kinds(other) for other in references.tokens[result['image_id']]]
        for kind, count in counts.items():
            said, theirs = own.get(kind, set()), [word for other in others for word in other.get(kind, ())]
            agreed = {word for word in theirs if theirs.count(word) > 1}
            for key, words in (('said', said), ('right', said.intersection(theirs)), ('expected', agreed),
                               ('found', said & agreed)):
                count[key] += len(words)
    return {kind: {**count, 'right': count['right'] / max(count['said'], 1),
                   'found': count['found'] / max(count['expected'], 1)} for kind, count in counts.items()}


def format_words(columns):
    """What judge_words gives {name: ...} -> text table."""
    lines = [' ' * 8 + ''.join(f'   {name:>24}' for name in columns),
             ' ' * 8 + ('   ' + f'{"said":>8}{"right":>8}{"found":>8}') * len(columns)]
    for kind in next(iter(columns.values())):
        lines.append(f'{kind:8}' + ''.join('   {said:8,}{right:8.1%}{found:8.1%}'.format(**own[kind])
                                           for own in columns.values()))
    return '\n'.join([*lines, 'right: said by a reference too; found: said, of the words that two references agree on'])
