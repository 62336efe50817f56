"""How varied captions are, and whether they repeat the captions of training.

    diversity(results, train_captions)      # {'captions': 1000, 'distinct': 512, 'words': 430, ...}
"""

import re

# Words that no sentence ends with. "in", "on" and the like are not among them: "a man looks on".
UNFINISHED = frozenset('''a an and are as at because been beside between during from has his into is
    its my of onto or our than the their to toward towards very wearing while who whose with
    your'''.split())


def words_of(caption):
    """The words of a caption in lower case, without punctuation -> tuple of str."""
    return tuple(re.findall(r"[\w'-]+", caption.lower()))


def diversity(results, train_captions=None):
    """How varied captions are -> dict.

    'captions' and 'distinct': how many there are, and how many different ones. 'words': how many
    different words they use. 'length': mean, in words. 'broken': share that end in a word that
    leaves a sentence open, such as "a dog with a"; people write hardly any. 'in_train': share that
    is word for word, case and punctuation aside, in train_captions (an iterable of str), or None.
    """
    sentences = [words_of(result['caption']) for result in results]
    vocabulary = set().union(*sentences)
    lengths = [len(words) for words in sentences]
    broken = [bool(words) and words[-1] in UNFINISHED for words in sentences]
    in_train = None
    if train_captions:
        known = {words_of(caption) for caption in train_captions}
        in_train = _mean([words in known for words in sentences])
    return {'captions': len(sentences), 'distinct': len(set(sentences)), 'words': len(vocabulary),
            'length': _mean(lengths), 'broken': _mean(broken), 'in_train': in_train}


def _mean(values):
    return sum(values) / max(len(values), 1)
