"""What people write of a thing, learned from captions alone, without their photos.

    groups = read_captions('captions.tsv.gz')       # of each image some captions
    associations = learn_associations(groups, recognizer.words)
    associations.expected_cider(words, probabilities, candidates)

Who has learned few captions with a toilet does not know that it is in a bathroom, and that nobody
plays in it; other people's captions tell. For each word: by how much more of each n-gram do the
captions of an image have if they name it? What a recognizer sees in a photo then adds to what its
captions can be expected to say (captioning/consensus.py).

Axes: N images, W words, G n-grams.
"""

import gzip
import zlib
from pathlib import Path

import torch

from captioning.files import repository_path
from captioning.ngrams import NGrams
from vocabulary import tokenize

LEAST_SHARE = 1 / 1500  # of the images, whose captions have an n-gram that is kept
LEAST_IMAGES = 3        # whose captions name a word that is learned
SURE = 0.5              # share of an image's captions that name a word that is surely there
DECAY = 20.0            # of the ridge regression, in images
ENTRIES = 300_000       # of the weight that are kept, the largest
CHUNK = 500             # images at a time


class Associations:
    """For each word what is written of it.

    ngrams: NGrams. words: W of them, str. weight: (W, G), what a word adds to the mean vector of
    the captions of an image that has it.
    """

    def __init__(self, ngrams, words, weight):
        self.ngrams, self.words, self.weight = ngrams, list(words), weight

    def expected_cider(self, words, probabilities, candidates):
        """What recognized words add to the CIDEr that captions can expect -> for each image an
        array.

        words: K of them, str; others than `.words` tell nothing. probabilities: (N, K), of these.
        candidates: for each image a list of captions, each of words.
        """
        rows = {word: row for row, word in enumerate(self.words)}
        columns = [column for column, word in enumerate(words) if word in rows]
        weight = self.weight[[rows[words[column]] for column in columns]]
        expected = []
        for start in range(0, len(probabilities), CHUNK):
            part = slice(start, start + CHUNK)
            shares = probabilities[part, columns].cpu().float() @ weight        # (chunk, G)
            expected += self.ngrams.expected_cider(shares, candidates[part])
        return expected

    def content(self):
        """What a file keeps of it, in few bytes."""
        rows, columns = self.weight.nonzero(as_tuple=True)
        return {**self.ngrams.content(), 'words': self.words, 'rows': rows.short(),
                'columns': columns.int(), 'values': self.weight[rows, columns].half()}

    @classmethod
    def of_content(cls, content):
        """As `content` gave it."""
        ngrams = NGrams.of_content(content)
        weight = torch.zeros(len(content['words']), len(ngrams.column))
        weight[content['rows'].long(), content['columns'].long()] = content['values'].float()
        return cls(ngrams, content['words'], weight)


def learn_associations(groups, words):
    """Learn what is written of words -> Associations.

    groups: of each image a list of captions, each a list of tokens. words: list of Word. Ridge
    regression from the words that an image has to the mean vector of its captions. What a word adds
    to its own forms is left out: whether it is said, its probability decides (naming.py).
    """
    ngrams = NGrams.of_captions(groups, LEAST_SHARE)
    named = (shares_that_name(groups, words) / SURE).clamp(max=1)               # (N, W)
    products, sums = 0, 0
    for start in range(0, len(groups), CHUNK):
        vectors = ngrams.mean_vectors(groups[start:start + CHUNK])              # (chunk, G)
        products += named[start:start + CHUNK].T @ vectors
        sums += vectors.sum(dim=0)
    around_mean = named - named.mean(dim=0)
    ridge = around_mean.T @ around_mean + DECAY * torch.eye(len(words))
    targets = products - torch.outer(named.mean(dim=0), sums)
    weight = torch.linalg.solve(ridge, targets)                                 # (W, G)
    for row, word in enumerate(words):
        weight[row, [ngrams.column[gram] for gram in map(_split, word.forms)
                     if gram in ngrams.column]] = 0
    weight[named.sum(dim=0) <= LEAST_IMAGES] = 0
    return Associations(ngrams, [word.word for word in words], _largest(weight))


def shares_that_name(groups, words):
    """Of the captions of each image the share that names each word, (N, W).

    Where forms overlap, as those of hot dog and dog, the longer one is named.
    """
    rows = {_split(form): row for row, word in enumerate(words) for form in word.forms}
    longest = max(map(len, rows))
    shares = torch.zeros(len(groups), len(words))
    for of_image, captions in zip(shares.numpy(), groups, strict=True):
        for tokens in captions:
            of_image[list(_named(tokens, rows, longest))] += 1 / len(captions)
    return shares


def _named(tokens, rows, longest):
    """The rows of the forms that a caption has, a set."""
    found, start = set(), 0
    while start < len(tokens):
        forms = (tuple(tokens[start:start + length]) for length in range(longest, 0, -1))
        form = next((form for form in forms if form in rows), None)
        if form:
            found.add(rows[form])
        start += len(form) if form else 1
    return found


def _split(form):
    return tuple(form.split())


def _largest(weight):
    """A weight of which the ENTRIES largest are kept, the others 0."""
    if weight.numel() <= ENTRIES:
        return weight
    least = weight.abs().flatten().kthvalue(weight.numel() - ENTRIES).values
    return torch.where(weight.abs() > least, weight, 0)


def read_captions(path):
    """Lines of an image's name, a tab and a caption -> for each image its captions, as tokens.

    The file may be gzipped. FileNotFoundError and ValueError say what is wrong with it.
    """
    open_file = gzip.open if Path(path).suffix == '.gz' else open
    groups = {}
    try:
        with open_file(path, 'rt', encoding='utf-8') as file:
            for number, line in enumerate(file, start=1):
                image, tab, caption = line.rstrip('\n').partition('\t')
                if not tab:
                    raise ValueError(f'line {number} has no tab')
                groups.setdefault(image, []).append(tokenize(caption))
        if not groups:
            raise ValueError('it has none')
    except (EOFError, UnicodeDecodeError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f'{repository_path(path)}: expected lines of an image, a tab and a '
                         f'caption: {error}') from None
    return list(groups.values())
