"""Decoding: properties that hold for every method and every decoder."""

import itertools

import pytest
import torch
from test_model import V, each_variant, make_decoder, make_features

from captioning.decoding import (
    attention_weights,
    beam_search,
    beams,
    greedy,
    length_normalized,
    likeliest_words,
    sample,
)
from captioning.decoding_rules import Rules
from model import DecoderRNN

EVERY = {'image': 'every'}    # the decoder where it makes no difference which
SEEDS = list(range(9))        # one an image


def beam_4(decoder, features, **rules):
    return beam_search(decoder, features, beam_size=4, **rules)


def plain_sample(decoder, features, seeds=SEEDS, **rules):
    return sample(decoder, features, seeds=seeds, **rules)


def nucleus(decoder, features, seeds=SEEDS, **rules):
    return sample(decoder, features, seeds=seeds, temperature=0.7, nucleus=0.8, **rules)


each_method = pytest.mark.parametrize('method', [greedy, beam_4, plain_sample, nucleus])
each_end_bias = pytest.mark.parametrize('end_bias', [-100, 2])    # captions never end, often end


def set_end_bias(decoder, value):
    decoder.linear.bias.data[decoder.end_id] = value


def ids_of(captions):
    return [caption.ids for caption in captions]


def words_of(captions):
    return {word for ids in ids_of(captions) for word in ids[1:]}


def score_of(caption, power=0.7):
    return length_normalized(sum(caption.log_probs), len(caption.log_probs), power)


def log_prob_of(decoder, one, ids):
    """Log-probability of each id but the first, by the decoder's `forward`."""
    log_probs = decoder(one[None], torch.tensor([ids])).log_softmax(-1)[0]
    return [log_probs[t, ids[t]].item() for t in range(1, len(ids))]


def decoder_that_ends_at_several_steps(end_bias):
    decoder, features = make_decoder(EVERY), make_features(EVERY) / 5
    decoder.embedding.weight.data *= 3
    set_end_bias(decoder, end_bias)
    return decoder, features


# ---- Every method ----

@each_variant
@each_method
@each_end_bias
def test_batched_equals_one_by_one(variant, method, end_bias):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, end_bias)
    together = method(decoder, features)
    for one, seed, caption in zip(features, SEEDS, together, strict=True):
        options = {'seeds': [seed]} if method in (plain_sample, nucleus) else {}
        alone, = method(decoder, one[None], **options)
        assert caption.ids == alone.ids
        assert caption.log_probs == pytest.approx(alone.log_probs, abs=1e-5)
    if end_bias == -100:
        assert all(len(ids) == 20 and 1 not in ids for ids in ids_of(together))
    else:
        assert any(ids[-1] == 1 for ids in ids_of(together))


@each_variant
@each_method
def test_log_probabilities_are_the_models_own(variant, method):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, 1)
    for rules in ({}, {'forbidden': [4, 7], 'no_repeat': 2}):
        for one, caption in zip(features, method(decoder, features, **rules), strict=True):
            expected = log_prob_of(decoder, one, caption.ids)
            assert caption.log_probs == pytest.approx(expected, abs=1e-4)


@each_method
def test_an_ended_caption_stays_ended_and_decoding_stops_when_all_have(method):
    decoder, features = decoder_that_ends_at_several_steps(end_bias=0.2)
    captions = ids_of(method(decoder, features, max_len=60))
    assert len({len(ids) for ids in captions}) > 1, 'the test needs captions of several lengths'
    assert all(1 not in ids[:-1] and (ids[-1] == 1 or len(ids) == 60) for ids in captions)
    set_end_bias(decoder, 100)
    steps, step = [], decoder.step
    decoder.step = lambda *args: steps.append(1) or step(*args)
    assert ids_of(method(decoder, features)) == [[0, 1]] * 9 and len(steps) <= 2


@each_method
@pytest.mark.parametrize('max_len', [1, 2, 7])
def test_max_len_is_respected(method, max_len):
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    set_end_bias(decoder, -100)
    for caption in method(decoder, features, max_len=max_len):
        assert len(caption.ids) == max_len and len(caption.log_probs) == max_len - 1


@each_method
def test_forbidden_words_are_not_written(method):
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    forbidden = words_of(method(decoder, features)) - {1}
    others = words_of(method(decoder, features, forbidden=forbidden))
    assert others - {1} and not others & forbidden


@each_method
def test_with_a_forbidden_end_no_caption_ends(method):
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    captions = method(decoder, features, forbidden=[1], no_repeat=2)
    assert all(len(ids) == 20 and 1 not in ids for ids in ids_of(captions))


