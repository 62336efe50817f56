"""What people write of a thing, learned from captions alone: what it adds to a caption's worth."""

import gzip

import numpy as np
import pytest
import torch

from captioning import associations, ngrams
from captioning.associations import (
    learn_associations,
    read_captions,
    shares_that_name,
)
from captioning.consensus import Consensus, fit_consensus
from captioning.recognition import Word

CAT, DOG = Word('cat', 'cats', 'count', 'a'), Word('dog', 'dogs', 'count', 'a', ('puppy',))
HOT_DOG = Word('hot dog', 'hot dogs', 'count', 'a')
WORDS = [CAT, DOG, HOT_DOG]
NAMES = [word.word for word in WORDS]


@pytest.fixture
def groups(monkeypatch):
    """Captions of 40 images: cats sleep on beds, dogs run on grass, nobody does it otherwise."""
    monkeypatch.setattr(ngrams, 'LEAST_IMAGES', 1)
    monkeypatch.setattr(associations, 'DECAY', 0.01)
    cats = [[f'a {colour} cat sleeps on a bed', f'the {colour} cat is asleep'] for colour in
            ('white', 'black', 'brown', 'grey', 'red')]
    dogs = [[f'a {colour} dog runs on grass', f'two dogs with a {colour} ball'] for colour in
            ('white', 'black', 'brown', 'grey', 'red')]
    others = [[f'a {colour} car', f'the {colour} car stops'] for colour in ('white', 'black')]
    return [[caption.split() for caption in captions] for captions in 4 * (cats + dogs + others)]


def candidates(*texts):
    return [text.split() for text in texts]


def test_what_goes_with_a_word_is_worth_more_the_surer_it_is(groups):
    learned = learn_associations(groups, WORDS)
    texts = candidates('a child sleeps on a bed', 'a child runs on grass', 'a child xyz')
    probabilities = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0], [0.3, 0.0, 0.0], [0.0] * 3])
    cat, dog, perhaps, nothing = learned.expected_cider(NAMES, probabilities, 4 * [texts])
    assert cat[0] > 0.2 and dog[1] > 0.2
    assert cat[0] > 10 * cat[1] and dog[1] > 10 * dog[0] and cat[2] == dog[2] == 0
    assert perhaps == pytest.approx(cat / 3) and not nothing.any()


def test_it_is_what_the_captions_of_images_with_the_word_have_more(groups):
    learned = learn_associations(groups, WORDS)
    vectors, named = learned.ngrams.mean_vectors(groups), shares_that_name(groups, WORDS)
    free = torch.tensor([not {'dog', 'dogs'} & set(gram) for gram in learned.ngrams.column])
    with_dogs, with_nothing = vectors[named[:, 1] > 0], vectors[named.sum(dim=1) == 0]
    more = with_dogs.mean(dim=0) - with_nothing.mean(dim=0)
    assert torch.allclose(learned.weight[1, free], more[free], atol=0.01)


def test_whether_a_word_itself_is_said_is_left_to_its_probability(groups):
    learned = learn_associations(groups, WORDS)
    row = learned.weight[1]
    columns = learned.ngrams.column
    assert row[columns['dog',]] == row[columns['dogs',]] == 0
    assert row[columns['dog', 'runs']] > 0 and row[columns['cat',]] < 0


def test_words_in_any_order_and_others_tell_the_same(groups):
    learned = learn_associations(groups, WORDS)
    texts = 2 * [candidates('a child sleeps on a bed', 'grass')]
    probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.1]])
    expected = learned.expected_cider(NAMES, probabilities, texts)
    more = torch.cat([torch.ones(2, 1), probabilities[:, [2, 0, 1]]], dim=1)
    again = learned.expected_cider(['zebra', 'hot dog', 'cat', 'dog'], more, texts)
    assert np.allclose(expected, again)
    assert not np.any(learned.expected_cider(['zebra'], torch.ones(2, 1), texts))


def test_a_word_that_few_captions_name_is_not_learned(groups):
    groups = [*groups, ['a hot dog on a bun'.split()]]
    learned = learn_associations(groups, WORDS)
    assert not learned.weight[2].any() and learned.weight[1].any()


