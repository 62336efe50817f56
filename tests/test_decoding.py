"""Decoding: properties that hold for every method and every decoder."""

import itertools

import pytest
import torch
from test_model import each_variant, make_decoder, make_features

from model import DecoderRNN
from scripts.decoding import attention_weights, beam_search, beams, greedy, likeliest_words, rank, sample

SEEDS = list(range(9))
METHODS = {
    'greedy': greedy,
    'beam 4': lambda *args, **rules: beam_search(*args, beam_size=4, **rules),
    'sample': lambda decoder, features, *, seeds=SEEDS, **rules: sample(decoder, features, seeds=seeds, **rules),
    'nucleus': lambda decoder, features, *, seeds=SEEDS, **rules: sample(
        decoder, features, seeds=seeds, temperature=0.7, nucleus=0.8, **rules),
}
each_method = pytest.mark.parametrize('method', METHODS)
each_end_bias = pytest.mark.parametrize('end_bias', [-100, 0, 2, 100])    # never, seldom, often, at once


def ids_of(captions):
    return [caption.ids for caption in captions]


def apart(variant, method, features, decoder, **rules):
    """Captions of the images one by one."""
    own = [{'seeds': [seed]} if method in ('sample', 'nucleus') else {} for seed in SEEDS]
    return [METHODS[method](decoder, one[None], **rules, **options)[0]
            for one, options in zip(features, own, strict=True)]


# ---- Every method ----