@each_method
@pytest.mark.parametrize('length', [1, 2, 3])
def test_no_sequence_is_repeated(method, length):
    decoder, features = make_decoder(EVERY, vocab_size=12), make_features(EVERY)
    set_end_bias(decoder, -5)
    max_len = 11 if length == 1 else 40

    def repeats(**rules):
        count = 0
        for ids in ids_of(method(decoder, features, max_len=max_len, **rules)):
            starts = range(len(ids) - length + 1)
            sequences = [tuple(ids[start:start + length]) for start in starts]
            count += len(sequences) - len(set(sequences))
        return count

    assert repeats() > 0 and repeats(no_repeat=length) == 0


@each_method
def test_captions_that_ended_are_not_hindered_by_the_rule_against_repeats(method):
    decoder, features = decoder_that_ends_at_several_steps(end_bias=0.7)
    captions = method(decoder, features, max_len=30, no_repeat=1)
    assert any(caption.ids[-1] == 1 for caption in captions)
    assert all(value > -50 for caption in captions for value in caption.log_probs)


@each_variant
def test_greedy_has_the_words_of_sample(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, 1)
    one_by_one = [decoder.sample(one.view(1, -1, 24)) for one in features]
    assert ids_of(greedy(decoder, features)) == one_by_one


# ---- Beam search ----

@each_variant
@each_end_bias
def test_a_beam_of_one_is_greedy(variant, end_bias):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, end_bias)
    captions = beam_search(decoder, features, beam_size=1)
    for caption, other in zip(captions, greedy(decoder, features), strict=True):
        assert caption.ids == other.ids
        assert caption.log_probs == pytest.approx(other.log_probs)


def small_decoder(seed=3):
    """Five words, captions of several lengths."""
    torch.manual_seed(seed)
    decoder = DecoderRNN(24, 24, 5).eval()
    for weight in (decoder.linear.weight, decoder.lstm.weight_hh_l0, decoder.lstm.weight_ih_l0):
        weight.data *= 4
    set_end_bias(decoder, -2)
    return decoder


@pytest.mark.parametrize('power', [0, 0.7, 1])
def test_a_beam_that_prunes_nothing_finds_the_best_caption_of_all(power):
    decoder, features = small_decoder(), make_features(EVERY)
    every_caption = [[0, *middle, 1] for length in range(4)
                     for middle in itertools.product((0, 2, 3, 4), repeat=length)]

    captions = beam_search(decoder, features, beam_size=400, max_len=5, length_power=power)
    for one, caption in zip(features, captions, strict=True):
        scores = [length_normalized(sum(log_prob_of(decoder, one, ids)), len(ids) - 1, power)
                  for ids in every_caption]
        assert caption.ids == every_caption[scores.index(max(scores))]
        assert score_of(caption, power) == pytest.approx(max(scores), abs=1e-4)
    lengths = {len(caption.ids) for caption in captions}
    assert power != 0.7 or len(lengths) > 1, 'the test needs captions of several lengths'


@pytest.mark.parametrize('seed', range(5))
def test_a_beam_that_prunes_nothing_never_scores_lower_than_greedy(seed):
    decoder, features = small_decoder(seed), make_features(EVERY)
    captions = beam_search(decoder, features, beam_size=400, max_len=5)
    for caption, other in zip(captions, greedy(decoder, features, max_len=5), strict=True):
        if other.ids[-1] == 1:
            assert score_of(caption) >= score_of(other) - 1e-5


@each_variant
def test_beams_are_different_captions_ended_ones_first(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, 1)
    lists = beams(decoder, features, beam_size=5)
    best = beam_search(decoder, features, beam_size=5)
    assert ids_of(captions[0] for captions in lists) == ids_of(best)
    for captions in lists:
        different = {tuple(ids) for ids in ids_of(captions)}
        assert 1 <= len(captions) <= 5 and len(different) == len(captions)
        endings = [caption.ids[-1] == 1 for caption in captions]
        assert endings == sorted(endings, reverse=True)
        scores = [score_of(caption) for caption in captions if caption.ids[-1] == 1]
        assert scores == sorted(scores, reverse=True)


def test_all_ended_captions_come_before_unended_ones_that_score_higher():
    decoder, cases = small_decoder(seed=0), 0
    set_end_bias(decoder, 0)
    for captions in beams(decoder, make_features(EVERY), beam_size=5, max_len=3):
        endings = [caption.ids[-1] == 1 for caption in captions]
        assert endings == sorted(endings, reverse=True)
        _, *other_scores = [score_of(caption) for caption in captions]
        cases += other_scores != sorted(other_scores, reverse=True)
    assert cases, 'the test needs an unended caption that scores higher than an ended one'


