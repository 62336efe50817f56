"""Constrained beam search: what must be said is said, and the best that says it is returned."""

import itertools

import pytest
import torch
from test_decoding import ids_of, log_prob_of, pairs_of, score_of, set_end_bias, small_decoder
from test_model import V, each_variant, make_decoder, make_features

from captioning.beam_search import beams, length_normalized
from captioning.constrained_search import (
    MOST_WORDS,
    beams_by_said,
    constrained_beams,
    constrained_search,
)

EVERY = {'image': 'every'}
MIXED = [[{7}], [], [{8, 9}, {10}], [{11, 12}], [{13}, {14}, {15}], [], [{16}], [{17}, {18}], [{7}]]

each_beam_size = pytest.mark.parametrize('beam_size', [1, 3, 5])
each_end_bias = pytest.mark.parametrize('end_bias', [-100, 1, 4])    # never end, often, mostly soon


def decoder_and_features(variant, end_bias):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, end_bias)
    return decoder, features


def said(ids, words):
    """How many of the words a caption says."""
    return sum(bool(word & set(ids)) for word in words)


def repeats_none(ids, words):
    """Does each form in a caption say a word that was not said before?"""
    forms = set().union(*words)
    return all(said(ids[:place + 1], words) > said(ids[:place], words)
               for place, word in enumerate(ids) if word in forms)


# ---- What is said ----

@each_variant
@each_beam_size
@each_end_bias
def test_what_must_be_said_is_said_once_in_every_image(variant, beam_size, end_bias):
    decoder, features = decoder_and_features(variant, end_bias)
    for captions, words in zip(constrained_beams(decoder, features, MIXED, beam_size), MIXED,
                               strict=True):
        assert said(captions[0].ids, words) == len(words)
        assert 1 <= len(captions) <= beam_size
        assert all(repeats_none(caption.ids, words) for caption in captions)


@each_beam_size
@pytest.mark.parametrize('end_bias', [-100, 4])
def test_it_is_said_also_where_there_is_just_room_for_it(beam_size, end_bias):
    decoder, features = decoder_and_features(EVERY, end_bias)
    words = [{5, 6}, {7}, {8}]
    for caption in constrained_search(decoder, features, [words] * 9, beam_size, max_len=4):
        assert said(caption.ids, words) == 3


@each_beam_size
def test_one_word_may_say_two(beam_size):
    decoder, features = decoder_and_features(EVERY, -100)
    required = [[{5, 6}, {6, 7}, {6}]] * 9
    captions = constrained_search(decoder, features, required, beam_size, max_len=2)
    assert ids_of(captions) == [[0, 6]] * 9
    # Words of which each has a form in common with each other can all be said.
    words = [{5, 6}, {6, 7}, {5, 7}]
    for caption in constrained_search(decoder, features, [words] * 9, beam_size, max_len=3):
        assert said(caption.ids, words) == 3


@each_beam_size
def test_a_word_that_the_decoder_loves_is_not_said_twice(beam_size):
    decoder, features = decoder_and_features(EVERY, -5)
    decoder.linear.bias.data[[7, 8]] += 8
    forms = {7, 8}
    twice = [captions[0].ids for captions in beams(decoder, features, beam_size)]
    assert all(sum(word in forms for word in ids) > 1 for ids in twice), 'the test needs doubles'
    for captions in constrained_beams(decoder, features, [[forms]] * 9, beam_size):
        for caption in captions:
            assert sum(word in forms for word in caption.ids) <= 1


def test_too_little_room_says_as_much_as_fits():
    decoder, features = decoder_and_features(EVERY, 0)
    words = [{5}, {6}, {7}]
    for max_len in (1, 2, 3):
        for caption in constrained_search(decoder, features, [words] * 9, max_len=max_len):
            assert said(caption.ids, words) == max_len - 1 == len(caption.ids) - 1


# ---- The best of those that say it ----

@pytest.mark.parametrize('words', [[{2}], [{2, 3}], [{2}, {3}], [{2, 3}, {4}], [{2, 3}, {3, 4}],
                                   [{2}, {3}, {4}]], ids=str)
