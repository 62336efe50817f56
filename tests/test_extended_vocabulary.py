"""New words of a trained decoder: they change nothing unless they are required."""

import copy

import pytest
import torch
from test_decoding import ids_of, set_end_bias
from test_model import ALL_VARIANTS, V, make_decoder, make_features, name_of
from torch import nn

from captioning.beam_search import beams
from captioning.captioner import SHIPPED
from captioning.constrained_search import constrained_beams, constrained_search
from captioning.decoding import greedy
from captioning.extended_vocabulary import extended, row_norms
from captioning.model_files import load_model_file
from experiments.gru import DecoderRNN as GruDecoder
from vocabulary import Vocabulary

WORDS = ['<start>', '<end>', '<unk>', *(f'word{number}' for number in range(3, V))]
LIKE = {'zebra': [('word7', 3), ('word8', 1)], 'zebras': [('word9', 1)], 'word5': [('word6', 1)]}
OLDER = load_model_file(SHIPPED.with_name('model.py'))

all_variants = pytest.mark.parametrize('variant', ALL_VARIANTS, ids=name_of)


def make_vocab(words=WORDS):
    return Vocabulary.from_words(words)


def decoder_that_ends(variant):
    decoder = make_decoder(variant)
    set_end_bias(decoder, 1)
    return decoder


def older(variant):
    torch.manual_seed(1)
    return OLDER.DecoderRNN(24, 24, V, **variant).eval()


def gru(variant):
    torch.manual_seed(1)
    return GruDecoder(24, 24, V, **variant).eval()


each_kind = pytest.mark.parametrize('make', [decoder_that_ends, older, gru])


@all_variants
@each_kind
def test_the_scores_of_known_words_stay(make, variant):
    decoder, features = make(variant), make_features(variant)
    longer, _, _ = extended(decoder, make_vocab(), LIKE)
    captions = torch.randint(V, (len(features), 7))
    scores, expected = longer(features, captions), decoder(features, captions)
    assert torch.allclose(scores[..., :V], expected, atol=1e-5)
    zebra = (3 * expected[..., 7] + expected[..., 8]) / 4
    assert torch.allclose(scores[..., V], zebra, atol=1e-5)
    assert torch.allclose(scores[..., V + 1], expected[..., 9], atol=1e-5)


@all_variants
@each_kind
def test_new_words_that_are_not_required_change_no_caption(make, variant):
    decoder, features = make(variant), make_features(variant)
    longer, _, new = extended(decoder, make_vocab(), LIKE)
    longer.linear.bias.data[V:] += 20    # so that they would be said
    assert new == [V, V + 1]
    assert ids_of(greedy(longer, features, forbidden=new)) == ids_of(greedy(decoder, features))
    required = [[], [{7}], []] * 3
    lists = constrained_beams(longer, features, required, 3, only_required=new)
    expected = constrained_beams(decoder, features, required, 3)
    for captions, others in zip(lists, expected, strict=True):
        assert ids_of(captions) == ids_of(others)
        for caption, other in zip(captions, others, strict=True):
            assert caption.log_probs == pytest.approx(other.log_probs, abs=1e-4)


@all_variants
def test_a_new_word_that_is_like_one_is_written_as_that_one(variant):
    decoder, features = decoder_that_ends(variant), make_features(variant)
    longer, vocab, new = extended(decoder, make_vocab(), LIKE)
    zebras = vocab('zebras')
    captions = constrained_search(longer, features, [[{zebras}]] * 9, forbidden=[9],
                                  only_required=new)
    others = constrained_search(decoder, features, [[{9}]] * 9)
    for caption, other in zip(captions, others, strict=True):
        assert [9 if word == zebras else word for word in caption.ids] == other.ids
        assert caption.log_probs[0] == pytest.approx(other.log_probs[0], abs=1e-4)
        assert 'zebras' in vocab.decode(caption.ids)


@all_variants
def test_the_decoder_stays_as_it_was(variant):
    decoder = decoder_that_ends(variant)
    before = copy.deepcopy(decoder.state_dict())
    longer, _, _ = extended(decoder, make_vocab(), LIKE)
    for parameter in longer.parameters():
        parameter.zero_()
    after = decoder.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert decoder.linear.out_features == V and len(decoder.linear.weight) == V
    assert (longer.embedding.weight is longer.linear.weight) == variant['tied']
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    assert type(longer.linear) is type(decoder.linear) and not longer.training


def test_ids_of_new_words_follow_and_known_words_keep_theirs():
    vocab = make_vocab()
    _, longer, new = extended(make_decoder(ALL_VARIANTS[0]), vocab, LIKE)
    assert [longer.idx2word[word_id] for word_id in new] == ['zebra', 'zebras']
    assert len(vocab) == V and len(longer) == V + 2 and vocab('zebra') == vocab.unk_id
    assert all(longer(word) == vocab(word) for word in WORDS)
    assert (longer.start_id, longer.end_id, longer.unk_id) == (0, 1, 2)


def test_without_new_words_there_is_nothing_new():
    decoder, features = make_decoder(ALL_VARIANTS[0]), make_features(ALL_VARIANTS[0])
    same, vocab, new = extended(decoder, make_vocab(), {'word5': [('word6', 1)]})
    assert new == [] and vocab.word2idx == make_vocab().word2idx
    assert beams(same, features) == beams(decoder, features)


def test_a_linear_layer_without_bias():
    decoder = make_decoder(ALL_VARIANTS[0])
    decoder.linear = nn.Linear(24, V, bias=False)
    longer, _, _ = extended(decoder, make_vocab(), LIKE)
    assert longer.linear.weight.shape == (V + 2, 24) and longer.linear.bias is None


def test_row_norms_are_those_of_the_rows_by_which_words_are_written():
    decoder = make_decoder(ALL_VARIANTS[0])
    decoder.linear.weight.data[7] = 2.0
    norms = row_norms(decoder, make_vocab())
    assert list(norms) == WORDS and norms['word7'] == pytest.approx(2 * 24 ** 0.5)


@pytest.mark.parametrize(('like', 'problem'), [
    ({'zebra': []}, "'zebra' is like"), ({'zebra': [('word7', 0)]}, 'weights above 0'),
    ({'zebra': [('word7', float('nan'))]}, 'weights above 0'),
    ({'zebra': [('word7', 1), ('mule', 1)]}, "'mule'")])
def test_words_that_are_like_nothing_known_are_refused(like, problem):
    with pytest.raises(ValueError, match=problem):
        extended(make_decoder(ALL_VARIANTS[0]), make_vocab(), like)


def test_decoders_of_another_kind_are_refused():
    vocab = make_vocab()
    with pytest.raises(ValueError, match='Linear cannot take new words: .*NoneType'):
        extended(nn.Linear(3, 4), vocab, LIKE)
    decoder = make_decoder(ALL_VARIANTS[0])
    decoder.linear = nn.Sequential(decoder.linear)
    with pytest.raises(ValueError, match='linear of type Sequential'):
        extended(decoder, vocab, LIKE)
    with pytest.raises(ValueError, match=f'expected {V - 1}'):
        extended(make_decoder(ALL_VARIANTS[0]), make_vocab(WORDS[:-1]), LIKE)
