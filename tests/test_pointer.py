"""The decoder that copies recognized words, of experiments/pointer.py."""

import pytest
import torch

from captioning.decoding import greedy
from captioning.recognition.words import Word
from experiments.pointer import LEAST, DecoderRNN, NumberedPlaces
from vocabulary import Vocabulary

WORDS = [Word('dog', 'dogs'), Word('zebra', 'zebras'), Word('corn', use='mass')]
DOG, ZEBRA, CORN = range(3)
VOCAB = Vocabulary.from_words('<start> <end> <unk> a dog dogs zebra zebras corn runs'.split())
NEW = ['zebra', 'zebras']
E, PLACES, WORD_PLACES = 16, 5, 2


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    decoder = DecoderRNN(E, 16, len(VOCAB), recognized=len(WORDS), word_places=WORD_PLACES).eval()
    decoder.know(WORDS, VOCAB, {'zebra': [('dog', 1.0)], 'zebras': [('dogs', 1.0)]}, NEW)
    return decoder


def features_with(*numbers):
    """Features of images with these words, or None, at their places: (B, P, E + 1)."""
    torch.manual_seed(1)
    features = torch.randn(len(numbers), PLACES + WORD_PLACES, E + 1)
    features[:, :, -1] = 0
    for row, words in enumerate(numbers):
        for place, word in enumerate(words):
            features[row, PLACES + place, -1] = 0 if word is None else 1 + word
    return features


def ids(*words):
    return torch.tensor([[VOCAB(word) for word in words]])


def copies(decoder):
    """Let a decoder copy whatever it may."""
    torch.nn.init.constant_(decoder.stay.bias, -50)


def test_the_head_tells_a_place_of_a_word_by_its_first_number_and_embeds_the_rest():
    head = NumberedPlaces(torch.nn.Linear(3, 2))
    features = torch.tensor([[[0.5, 1, 2], [-423, 1, 2], [0, 1, 2]]])
    embedded = head(features)
    assert embedded[0, :, -1].tolist() == [0, 423, 0]
    torch.testing.assert_close(embedded[0, 1, :-1], head[0](features[0, 2]))


def test_steps_give_the_scores_of_forward_which_are_those_of_the_scored_alone(decoder):
    features = features_with((DOG, ZEBRA), (None, None))
    captions = torch.cat([ids('<start>', 'a', 'zebra', 'runs'), ids('<start>', 'a', 'dog', 'runs')])
    scores = decoder(features, captions)
    scored = torch.tensor([6, 1])
    torch.testing.assert_close(decoder(features, captions, scored), scores.flatten(0, 1)[scored])
    state = decoder.init_state(features)
    for position in range(1, 4):
        step, state = decoder.step(captions[:, position - 1], state)
        torch.testing.assert_close(step, scores[:, position])
    torch.testing.assert_close(scores.exp().sum(dim=2), torch.ones(2, 4), rtol=1e-4, atol=1e-4)


def test_a_word_that_no_caption_has_is_written_where_it_is_recognized_alone(decoder):
    features = features_with((ZEBRA, None), (DOG, CORN))
    new = [VOCAB(form) for form in NEW]
    captions = ids('<start>', 'a', 'a').expand(2, -1)
    with_zebra, without = decoder(features, captions).exp()
    assert (with_zebra[:, new].sum(dim=1) > 0.01).all()
    assert torch.allclose(without[:, new], torch.tensor(LEAST))
    copies(decoder)
    with_zebra, without = decoder(features, captions).exp()
    assert (with_zebra[:, new].sum(dim=1) > 0.99).all()
    learned = [VOCAB(form) for form in ('dog', 'dogs', 'corn')]
    assert (without[:, learned].sum(dim=1) > 0.99).all()
    assert (without[:, VOCAB('corn')] > 0.01).all()    # which has no plural


def test_a_new_word_is_read_as_the_one_that_it_is_like(decoder):
    features = features_with((None, None))
    zebra, dog, corn = (decoder(features, ids('<start>', word, 'a'))[:, 2]
                        for word in ('zebra', 'dog', 'corn'))
    torch.testing.assert_close(zebra, dog)
    assert not torch.allclose(zebra, corn)


def test_in_turn_a_recognized_word_is_copied_or_not_written(decoder):
    decoder.in_turn = 1.0
    features = features_with((DOG, None), (None, None))
    captions = ids('<start>', 'a', 'a').expand(2, -1)
    dog = VOCAB('dog')
    torch.nn.init.constant_(decoder.stay.bias, 50)     # it copies nothing
    learned = decoder(features, captions).exp()[:, :, dog]
    assert (learned > 10 * LEAST).all()
    decoder.train()
    recognized, not_recognized = decoder(features, captions).exp()[:, :, dog]
    assert torch.allclose(recognized, torch.tensor(LEAST))
    torch.testing.assert_close(not_recognized, learned[1])


def test_it_is_decoded_as_any_other(decoder):
    copies(decoder)
    caption, = greedy(decoder, features_with((ZEBRA, None)), max_len=4)
    assert {VOCAB.idx2word[word] for word in caption.ids[1:]} <= set(NEW)