@each_variant
@each_method
@each_end_bias
def test_batched_equals_one_by_one(variant, method, end_bias):
    decoder, features = make_decoder(variant), make_features(variant)
    decoder.linear.bias.data[1] = end_bias
    together, alone = METHODS[method](decoder, features), apart(variant, method, features, decoder)
    assert ids_of(together) == ids_of(alone)
    for one, other in zip(together, alone, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    if end_bias == -100:
        assert all(len(caption.ids) == 20 and 1 not in caption.ids for caption in together)
    if end_bias == 100:
        assert ids_of(together) == [[0, 1]] * 9


@each_variant
@each_method
def test_log_probabilities_are_the_models_own(variant, method):
    decoder, features = make_decoder(variant), make_features(variant)
    decoder.linear.bias.data[1] = 1
    for rules in ({}, {'forbidden': [4, 7], 'no_repeat': 2}):
        for one, caption in zip(features, METHODS[method](decoder, features, **rules), strict=True):
            scores = decoder(one[None], torch.tensor([caption.ids])).log_softmax(-1)[0]
            own = [scores[t, caption.ids[t]].item() for t in range(1, len(caption.ids))]
            assert caption.log_probs == pytest.approx(own, abs=1e-4)


@each_method
def test_an_ended_caption_stays_ended_and_decoding_stops_when_all_have(method):
    decoder, features = make_decoder({}), make_features({'image': 'every'}) / 5
    decoder.embedding.weight.data *= 3
    decoder.linear.bias.data[1] = 0.2
    captions = ids_of(METHODS[method](decoder, features, max_len=60))
    assert len({len(ids) for ids in captions}) > 1, 'the test needs captions that end at different steps'
    assert all(1 not in ids[:-1] and (ids[-1] == 1 or len(ids) == 60) for ids in captions)
    decoder.linear.bias.data[1] = 100
    steps, step = [], decoder.step
    decoder.step = lambda *args: steps.append(1) or step(*args)
    assert ids_of(METHODS[method](decoder, features)) == [[0, 1]] * 9 and len(steps) <= 2


@each_method
@pytest.mark.parametrize('max_len', [1, 2, 7])
def test_max_len_is_respected(method, max_len):
    decoder, features = make_decoder({}), make_features({'image': 'every'})
    decoder.linear.bias.data[1] = -100
    captions = METHODS[method](decoder, features, max_len=max_len)
    assert {len(caption.ids) for caption in captions} == {max_len}
    assert {len(caption.log_probs) for caption in captions} == {max_len - 1}


@each_method
def test_forbidden_words_are_not_written(method):
    decoder, features = make_decoder({}), make_features({'image': 'every'})
    before = {i for ids in ids_of(METHODS[method](decoder, features)) for i in ids[1:]}
    after = {i for ids in ids_of(METHODS[method](decoder, features, forbidden=before - {1})) for i in ids[1:]}
    assert after - {1} and not after & (before - {1})


@each_method
@pytest.mark.parametrize('length', [1, 2, 3])
def test_no_sequence_is_repeated(method, length):
    decoder, features = make_decoder({}, vocab_size=12), make_features({'image': 'every'})
    decoder.linear.bias.data[1] = -5

    def repeats(captions):
        grams = [[tuple(ids[at:at + length]) for at in range(len(ids) - length + 1)] for ids in ids_of(captions)]
        return sum(len(own) - len(set(own)) for own in grams)

    options = {'max_len': 11 if length == 1 else 40}
    assert repeats(METHODS[method](decoder, features, **options)) > 0
    assert repeats(METHODS[method](decoder, features, no_repeat=length, **options)) == 0


@each_method
def test_captions_that_ended_are_not_hindered_by_the_rule_against_repeats(method):
    decoder, features = make_decoder({}), make_features({'image': 'every'}) / 5
    decoder.embedding.weight.data *= 3
    decoder.linear.bias.data[1] = 0.7
    captions = METHODS[method](decoder, features, max_len=30, no_repeat=1)
    assert any(caption.ids[-1] == 1 for caption in captions)
    assert all(value > -50 for caption in captions for value in caption.log_probs)


@each_variant
def test_greedy_has_the_words_of_sample(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    decoder.linear.bias.data[1] = 1
    assert ids_of(greedy(decoder, features)) == [decoder.sample(one.view(1, -1, 24)) for one in features]


# ---- Beam search ----

@each_variant
@each_end_bias
def test_a_beam_of_one_is_greedy(variant, end_bias):
    decoder, features = make_decoder(variant), make_features(variant)
    decoder.linear.bias.data[1] = end_bias
    one, other = beam_search(decoder, features, beam_size=1), greedy(decoder, features)
    assert ids_of(one) == ids_of(other)
    for a, b in zip(one, other, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs)


def small_decoder(seed=3):
    """Five words, captions of several lengths."""
    torch.manual_seed(seed)
    decoder = DecoderRNN(24, 24, 5).eval()
    for weight in (decoder.linear.weight, decoder.lstm.weight_hh_l0, decoder.lstm.weight_ih_l0):
        weight.data *= 4
    decoder.linear.bias.data[1] = -2
    return decoder


def score_of(caption, power=0.7):
    return rank(sum(caption.log_probs), len(caption.log_probs), power)


@pytest.mark.parametrize('power', [0, 0.7, 1])
def test_a_beam_that_prunes_nothing_finds_the_best_caption_of_all(power):
    decoder, features = small_decoder(), make_features({'image': 'every'})

    def score(ids, one):
        scores = decoder(one[None], torch.tensor([ids])).log_softmax(-1)[0]
        return rank(sum(scores[t, ids[t]].item() for t in range(1, len(ids))), len(ids) - 1, power)

    every = [[0, *middle, 1] for length in range(4) for middle in itertools.product((0, 2, 3, 4), repeat=length)]
    found = beam_search(decoder, features, beam_size=400, max_len=5, length_power=power)
    for one, caption in zip(features, found, strict=True):
        best = max(every, key=lambda ids, one=one: score(ids, one))
        assert caption.ids == best and score_of(caption, power) == pytest.approx(score(best, one), abs=1e-4)
    lengths = {len(caption.ids) for caption in found}
    assert power != 0.7 or len(lengths) > 1, 'the test needs captions of several lengths'


@pytest.mark.parametrize('seed', range(5))
def test_a_beam_that_prunes_nothing_never_scores_lower_than_greedy(seed):
    decoder, features = small_decoder(seed), make_features({'image': 'every'})
    for one, other in zip(beam_search(decoder, features, beam_size=400, max_len=5),
                          greedy(decoder, features, max_len=5), strict=True):
        if other.ids[-1] == 1:
            assert score_of(one) >= score_of(other) - 1e-5


@each_variant
def test_beams_are_different_captions_ended_ones_first(variant):
    decoder, features = make_decoder(variant), make_features(variant)
    decoder.linear.bias.data[1] = 1
    found = beams(decoder, features, beam_size=5)
    assert ids_of(own[0] for own in found) == ids_of(beam_search(decoder, features, beam_size=5))
    for own in found:
        assert 1 <= len(own) <= 5 and len({tuple(caption.ids) for caption in own}) == len(own)
        endings = [caption.ids[-1] == 1 for caption in own]
        assert endings == sorted(endings, reverse=True)
        scores = [score_of(caption) for caption in own if caption.ids[-1] == 1]
        assert scores == sorted(scores, reverse=True)


def test_where_none_has_ended_the_best_unended_caption_counts():
    decoder, features = make_decoder({}), make_features({'image': 'every'})
    decoder.linear.bias.data[1] = -100
    for own in beams(decoder, features, beam_size=4, max_len=8):
        scores = [score_of(caption) for caption in own]
        assert len(own) == 4 and all(1 not in caption.ids and len(caption.ids) == 8 for caption in own)
        assert scores == sorted(scores, reverse=True)


def test_a_beam_wider_than_the_vocabulary():
    decoder, features = small_decoder(), make_features({'image': 'every'})
    for own in beams(decoder, features, beam_size=50, max_len=2):
        assert len(own) == 5 and all(len(caption.ids) == 2 for caption in own)


def test_what_a_step_hands_on_is_not_moved_and_what_it_changes_is():
    """A decoder that counts in its state which words it has read, and keeps the counts of one word before; its
    `features` stay the same tensor."""
    class Counting:
        start_id, end_id = 0, 1

        def init_state(self, features):
            return features, torch.zeros(len(features), 6), torch.zeros(len(features), 6)

        def step(self, words, state):
            features, seen, before = state
            now = seen + torch.nn.functional.one_hot(words, 6)
            return features - 2.5 * now - before, (features, now, seen)    # a word that was read is unlikely to be next

    features = torch.tensor([[-9, -2, 3., 2.5, 2, 1], [-9, -2, 1., 2, 2.5, 3]])
    for caption in beam_search(Counting(), features, beam_size=3):
        replayed, state = [], Counting().init_state(features[:1] if caption.ids[1] == 2 else features[1:])
        for word, following in itertools.pairwise(caption.ids):
            scores, state = Counting().step(torch.tensor([word]), state)
            replayed.append(scores.log_softmax(1)[0, following].item())
        assert caption.log_probs == pytest.approx(replayed, abs=1e-5)


# ---- Sampling ----

def test_sampling_repeats_with_seeds_and_varies_without():
    decoder, features = make_decoder({}), make_features({'image': 'every'})
    assert ids_of(sample(decoder, features, seeds=SEEDS)) == ids_of(sample(decoder, features, seeds=SEEDS))
    assert ids_of(sample(decoder, features)) != ids_of(sample(decoder, features))
    torch.manual_seed(4)
    first = ids_of(sample(decoder, features))
    torch.manual_seed(4)
    assert ids_of(sample(decoder, features)) == first


@pytest.mark.parametrize(('temperature', 'nucleus'), [(1, 1), (0.5, 1), (1, 0.6), (2, 0.5)])
def test_words_are_drawn_by_their_probability(temperature, nucleus):
    decoder, count = make_decoder({}, vocab_size=8), 8000
    one = make_features({'image': 'every'})[:1]
    scores, _ = decoder.step(torch.tensor([0]), decoder.init_state(one))
    expected = (scores[0] / temperature).softmax(0)
    likely, words = expected.sort(descending=True)
    kept = words[:1 + int((likely.cumsum(0) < nucleus).sum())]
    expected = torch.zeros(8).index_put((kept,), expected[kept])
    drawn = sample(decoder, one.expand(count, -1), max_len=2, temperature=temperature, nucleus=nucleus,
                   seeds=range(count))
    shares = torch.bincount(torch.tensor([caption.ids[1] for caption in drawn]), minlength=8) / count
    assert (shares - expected / expected.sum()).abs().max() < 0.025
    assert set(shares.nonzero().flatten().tolist()) <= set(kept.tolist())


def test_a_low_temperature_is_greedy():
    decoder, features = make_decoder({}), make_features({'image': 'every'})
    assert ids_of(sample(decoder, features, temperature=1e-4)) == ids_of(greedy(decoder, features))


@pytest.mark.parametrize('options', [{'temperature': 0}, {'nucleus': 0}, {'nucleus': 1.5}])
def test_settings_of_sampling_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match='expected'):
        sample(make_decoder({}), make_features({'image': 'every'}), **options)


# ---- Looking on ----

def test_likeliest_words_follow_the_caption():
    decoder, features = make_decoder({}), make_features({'image': 'every'})[:1]
    caption, = greedy(decoder, features)
    steps = likeliest_words(decoder, features, caption.ids, top=4)
    assert [0, *(step[0][0] for step in steps)] == caption.ids
    for step, log_prob in zip(steps, caption.log_probs, strict=True):
        chances = [chance for _, chance in step]
        assert len(step) == 4 and chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.0001
        assert chances[0] == pytest.approx(torch.tensor(log_prob).exp().item(), rel=1e-4)


def test_attention_weights_of_any_caption():
    variant = {'image': 'attention'}
    decoder, features = make_decoder(variant), make_features(variant)[:1]
    weights = attention_weights(decoder, features, [0, 5, 9, 1])
    assert weights.shape == (3, 5) and torch.allclose(weights.sum(1), torch.ones(3))
    _, places, hidden, _ = decoder.step(torch.tensor([0]), decoder.init_state(features))[1]    # after the start word
    assert torch.allclose(weights[0], decoder.attention(places, hidden[:, -1:])[1][0, 0])
    assert not decoder.attention._forward_hooks