def test_the_longest_form_is_named():
    groups = [[caption.split() for caption in captions] for captions in (
        ['a hot dog', 'two hot dogs and a puppy', 'food'], ['dog'], ['hot'])]
    shares = shares_that_name(groups, WORDS)
    assert torch.allclose(shares, torch.tensor([[0, 1 / 3, 2 / 3], [0, 1, 0], [0, 0, 0]]))


def test_parts_of_the_images_at_a_time_give_the_same(groups, monkeypatch):
    texts = candidates('a child sleeps on a bed', 'grass')
    probabilities = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    learned = learn_associations(groups, WORDS)
    expected = learned.expected_cider(NAMES, probabilities, 9 * [texts])
    monkeypatch.setattr(associations, 'CHUNK', 7)
    again = learn_associations(groups, WORDS)
    assert torch.allclose(again.weight, learned.weight, atol=1e-5)
    assert np.allclose(again.expected_cider(NAMES, probabilities, 9 * [texts]), expected, atol=1e-4)


def test_the_largest_entries_are_kept_and_a_file_gives_them_again(groups, tmp_path, monkeypatch):
    whole = learn_associations(groups, WORDS)
    monkeypatch.setattr(associations, 'ENTRIES', 50)
    few = learn_associations(groups, WORDS)
    kept = few.weight != 0
    assert 40 <= kept.sum() <= 50 and torch.equal(few.weight[kept], whole.weight[kept])
    assert whole.weight[~kept].abs().max() <= few.weight[kept].abs().min()
    consensus = fit_consensus(torch.rand(48, 5), groups)
    consensus.associations = few
    consensus.save(tmp_path / 'a.consensus.pt')
    again = Consensus.load(tmp_path / 'a.consensus.pt').associations
    assert again.words == NAMES and again.ngrams.column == few.ngrams.column
    assert torch.allclose(again.weight, few.weight, rtol=1e-3)


def test_a_consensus_adds_what_recognized_words_tell(groups):
    consensus = fit_consensus(torch.rand(48, 5), groups)
    texts = [['a child sleeps on a bed .', 'a child runs on grass .']]
    features, recognized = torch.rand(1, 5), (NAMES, torch.tensor([[0.8, 0.0, 0.0]]))
    before, = consensus.support(features, texts, recognized)
    consensus.associations = learn_associations(groups, WORDS)
    without, = consensus.support(features, texts)
    after, = consensus.support(features, texts, recognized)
    tokens = [text.split() for text in texts[0]]
    added, = consensus.associations.expected_cider(*recognized, [tokens])
    assert np.array_equal(before, without)
    assert after == pytest.approx(before + consensus.weight * added)


# ---- The file of captions ----

TEXT = '7\tA cat sleeps.\n8\tTwo dogs, running\n7\tThe cat is asleep.\n'


def test_captions_of_an_image_are_together(tmp_path):
    (tmp_path / 'a.tsv').write_text(TEXT, 'utf-8')
    (tmp_path / 'a.tsv.gz').write_bytes(gzip.compress(TEXT.encode()))
    expected = [['a cat sleeps .'.split(), 'the cat is asleep .'.split()],
                ['two dogs , running'.split()]]
    assert read_captions(tmp_path / 'a.tsv') == read_captions(tmp_path / 'a.tsv.gz') == expected


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('a.tsv', b'7\tA cat.\nA dog.\n', 'a.tsv: .* line 2 has no tab'),
    ('a.tsv', b'7\t\xff\xfe\n', 'a.tsv: expected lines of'),
    ('a.tsv', b'', 'a.tsv: .* it has none'),
    ('a.tsv.gz', TEXT.encode(), 'a.tsv.gz: expected lines of'),
    ('a.tsv.gz', gzip.compress(TEXT.encode(), mtime=0)[:30], 'a.tsv.gz: expected lines of')],
    ids=['no tab', 'no text', 'empty', 'not packed', 'cut off'])
def test_a_file_of_something_else_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name)
