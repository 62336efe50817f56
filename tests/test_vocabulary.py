"""Words and ids: tokens, counting, reading old files, refusing strange ones."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest

import captioning.annotations
from captioning.annotations import caption_tokens
from vocabulary import Vocabulary, tokenize

SENTENCES = ['a dog runs on the beach.', "the man's dog doesn't bark, does it?",
             'a black-and-white cat (asleep).', 'they cannot see "the sea"!',
             'it costs $5, or 5% more; no: less.']
ODD_CAPTIONS = [None, '', '   ', 5, float('nan'), ['a', 'list'], '日本語の文', '🐕 runs',
                '\ud800 x', 'a\u2028b\x00c', '. . .', '"', "'", '<start> <end>', 'a' * 9999]


def build(tmp_path, captions, threshold=1, **options):
    file = tmp_path / 'captions_train2014.json'
    annotations = [{'id': number, 'image_id': 1, 'caption': caption}
                   for number, caption in enumerate(captions)]
    file.write_text(json.dumps({'images': [{'id': 1, 'file_name': 'a.jpg'}],
                                'annotations': annotations}))
    return Vocabulary(threshold, str(tmp_path / 'vocab.pkl'), annotations_file=str(file), **options)


def test_tokens_are_treebank_tokens_of_one_sentence():
    tokens = ['a', 'man', "'s", 'dog', 'does', "n't", 'run.', 'it', 'sits', '.']
    assert tokenize("A man's dog doesn't run. It sits.") == tokens


@pytest.mark.parametrize('caption', ODD_CAPTIONS)
def test_no_caption_breaks_tokenizer_or_vocabulary(tmp_path, caption):
    tokens = tokenize(caption)
    assert all(isinstance(token, str) and token for token in tokens)
    assert not any(map(str.isspace, ''.join(tokens)))
    if caption is not None:
        vocab = build(tmp_path, [caption, 'a dog'])
        assert vocab.encode(caption) == [0, *(vocab(token) for token in tokens), 1]
        assert isinstance(vocab.decode(vocab.encode(caption)), str)


def test_ids_are_special_words_then_first_occurrence_at_the_threshold(tmp_path):
    vocab = build(tmp_path, ['B a', 'c a', 'a b zebra'], threshold=2)
    assert vocab.word2idx == {'<start>': 0, '<end>': 1, '<unk>': 2, 'b': 3, 'a': 4}
    assert vocab.idx2word == {idx: word for word, idx in vocab.word2idx.items()}
    assert len(vocab) == vocab.idx == 5
    assert vocab('a') == 4 and vocab('zebra') == vocab('<unk>') == 2
    assert (vocab.start_id, vocab.end_id, vocab.unk_id) == (0, 1, 2)
    assert all(type(idx) is int for idx in vocab.word2idx.values())


@pytest.mark.parametrize('sentence', SENTENCES)
def test_decode_writes_as_a_person_does(tmp_path, sentence):
    vocab = build(tmp_path, SENTENCES)
    assert vocab.decode(vocab.encode(sentence)) == sentence
    # Nothing is read after the end word.
    assert vocab.decode([*vocab.encode(sentence), 3, 4, 5]) == sentence


def test_written_file_is_a_pickled_vocabulary_of_plain_attributes(tmp_path):
    vocab = build(tmp_path, SENTENCES)
    with open(tmp_path / 'vocab.pkl', 'rb') as file:
        plain = pickle.load(file)
    assert type(plain) is Vocabulary and vars(plain) == vars(vocab)
    assert {type(value) for value in vars(plain).values()} <= {dict, str, int, bool}
    again = Vocabulary(None, str(tmp_path / 'vocab.pkl'), annotations_file=vocab.annotations_file,
                       vocab_from_file=True)
    assert again.word2idx == vocab.word2idx and again.idx2word == vocab.idx2word


def test_paths_may_be_paths(tmp_path):
    vocab = build(tmp_path, SENTENCES)
    captions = tmp_path / 'captions_train2014.json'
    for _ in range(2):
        Vocabulary(1, tmp_path / 'other.pkl', annotations_file=captions)
        again = Vocabulary(None, tmp_path / 'other.pkl', vocab_from_file=True)
    assert again.word2idx == vocab.word2idx


def old_pickle(module_name, protocol, words, **attributes):
    """What an earlier repository wrote: an instance of a class that we do not have."""
    module = types.ModuleType(module_name)
    kept = sys.modules.get(module_name)

    class Vocabulary:
        pass

    Vocabulary.__module__, Vocabulary.__qualname__ = module_name, 'Vocabulary'
    module.Vocabulary = Vocabulary
    old = Vocabulary()
    old.word2idx = {word: idx for idx, word in enumerate(words)}
    old.idx2word, old.idx = dict(enumerate(words)), len(words)
    vars(old).update(attributes)
    sys.modules[module_name] = module
    try:
        return pickle.dumps(old, protocol=protocol)
    finally:
        sys.modules.pop(module_name)
        if kept is not None:
            sys.modules[module_name] = kept


@pytest.mark.parametrize(('module', 'protocol', 'words'), [
    ('vocabulary', 3, ['<start>', '<end>', '<unk>', 'a', 'dog']),
    ('__main__', 0, ['<pad>', '<start>', '<end>', '<unk>', 'a', 'dog']),
    ('build_vocab', 0, ['<pad>', '<start>', '<end>', '<unk>', 'a', 'dog']),
    ('build_vocab', 2, ['<pad>', '<start>', '<end>', '<unk>', 'a', 'dog']),
])
def test_old_files_load(tmp_path, module, protocol, words):
    (tmp_path / 'vocab.pkl').write_bytes(old_pickle(module, protocol, words))
    vocab = Vocabulary(None, str(tmp_path / 'vocab.pkl'), vocab_from_file=True)
    assert list(vocab.word2idx) == words and len(vocab) == len(words)
    assert vocab.decode(vocab.encode('A dog')) == 'a dog'
    assert vocab.start_id == words.index('<start>') and vocab('zebra') == words.index('<unk>')


class Runs:
    """Pickles as a call of a function, which a plain unpickler makes."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('content', [
    lambda mark: pickle.dumps(Runs(os.mkdir, mark)),
    lambda mark: pickle.dumps(Runs(eval, f'__import__("os").mkdir({mark!r})'), protocol=0),
    lambda mark: pickle.dumps({'word2idx': Runs(os.mkdir, mark)}),
    lambda mark: f'cos\nmkdir\n(V{mark}\ntR.'.encode(),
    lambda mark: f'(V{mark}\nios\nmkdir\n.'.encode(),
    lambda mark: f'cvocabulary\nVocabulary.__init__\n(V{mark}\ntR.'.encode(),
    lambda mark: pickle.dumps(np.arange(3)),
    lambda mark: pickle.dumps({'word2idx': {'a': 0}}),
    lambda mark: old_pickle('vocabulary', 3, ['<start>', '<end>'],
                            word2idx={'<start>': 0, '<end>': 7}),
    lambda mark: old_pickle('vocabulary', 3, ['a'], word2idx={1: 0}),
    lambda mark: old_pickle('vocabulary', 3, ['a', 'b']),
    lambda mark: old_pickle('strange', 3, ['<start>', '<end>', '<unk>']),
    lambda mark: b'cvocabulary\nVocabulary\n.',
    lambda mark: b'not a pickle',
    lambda mark: b'',
])
def test_anything_else_is_refused_and_not_run(tmp_path, content):
    mark = tmp_path / 'was-run'
    (tmp_path / 'vocab.pkl').write_bytes(content(str(mark)))
    with pytest.raises(ValueError, match='vocab.pkl'):
        Vocabulary(None, str(tmp_path / 'vocab.pkl'), vocab_from_file=True)
    assert not mark.exists()


