"""Words and their ids: `tokenize` and `Vocabulary`.

    vocab = Vocabulary(vocab_threshold=5, annotations_file='.../captions_train2014.json')
    vocab.decode(vocab.encode('A dog runs on the beach.'))      # 'a dog runs on the beach.'
"""

import functools
import os
import pickle
import warnings

import numpy as np

from captioning.annotations import caption_tokens
from captioning.files import file_hash, write_aside
from captioning.pickles import read_pickle

SPECIAL_WORDS = ('start_word', 'end_word', 'unk_word')


def tokenize(caption):
    """Lower-case word tokens of a caption, taken as one sentence; None has none."""
    from nltk.tokenize import word_tokenize  # here: model and decoding must run without nltk
    text = '' if caption is None else str(caption)
    return word_tokenize(text.lower(), preserve_line=True)    # needs none of nltk's data


def check_threshold(threshold):
    """Raise ValueError unless it is a number of occurrences."""
    if not isinstance(threshold, int) or threshold < 1:
        raise ValueError(
            f'vocab_threshold={threshold!r}: a new vocabulary needs the least number of '
            'occurrences of a word, a whole number from 1, such as 5.')


class Vocabulary:
    """Words of the training captions and their ids.

    Start 0, end 1, unknown 2, then by first occurrence in the file. word2idx: dict word -> id;
    idx2word: dict id -> word. A word needs `vocab_threshold` occurrences. With vocab_from_file the
    words are read from `vocab_file`, else they are counted over `annotations_file` and written
    there.
    """

    def __init__(self, vocab_threshold, vocab_file='./vocab.pkl', start_word='<start>',
                 end_word='<end>', unk_word='<unk>',
                 annotations_file='../cocoapi/annotations/captions_train2014.json',
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
        vocab = cls.__new__(cls)
        vocab.start_word, vocab.end_word, vocab.unk_word = start_word, end_word, unk_word
        vocab._set_words(words)
        return vocab

    @classmethod
    def from_tokens(cls, tokens, threshold):
        """The words with `threshold` occurrences in the CaptionTokens of a file."""
        check_threshold(threshold)
        vocab = cls.from_words(['<start>', '<end>', '<unk>'])
        vocab._set_frequent(tokens, threshold)
        return vocab

    def _set_frequent(self, tokens, threshold):
        counts = np.bincount(tokens.ids, minlength=len(tokens.types))
        frequent = [word for word, count in zip(tokens.types, counts, strict=True)
                    if count >= threshold]
        words = [self.start_word, self.end_word, self.unk_word, *frequent]
        self._set_words(dict.fromkeys(words))    # a caption may contain a special word

    def _set_words(self, words):
        self.word2idx = {word: idx for idx, word in enumerate(words)}
        self.idx2word = dict(enumerate(words))
        self.idx = len(words)

    def _count(self):
        """Take the frequent words of annotations_file."""
        check_threshold(self.vocab_threshold)
        folder = os.path.dirname(self.vocab_file)
        tokens = caption_tokens(self.annotations_file, tokenize, folder)
        self._set_frequent(tokens, self.vocab_threshold)
        self.annotations_hash = file_hash(self.annotations_file)

    def _read(self):
        """Take the words of vocab_file: ours, the course's, or that of the older build_vocab.py."""
        if not os.path.exists(self.vocab_file):
            raise FileNotFoundError(
                f"vocab_file='{self.vocab_file}' not found. Build it first: get_loader(transform, "
                "mode='train', vocab_threshold=5, vocab_from_file=False)")
        attributes = read_pickle(self.vocab_file)
        ids = attributes['word2idx']
        self._set_words(sorted(ids, key=ids.get))
        for name in SPECIAL_WORDS:
            word = attributes.get(name, getattr(self, name))
            if word not in self.word2idx:
                raise ValueError(f"{self.vocab_file} has no word '{word}': name its special words "
                                 'by start_word, end_word and unk_word.')
            setattr(self, name, word)
        self.annotations_hash = attributes.get('annotations_hash')
        self._warn_of_other_captions()

    def _warn_of_other_captions(self):
        if not self.annotations_hash or not os.path.exists(self.annotations_file):
            return
        if self.annotations_hash != file_hash(self.annotations_file):
            warnings.warn(
                f'{self.vocab_file} was counted over other captions than {self.annotations_file}: '
                'with vocab_from_file=False it is counted anew.', stacklevel=4)

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
        """The sentence of ids up to the end word, without start.

        It is in lower case, with punctuation joined as in writing.
        """
        words = []
        for idx in ids:
            word = self.idx2word[int(idx)]
            if word == self.end_word:
                break
            if word != self.start_word:
                words.append(word)
        return _detokenizer().detokenize(words)


@functools.cache
def _detokenizer():
    from nltk.tokenize.treebank import TreebankWordDetokenizer
    return TreebankWordDetokenizer()