@pytest.mark.parametrize('max_len', [2, 3, 5])
def test_beams_that_prune_nothing_find_the_best_caption_of_all(words, max_len):
    decoder, features = small_decoder(), make_features(EVERY)[:4]
    set_end_bias(decoder, 0)
    sequences = [list(itertools.product((0, 2, 3, 4), repeat=length)) for length in range(max_len)]
    every_caption = [[0, *middle, 1] for shorter in sequences[:-1] for middle in shorter]
    every_caption += [[0, *middle] for middle in sequences[-1]]
    possible = [ids for ids in every_caption if repeats_none(ids, words)]
    captions = constrained_search(decoder, features, [words] * 4, beam_size=150, max_len=max_len)
    for one, caption in zip(features, captions, strict=True):
        def rank(ids, one=one):
            log_prob = sum(log_prob_of(decoder, one, ids))
            return said(ids, words), ids[-1] == 1, length_normalized(log_prob, len(ids) - 1)

        best = max(possible, key=rank)
        assert caption.ids == best
        assert score_of(caption) == pytest.approx(rank(best)[2], abs=1e-4)


class TemptingDecoder:
    """Word 5, then the end is likely; but two words are likelier, after which nothing is."""

    start_id, end_id = 0, 1
    probabilities = torch.tensor([
        [.002, .002, .002, .002, .002, .99], [.01, .35, .6, .02, .01, .01],
        [.005, .005, .49, .49, .005, .005], [.01, .01, .25, .25, .24, .24]])

    def init_state(self, features):
        return torch.zeros(len(features), dtype=torch.long),

    def step(self, words, state):
        steps, = state
        return self.probabilities[steps.clamp(max=3)].log(), (steps + 1,)


def test_the_best_ended_caption_is_returned_though_it_left_the_beam():
    features = torch.zeros(1, 1)
    captions, = constrained_beams(TemptingDecoder(), features, [[{5}]], beam_size=2, max_len=5,
                                  length_power=1)
    assert captions[0].ids == [0, 5, 1] and 1 not in captions[1].ids
    assert score_of(captions[0], 1) > score_of(captions[1], 1)