def test_use_with_another_annotation_file_warns(tmp_path):
    vocab = build(tmp_path, SENTENCES)
    others = json.dumps({'images': [], 'annotations': []})
    (tmp_path / 'captions_train2014.json').write_text(others)
    with pytest.warns(UserWarning, match='other captions'):
        Vocabulary(None, vocab.vocab_file, annotations_file=vocab.annotations_file,
                   vocab_from_file=True)


@pytest.mark.parametrize('threshold', [None, 0, -1, 2.5, 'five'])
def test_threshold_is_checked(tmp_path, threshold):
    with pytest.raises(ValueError, match='vocab_threshold'):
        build(tmp_path, SENTENCES, threshold)


def test_tokens_are_split_once_and_again_when_damaged_or_changed(tmp_path):
    build(tmp_path, SENTENCES)
    file, calls = str(tmp_path / 'captions_train2014.json'), []

    def counting(caption):
        calls.append(caption)
        return tokenize(caption)

    of_vocabulary = set(tmp_path.glob('*.tokens.npz'))    # by a tokenizer of another file
    first = caption_tokens(file, counting, tmp_path)
    assert len(calls) == 1 + len(SENTENCES)    # a probe
    caption_tokens(file, counting, tmp_path)
    assert len(calls) == 2 + len(SENTENCES)
    kept, = set(tmp_path.glob('*.tokens.npz')) - of_vocabulary
    kept.write_bytes(kept.read_bytes()[:-40])
    with pytest.warns(UserWarning, match='damaged'):
        again = caption_tokens(file, counting, tmp_path)
    assert len(calls) == 3 + 2 * len(SENTENCES)
    assert first.types == again.types
    assert np.array_equal(first.ids, again.ids) and np.array_equal(first.ends, again.ends)
    build(tmp_path, SENTENCES[:2])
    assert len(caption_tokens(file, counting, tmp_path).ends) == 2
    edited = caption_tokens(file, lambda caption: str(caption).split(), tmp_path)
    assert edited.types[:2] == ['a', 'dog'] and 'beach.' in edited.types


def test_tokens_that_cannot_be_kept_are_still_given(tmp_path, monkeypatch):
    build(tmp_path, SENTENCES)

    def full(path):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(captioning.annotations, 'write_aside', full)
    captions = str(tmp_path / 'captions_train2014.json')
    with pytest.warns(UserWarning, match='No space left'):
        types, ids, ends = caption_tokens(captions, tokenize, tmp_path / 'elsewhere')
    assert [types[i] for i in ids[:ends[0]]] == tokenize(SENTENCES[0])
