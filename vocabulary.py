"""Words and their ids: `tokenize` and `Vocabulary`.

    vocab = Vocabulary(vocab_threshold=5, annotations_file='.../captions_train2014.json')
    vocab.decode(vocab.encode('A dog runs on the beach.'))      # 'a dog runs on the beach.'
"""

import functools
import itertools
import os
import pickle
import warnings

import numpy as np

from scripts import file_hash, write_aside
from scripts.annotations import caption_tokens
from scripts.pickles import read_pickle


def tokenize(caption):
    """Lower-case word tokens of a caption, taken as one sentence; None has none, other things are read as `str`."""
    from nltk.tokenize import word_tokenize  # here, because model and decoding must run without nltk
    return word_tokenize(('' if caption is None else str(caption)).lower(), preserve_line=True)    # needs no nltk data


@functools.cache
def _detokenizer():
    from nltk.tokenize.treebank import TreebankWordDetokenizer
    return TreebankWordDetokenizer()


class Vocabulary:
    """Words of the training captions and their ids: start 0, end 1, unknown 2, then by first occurrence in the file.

    word2idx: dict word -> id; idx2word: dict id -> word. A word needs `vocab_threshold` occurrences. With
    vocab_from_file the words are read from `vocab_file`, else counted over `annotations_file` and written there.
    """

    def __init__(self, vocab_threshold, vocab_file='./vocab.pkl', start_word='<start>', end_word='<end>',
                 unk_word='<unk>', annotations_file='../cocoapi/annotations/captions_train2014.json',
                 vocab_from_file=False):
        self.vocab_threshold = vocab_threshold
        self.vocab_file, self.annotations_file = str(vocab_file), str(annotations_file)
        self.start_word, self.end_word, self.unk_word = start_word, end_word, unk_word
        if vocab_from_file:
            self._read()
        else:
            self._count()
            with write_aside(vocab_file) as aside:
                aside.write_bytes(pickle.dumps(self, protocol=3))

    @classmethod
    def from_words(cls, words, start_word='<start>', end_word='<end>', unk_word='<unk>'):
        """A vocabulary whose ids are the positions in the list `words`, special words included."""
        self = cls.__new__(cls)
        self.start_word, self.end_word, self.unk_word = start_word, end_word, unk_word
        self._set(words)
        return self

    def _set(self, words):
        self.word2idx = {word: idx for idx, word in enumerate(words)}
        self.idx2word = dict(enumerate(words))
        self.idx = len(words)

    def _count(self):
        if not isinstance(self.vocab_threshold, int) or self.vocab_threshold < 1:
            raise ValueError(f'vocab_threshold={self.vocab_threshold!r}: a new vocabulary needs the least number of '
                             'occurrences of a word, a whole number from 1, such as 5.')
        types, ids, _ = caption_tokens(self.annotations_file, tokenize, os.path.dirname(self.vocab_file))
        counts = np.bincount(ids, minlength=len(types))
        frequent = [word for word, count in zip(types, counts, strict=True) if count >= self.vocab_threshold]
        self._set(dict.fromkeys([self.start_word, self.end_word, self.unk_word, *frequent]))
        self.annotations_hash = file_hash(self.annotations_file)

    def _read(self):
        """Take the words from vocab_file: one of ours, of the course's, or of the older build_vocab.py."""
        if not os.path.exists(self.vocab_file):
            raise FileNotFoundError(f"vocab_file='{self.vocab_file}' not found. Build it first: get_loader(transform, "
                                    "mode='train', vocab_threshold=5, vocab_from_file=False)")
        found = read_pickle(self.vocab_file)
        words = sorted(found['word2idx'], key=found['word2idx'].get)
        self._set(words)
        self.__dict__.update({key: found[key] for key in ('start_word', 'end_word', 'unk_word') if key in found})
        for word in (self.start_word, self.end_word, self.unk_word):
            if word not in self.word2idx:
                raise ValueError(f"{self.vocab_file} has no word '{word}': name its special words by start_word, "
                                 'end_word and unk_word.')
        self.annotations_hash = found.get('annotations_hash')
        if self.annotations_hash and os.path.exists(self.annotations_file) and (
                self.annotations_hash != file_hash(self.annotations_file)):
            warnings.warn(f'{self.vocab_file} was counted over other captions than {self.annotations_file}: '
                          'with vocab_from_file=False it is counted anew.', stacklevel=2)

    @property
    def start_id(self):
        return self.word2idx[self.start_word]

    @property
    def end_id(self):
        return self.word2idx[self.end_word]

    @property
    def unk_id(self):
        return self.word2idx[self.unk_word]

    def __call__(self, word):
        return self.word2idx.get(word, self.unk_id)

    def __len__(self):
        return len(self.word2idx)

    def encode(self, caption):
        """Ids of a caption: [start, words..., end]."""
        return [self(word) for word in (self.start_word, *tokenize(caption), self.end_word)]

    def decode(self, ids):
        """The sentence of ids up to the end word, without start: lower case, punctuation joined as in writing."""
        words = itertools.takewhile(lambda word: word != self.end_word, (self.idx2word[int(i)] for i in ids))
        return _detokenizer().detokenize([word for word in words if word != self.start_word])