def test_what_the_best_caption_says_anyway_changes_nothing():
    decoder, features = decoder_and_features(EVERY, 1)
    best = [captions[0].ids for captions in beams(decoder, features, 5)]
    required = [[{ids[len(ids) // 2]}] if len(ids) > 2 else [] for ids in best]
    once = [repeats_none(ids, words) if words else True
            for ids, words in zip(best, required, strict=True)]
    assert sum(once) > 2
    captions = ids_of(constrained_search(decoder, features, required, 5))
    same = [ids == other for ids, other in zip(captions, best, strict=True)]
    assert [one for one, counts in zip(same, once, strict=True) if counts] == [True] * sum(once)


@each_variant
@each_beam_size
@each_end_bias
def test_captions_are_different_and_in_order(variant, beam_size, end_bias):
    decoder, features = decoder_and_features(variant, end_bias)
    for captions, words in zip(constrained_beams(decoder, features, MIXED, beam_size), MIXED,
                               strict=True):
        assert len({tuple(ids) for ids in ids_of(captions)}) == len(captions)
        if words:
            order = [(said(caption.ids, words), caption.ids[-1] == 1, round(score_of(caption), 4))
                     for caption in captions]
            assert order == sorted(order, reverse=True)


@each_variant
def test_log_probabilities_are_the_models_own(variant):
    decoder, features = decoder_and_features(variant, 1)
    rules = {'forbidden': [4, 20], 'no_repeat': 2}
    for options in ({}, rules):
        lists = constrained_beams(decoder, features, MIXED, 3, **options)
        for one, captions in zip(features, lists, strict=True):
            for caption in captions:
                expected = log_prob_of(decoder, one, caption.ids)
                assert caption.log_probs == pytest.approx(expected, abs=1e-4)


# ---- As beam search ----

@each_variant
@each_beam_size
@each_end_bias
def test_without_required_words_it_is_beam_search(variant, beam_size, end_bias):
    decoder, features = decoder_and_features(variant, end_bias)
    options = {'max_len': 9, 'forbidden': [3, 8], 'no_repeat': 2, 'length_power': 0.9}
    expected = beams(decoder, features, beam_size, **options)
    assert constrained_beams(decoder, features, [[]] * 9, beam_size, **options) == expected
    # The same where it cannot be said, and in a batch with images of which some must say words.
    none = constrained_beams(decoder, features, [[{3, 8}, {8}, set()]] * 9, beam_size, **options)
    assert none == expected
    mixed = constrained_beams(decoder, features, MIXED, beam_size, **options)
    for captions, words, of_beams in zip(mixed, MIXED, expected, strict=True):
        assert words or ids_of(captions) == ids_of(of_beams)


@each_variant
@each_beam_size
@each_end_bias
def test_batched_equals_one_by_one(variant, beam_size, end_bias, monkeypatch):
    decoder, features = decoder_and_features(variant, end_bias)
    monkeypatch.setattr('captioning.constrained_search.decoding_batch', lambda device: 4)
    together = constrained_beams(decoder, features, MIXED, beam_size)
    for one, words, captions in zip(features, MIXED, together, strict=True):
        alone, = constrained_beams(decoder, one[None], [words], beam_size)
        assert ids_of(captions) == ids_of(alone)
        for caption, other in zip(captions, alone, strict=True):
            assert caption.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@each_beam_size
def test_rules_hold(beam_size):
    decoder, features = decoder_and_features(EVERY, -5)
    plain = constrained_search(decoder, features, MIXED, beam_size)
    common = {word for ids in ids_of(plain) for word in ids[1:]} - set(range(7, 19))
    required = [[{7, 8}], [{9}, {10, 11}]] * 4 + [[]]
    options = {'forbidden': [*common, 7, 11], 'no_repeat': 1, 'max_len': 12}
    for ids, words in zip(ids_of(constrained_search(decoder, features, required, beam_size,
                                                    **options)), required, strict=True):
        assert said(ids, words) == len(words)
        assert not set(ids[1:]) & set(options['forbidden']) and len(set(ids)) == len(ids)


def test_where_every_other_word_is_forbidden_there_still_is_a_caption():
    decoder, features = decoder_and_features(EVERY, 0)
    lists = constrained_beams(decoder, features, [[{7}]] * 9, 3, forbidden=set(range(V)) - {7, 1})
    assert [ids_of(captions)[0] for captions in lists] == [[0, 7, 1]] * 9
    lists = constrained_beams(decoder, features, [[{7}]] * 9, 3, forbidden=set(range(V)) - {7})
    assert all(len(captions) == 1 for captions in lists)


def test_a_state_that_cannot_be_does_not_keep_the_search_going():
    decoder, features = decoder_and_features(EVERY, 0)
    steps, step = [], decoder.step
    decoder.step = lambda *args: steps.append(1) or step(*args)
    decoder.linear.bias.data[[1, 5]] = 60
    constrained_search(decoder, features, [[{5}, {5, 6}]] * 9, 1)
    assert len(steps) <= 4


# ---- Words that are written only where they are required ----

def decoder_without(words, **options):
    decoder = make_decoder(EVERY, **options)
    decoder.linear.bias.data[words] = -1e6
    return decoder


@each_beam_size
def test_other_words_are_as_likely_as_without_them(beam_size):
    decoder, features = decoder_and_features(EVERY, 1)
    decoder.linear.bias.data[[30, 31]] = 9
    without = decoder_without([30, 31])
    set_end_bias(without, 1)
    images = [[], [{5}]] * 4 + [[{6, 30}]]
    lists = constrained_beams(decoder, features, images, beam_size, only_required=[30, 31])
    expected = constrained_beams(without, features, images, beam_size)
    for captions, others in list(zip(lists, expected, strict=True))[:-1]:
        assert ids_of(captions) == ids_of(others)
        for caption, other in zip(captions, others, strict=True):
            assert caption.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@each_beam_size
def test_they_are_written_once_where_required_and_their_likelihood_comes_on_top(beam_size):
    decoder, features = decoder_and_features(EVERY, 1)
    decoder.linear.bias.data[[30, 31]] = 9
    lists = constrained_beams(decoder, features, [[{30}]] * 9, beam_size, only_required=[30, 31])
    for one, captions in zip(features, lists, strict=True):
        ids = captions[0].ids
        assert ids.count(30) == 1 and 31 not in ids
        logits = decoder(one[None], torch.tensor([ids]))[0, 1:]
        known = logits.clone()
        known[:, [30, 31]] = -torch.inf
        log_probs = logits - known.logsumexp(dim=1, keepdim=True)
        expected = [row[word].item() for row, word in zip(log_probs, ids[1:], strict=True)]
        assert captions[0].log_probs == pytest.approx(expected, abs=1e-4)


def test_a_forbidden_form_is_not_written_even_where_it_is_required():
    decoder, features = decoder_and_features(EVERY, 1)
    required = [[{30, 7}], [{30}], [{8}]] * 3
    lists = constrained_beams(decoder, features, required, 3, forbidden=[30], only_required=[30])
    assert all(30 not in ids for captions in lists for ids in ids_of(captions))
    assert all(7 in captions[0].ids for captions in lists[::3])


# ---- What makes no sense ----

@pytest.mark.parametrize(('required', 'problem'), [
    ([[{5}]] * 8, '8 entries for 9 images'),
    ([[{5}]] * 8 + [[{1, 5}]], r'required\[8\]'),
    ([[{0}]] * 9, 'not of the start'),
    ([[{-3}]] * 9, 'expected ids of words'),
    ([[{V}]] * 9, f'id {V}'),
    ([[{word} for word in range(4, 5 + MOST_WORDS)]] * 9, f'at most {MOST_WORDS}')])
def test_words_that_make_no_sense_are_refused(required, problem):
    decoder, features = decoder_and_features(EVERY, 0)
    with pytest.raises(ValueError, match=problem):
        constrained_search(decoder, features, required)


# ---- With and without each word ----

@each_variant
@each_end_bias
def test_the_best_of_each_choice_of_words_is_what_must_be_said_finds(variant, end_bias):
    decoder, features = decoder_and_features(variant, end_bias)
    for one, words, candidates in zip(features, MIXED, beams_by_said(decoder, features, MIXED, 5),
                                      strict=True):
        best = {}
        for candidate in candidates:
            best.setdefault(candidate.said, candidate)
            ids = set(candidate.caption.ids)
            spoken = [place for place, word in enumerate(words) if word & ids]
            assert candidate.said == frozenset(spoken)
            assert candidate.score == pytest.approx(score_of(candidate.caption), abs=1e-4)
        everything = frozenset(range(len(words)))
        must_say, = constrained_search(decoder, one[None], [words], 5)
        assert best[everything].caption.ids == must_say.ids
        unsaid = set().union(*words)
        without, = beams(decoder, one[None], 5, forbidden=unsaid)
        if end_bias > 0 and words:
            assert best[frozenset()].score >= score_of(without[0]) - 1e-4


def test_subsets_equal_brute_force():
    decoder, features = small_decoder(), make_features(EVERY)[:4]
    words, max_len = [{3}, {2, 4}], 5
    sequences = [list(itertools.product((0, 2, 3, 4), repeat=length)) for length in range(max_len)]
    ended = [[0, *middle, 1] for shorter in sequences[:-1] for middle in shorter]
    possible = [ids for ids in ended if repeats_none(ids, words)]
    lists = beams_by_said(decoder, features, [words] * 4, 150, max_len=max_len)
    for one, candidates in zip(features, lists, strict=True):
        expected = dict.fromkeys(map(frozenset, ([], [0], [1], [0, 1])), -torch.inf)
        for ids in possible:
            spoken = frozenset(place for place, word in enumerate(words) if word & set(ids))
            score = length_normalized(sum(log_prob_of(decoder, one, ids)), len(ids) - 1)
            expected[spoken] = max(expected[spoken], score)
        best = {}
        for said_words, score, caption in candidates:
            if caption.ids[-1] == 1:
                best[said_words] = max(best.get(said_words, -torch.inf), score)
        assert best == pytest.approx(expected, abs=1e-4)


def test_positions_are_those_of_the_list_that_was_given():
    decoder, features = decoder_and_features(EVERY, 1)
    words = [{3}, {5, 6}, {7}, {6, 5}]
    lists = beams_by_said(decoder, features, [words] * 9, 3, forbidden=[3])
    seen = {candidate.said for candidates in lists for candidate in candidates}
    assert seen == {frozenset(), frozenset({1, 3}), frozenset({2}), frozenset({1, 2, 3})}


def ruled_out_of_each(images):
    """Words that are ruled out, of each image others -> (images, V) bool."""
    return torch.rand(images, V, generator=torch.Generator().manual_seed(3)) < 0.3


def known_to_be_out(of_image, words):
    """The same for one image as ids, without the end and the forms of words that may be said."""
    return set(of_image.nonzero().flatten().tolist()) - {1} - set().union(*words)


@each_variant
@each_beam_size
def test_what_is_ruled_out_of_an_image_is_forbidden_for_it_alone(variant, beam_size, monkeypatch):
    monkeypatch.setattr('captioning.constrained_search.decoding_batch', lambda device: 4)
    decoder, features = decoder_and_features(variant, 1)
    out = [known_to_be_out(*each) for each in zip(ruled_out_of_each(9), MIXED, strict=True)]
    ruled_out = torch.tensor([[word in of_image for word in range(V)] for of_image in out])
    options = {'beam_size': beam_size, 'only_required': [7, 30]}
    lists = beams_by_said(decoder, features, MIXED, ruled_out=ruled_out, **options)
    for one, words, forbidden, candidates in zip(features, MIXED, out, lists, strict=True):
        alone, = beams_by_said(decoder, one[None], [words], forbidden=forbidden, **options)
        assert [(one.said, one.caption.ids) for one in candidates] == [
            (one.said, one.caption.ids) for one in alone]
        for one, other in zip(candidates, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


@each_variant
def test_captions_are_as_likely_as_where_nothing_is_ruled_out(variant):
    decoder, features = decoder_and_features(variant, 1)
    ruled_out = ruled_out_of_each(9)
    ruled_out[:, 1] = False
    lists = beams(decoder, features, 3, ruled_out=ruled_out)
    for one, of_image, captions in zip(features, ruled_out, lists, strict=True):
        for ids, log_probs in captions:
            assert not of_image[ids[1:]].any()
            assert log_probs == pytest.approx(log_prob_of(decoder, one, ids), abs=1e-4)


def test_a_new_word_that_is_ruled_out_is_not_said_either():
    decoder, features = decoder_and_features(EVERY, 1)
    ruled_out = torch.zeros(9, V, dtype=torch.bool)
    ruled_out[::2, 30] = True
    lists = beams_by_said(decoder, features, [[{30}]] * 9, 3, only_required=[30],
                          ruled_out=ruled_out)
    assert [any(one.said for one in candidates) for candidates in lists] == [
        image % 2 == 1 for image in range(9)]


def test_only_required_words_follow_the_rules_too():
    decoder, features = decoder_and_features(EVERY, 1)
    decoder.linear.bias.data[30] = 9
    free = constrained_search(decoder, features, [[{30}]] * 9, 3, only_required=[30])
    before = {ids[ids.index(30) - 1] for ids in ids_of(free)}
    ruled = constrained_search(decoder, features, [[{30}]] * 9, 3, only_required=[30],
                               not_after={word: [30] for word in before})
    assert all(ids[ids.index(30) - 1] not in before for ids in ids_of(ruled))


@each_variant
@each_beam_size
@each_end_bias
def test_what_must_be_said_is_the_first_of_what_may_be(variant, beam_size, end_bias):
    decoder, features = decoder_and_features(variant, end_bias)
    options = {'max_len': 9, 'no_repeat': 2, 'only_required': [8], 'not_after': {None: [20]}}
    lists = constrained_beams(decoder, features, MIXED, beam_size, **options)
    may = beams_by_said(decoder, features, MIXED, beam_size, **options)
    for words, captions, candidates in zip(MIXED, lists, may, strict=True):
        most = max(len(candidate.said) for candidate in candidates)
        assert most == len(words)
        of_most = [one for one in candidates if len(one.said) == most]
        of_most.sort(key=lambda one: (one.caption.ids[-1] == 1, one.score), reverse=True)
        assert captions[:len(of_most)] == [one.caption for one in of_most][:beam_size]


@each_variant
@each_beam_size
def test_no_caption_has_a_pair_that_is_never_there(variant, beam_size):
    decoder, features = decoder_and_features(variant, -3)
    options = {'only_required': [7, 30, 31]}
    required = [[*words, {30, 31}] if words else [] for words in MIXED]
    free = beams_by_said(decoder, features, required, beam_size, **options)
    pairs = pairs_of(one.caption for candidates in free for one in candidates)
    never = {}
    for first, second in pairs:
        if first % 2:
            never.setdefault(first, set()).add(second)
        else:
            never.setdefault(None, set()).add(second)
    never[None] -= {1}
    ruled = beams_by_said(decoder, features, required, beam_size, not_after=never, **options)
    pairs = pairs_of(one.caption for candidates in ruled for one in candidates)
    assert pairs and all(second not in never.get(first, never[None]) for first, second in pairs)