def test_where_none_has_ended_the_best_unended_caption_counts():
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    set_end_bias(decoder, -100)
    for captions in beams(decoder, features, beam_size=4, max_len=8):
        assert all(1 not in ids and len(ids) == 8 for ids in ids_of(captions))
        scores = [score_of(caption) for caption in captions]
        assert len(captions) == 4 and scores == sorted(scores, reverse=True)


class TemptingDecoder:
    """First the end is likely, then two words are likelier, then nothing is."""

    start_id, end_id = 0, 1
    probabilities = torch.tensor([[.02, .4, .5, .04, .02, .02], [.01, .01, .47, .47, .02, .02],
                                  [.01, .01, .25, .25, .24, .24]])

    def init_state(self, features):
        return torch.zeros(len(features), dtype=torch.long),

    def step(self, words, state):
        steps, = state
        return self.probabilities[steps.clamp(max=2)].log(), (steps + 1,)


def test_the_best_ended_caption_is_returned_though_it_left_the_beam():
    ended, unended = beams(TemptingDecoder(), torch.zeros(1, 1), beam_size=2, max_len=4)[0]
    assert ended.ids == [0, 1] and 1 not in unended.ids and len(unended.ids) == 4
    assert score_of(ended) > score_of(unended)
    after_two_steps = beams(TemptingDecoder(), torch.zeros(1, 1), beam_size=2, max_len=3)[0]
    assert score_of(ended) < score_of(after_two_steps[1]), 'the test needs it to leave the beam'


def test_a_beam_wider_than_the_vocabulary():
    decoder, features = small_decoder(), make_features(EVERY)
    for captions in beams(decoder, features, beam_size=50, max_len=2):
        assert len(captions) == 5 and all(len(ids) == 2 for ids in ids_of(captions))


def test_where_every_word_is_forbidden_there_still_is_a_caption():
    decoder, features = small_decoder(), make_features(EVERY)
    lists = beams(decoder, features, beam_size=3, max_len=4, forbidden=range(5))
    assert [len(captions) for captions in lists] == [1] * 9


class CountingDecoder:
    """Its state: features, which stay the same tensor; how often each word has been read; and the
    counts of one word before. A word that was read is unlikely to be next.
    """

    start_id, end_id = 0, 1

    def init_state(self, features):
        return features, torch.zeros(len(features), 6), torch.zeros(len(features), 6)

    def step(self, words, state):
        features, counts, counts_before = state
        counts_now = counts + torch.nn.functional.one_hot(words, 6)
        logits = features - 2.5 * counts_now - counts_before
        return logits, (features, counts_now, counts)


def test_the_state_follows_the_captions():
    decoder = CountingDecoder()
    features = torch.tensor([[-9, -2, 3., 2.5, 2, 1], [-9, -2, 1., 2, 2.5, 3]])
    captions = beam_search(decoder, features, beam_size=3)
    for one, caption in zip(features, captions, strict=True):
        replayed, state = [], decoder.init_state(one[None])
        for word, next_word in itertools.pairwise(caption.ids):
            logits, state = decoder.step(torch.tensor([word]), state)
            replayed.append(logits.log_softmax(1)[0, next_word].item())
        assert caption.log_probs == pytest.approx(replayed, abs=1e-5)


def test_state_that_steps_hand_on_is_not_copied():
    decoder, seen, step = CountingDecoder(), [], CountingDecoder.step

    def remember_features(words, state):
        seen.append(state[0])
        return step(decoder, words, state)

    decoder.step = remember_features
    beam_search(decoder, torch.randn(2, 6), beam_size=3)
    assert len(seen) > 2 and all(features is seen[0] for features in seen)


# ---- Sampling ----

def test_sampling_repeats_with_seeds_and_varies_without():
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    first, second = (ids_of(sample(decoder, features, seeds=SEEDS)) for _ in range(2))
    assert first == second
    first, second = (ids_of(sample(decoder, features)) for _ in range(2))
    assert first != second
    torch.manual_seed(4)
    first = ids_of(sample(decoder, features))
    torch.manual_seed(4)
    assert ids_of(sample(decoder, features)) == first


@pytest.mark.parametrize(('temperature', 'nucleus'), [(1, 1), (0.5, 1), (1, 0.6), (2, 0.5)])
def test_words_are_drawn_by_their_probability(temperature, nucleus):
    decoder, count = make_decoder(EVERY, vocab_size=8), 8000
    one = make_features(EVERY)[:1]
    logits, _ = decoder.step(torch.tensor([0]), decoder.init_state(one))
    probabilities = (logits[0] / temperature).softmax(0)
    sorted_probabilities, words = probabilities.sort(descending=True)
    kept = words[:1 + int((sorted_probabilities.cumsum(0) < nucleus).sum())]
    expected = torch.zeros(8).index_put((kept,), probabilities[kept])
    drawn = sample(decoder, one.expand(count, -1), max_len=2, temperature=temperature,
                   nucleus=nucleus, seeds=range(count))
    drawn = torch.tensor([caption.ids[1] for caption in drawn])
    shares = torch.bincount(drawn, minlength=8) / count
    assert (shares - expected / expected.sum()).abs().max() < 0.025
    assert set(drawn.tolist()) <= set(kept.tolist())


def test_a_low_temperature_is_greedy():
    decoder, features = make_decoder(EVERY), make_features(EVERY)
    captions = sample(decoder, features, temperature=1e-4)
    assert ids_of(captions) == ids_of(greedy(decoder, features))


@pytest.mark.parametrize('options', [{'temperature': 0}, {'nucleus': 0}, {'nucleus': 1.5}])
def test_settings_of_sampling_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match='expected'):
        sample(make_decoder(EVERY), make_features(EVERY), **options)


# ---- What the decoder had in mind ----

def test_likeliest_words_follow_the_caption():
    decoder, features = make_decoder(EVERY), make_features(EVERY)[:1]
    caption, = greedy(decoder, features)
    steps = likeliest_words(decoder, features, caption.ids, top=4)
    assert [0, *(step[0][0] for step in steps)] == caption.ids
    for step, log_prob in zip(steps, caption.log_probs, strict=True):
        probabilities = [probability for _, probability in step]
        assert len(step) == 4 and probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1.0001
        assert probabilities[0] == pytest.approx(torch.tensor(log_prob).exp().item(), rel=1e-4)


def test_attention_weights_of_any_caption():
    variant = {'image': 'attention'}
    decoder, features = make_decoder(variant), make_features(variant)[:1]
    weights = attention_weights(decoder, features, [0, 5, 9, 1])
    assert weights.shape == (3, 5) and torch.allclose(weights.sum(1), torch.ones(3))
    _, after_start = decoder.step(torch.tensor([0]), decoder.init_state(features))
    _, places, hidden, _ = after_start
    _, expected = decoder.attention(places, hidden[:, -1:])
    assert torch.allclose(weights[0], expected[0, 0])
    assert not decoder.attention._forward_hooks


def test_the_old_place_has_the_same_functions():
    from scripts import decoding
    assert decoding.beams is beams and decoding.sample is sample and decoding.greedy is greedy
    assert decoding.rank is length_normalized


# ---- Words that never follow others ----

@each_method
@each_variant
def test_words_do_not_follow_those_that_they_never_follow(method, variant):
    decoder, features = make_decoder(variant), make_features(variant)
    set_end_bias(decoder, -100)
    free = pairs_of(method(decoder, features))
    first, second = free[0]
    never = {first: [other for one, other in free if one == first]}
    pairs = pairs_of(method(decoder, features, not_after=never))
    assert not {(first, other) for other in never[first]} & set(pairs)
    never[None] = [second]    # where no rule is there for the word before
    pairs = pairs_of(method(decoder, features, not_after=never))
    assert {one for one, other in pairs if other == second} <= {first}
    assert pairs_of(method(decoder, features, not_after={})) == free


def pairs_of(captions):
    return [pair for caption in captions for pair in itertools.pairwise(caption.ids)]


def test_of_two_rules_a_word_has_its_own():
    rules = Rules(not_after={5: [6], None: [7, 8]})
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(0))
    captions = torch.tensor([[0, 9, 5], [0, 5, 9], [0, 5, V - 1]])
    log_probs, allowed = rules.next_words(logits, captions)
    assert torch.equal(log_probs, logits.log_softmax(dim=1))
    forbidden = [row.nonzero().flatten().tolist() for row in allowed == -torch.inf]
    assert forbidden == [[5, 6], [7, 8, 9], [7, 8, V - 1]]    # no word follows itself
    for others in ({5: [6]}, {5: [], None: []}):    # nothing more of words without a rule
        _, allowed = Rules(not_after=others).next_words(logits[1:], captions[1:])
        expected = log_probs[1:].scatter(1, captions[1:, -1:], -torch.inf)
        assert torch.equal(allowed, expected)
    for none in ({}, None):
        _, allowed = Rules(not_after=none).next_words(logits, captions)
        assert torch.equal(allowed, log_probs)
