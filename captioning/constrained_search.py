"""Constrained beam search: beam search for the best caption that says given words.

    required = [[{dog, dogs}], [], [{man, men}, {horse, horses}]]   # of 3 images, as ids
    captions = constrained_search(decoder, features, required, beam_size=5)
    lists = constrained_beams(decoder, features, required, beam_size=5)
    candidates = beams_by_said(decoder, features, required, beam_size=5)    # that may say them

Anderson, Fernando, Johnson and Gould 2017, Guided Open Vocabulary Image Captioning with Constrained
Beam Search. Each required word is a set of forms, any of which will do, such as singular and
plural. Each subset of an image's required words is a state and has its beam of K captions: those
that have said just these words. A form moves a caption on to the state in which its word is said.

A form is written only where it says a word that has not been said yet, so no required word is said
twice. Little is lost by it: of the captions that the shipped model writes for Flickr8k's test
photos, 12 in a thousand name a thing twice, and nearly all of them are faulty ("a man is talking to
a man").

Decoders, features and rules are those of captioning/decoding.py.
Axes: B images, S states, K beam, T ids so far, V vocabulary, F forms of an image.
"""

from collections import defaultdict
from typing import NamedTuple

import torch

from captioning.beam_search import Beam, BestEnded, beams, length_normalized, reorder, start_beam
from captioning.decoding_rules import Caption, Rules, cut_after_end
from captioning.devices import decoding_batch, moved, words_between_checks

MOST_WORDS = 5    # which are 32 states


def constrained_search(decoder, features, required, beam_size=3, max_len=20, forbidden=(),
                       no_repeat=0, length_power=0.7, only_required=(), not_after=None):
    """The best caption that says all required words -> B times Caption; see constrained_beams."""
    lists = constrained_beams(decoder, features, required, beam_size, max_len, forbidden,
                              no_repeat, length_power, only_required, not_after)
    return [captions[0] for captions in lists]


@torch.no_grad()
def constrained_beams(decoder, features, required, beam_size=3, max_len=20, forbidden=(),
                      no_repeat=0, length_power=0.7, only_required=(), not_after=None):
    """As captioning.beam_search.beams, of captions that say required words.

    required: for each image a list of words, each a set of forms (ids); an image without any gets
    what `beams` gives. only_required: ids that are written only where they are required, such as
    new words that borrow the rows of known ones. They do not compete with the other words: these
    are as likely as they would be without them, and their own likelihoods come on top.

    Returns for each image a list of 1 to `beam_size` different Captions. First come those that say
    most of the required words, which is all of them wherever `max_len` and the rules allow it; of
    these those that have ended, from the best score down. Raises ValueError for a list of another
    length than the features, for more than MOST_WORDS words of an image, and for forms that are no
    words of the vocabulary or begin or end a caption.
    """
    lists = beams_by_said(decoder, features, required, beam_size, max_len, forbidden, no_repeat,
                          length_power, only_required, not_after)
    for candidates in lists:
        candidates.sort(key=lambda one: (len(one.said), _has_ended(one, decoder), one.score),
                        reverse=True)
    return [[one.caption for one in candidates[:beam_size]] for candidates in lists]


def _has_ended(candidate, decoder):
    return candidate.caption.ids[-1] == decoder.end_id


class Candidate(NamedTuple):
    """A caption that says some of the words of an image.

    said: frozenset of the positions of these words in the image's list. score: length-normalized.
    """

    said: frozenset
    score: float
    caption: Caption


@torch.no_grad()
def beams_by_said(decoder, features, words, beam_size=3, max_len=20, forbidden=(), no_repeat=0,
                  length_power=0.7, only_required=(), not_after=None, ruled_out=None):
    """The best captions for each choice of an image's words that say just these -> list of
    Candidates for each image.

    words: as `required` of constrained_beams, but none of them must be said. Of each subset of the
    words there are up to `beam_size` different Candidates and one that ended earlier, the best
    first where they have ended; of a subset that cannot be said there are none. ruled_out:
    (B, V) bool, words that are not said of an image, or None. The others do not become likelier by
    it, or sentences would be preferred that lead up to such a word and then say another: "a brown
    and white" dog, where there is none. Other arguments and errors are those of constrained_beams.
    """
    words = _usable(words, forbidden, decoder, len(features))
    rules = {'forbidden': forbidden, 'no_repeat': no_repeat, 'not_after': not_after}
    options = {'beam_size': beam_size, 'max_len': max_len, 'length_power': length_power}
    lists = [None] * len(features)
    for images in _groups(words, features.device):
        chosen = _rows(features, images)
        sets = [list(words[image]) for image in images]
        if ruled_out is not None:
            rules['ruled_out'] = _rows(ruled_out, images)
        if sets[0]:
            of_forms = RulesWithForms(only_required, **rules)
            group = _search(decoder, chosen, sets, of_forms, **options)
        else:
            known = DecoderWithout(only_required, decoder) if only_required else decoder
            group = [_saying_nothing(captions, length_power)
                     for captions in beams(known, chosen, **rules, **options)]
        for image, of_states in zip(images, group, strict=True):
            lists[image] = _candidates(of_states, list(words[image].values()))
    return lists


def _saying_nothing(captions, length_power):
    """The captions of beam search as _search gives them."""
    return [(0, length_normalized(sum(caption.log_probs), len(caption.log_probs), length_power),
             caption) for caption in captions]


def _candidates(of_states, positions):
    """Triples (state, score, Caption) -> list of Candidate. positions: lists, one for each bit."""
    candidates = {}
    for state, score, caption in of_states:
        said = [position for bit, places in enumerate(positions) if state >> bit & 1
                for position in places]
        candidates.setdefault(tuple(caption.ids), Candidate(frozenset(said), score, caption))
    return list(candidates.values())


def _usable(required, forbidden, decoder, images):
    """For each image {set of forms: positions in its list} without words that cannot be said."""
    if len(required) != images:
        raise ValueError(f'required has {len(required)} entries for {images} images: expected one '
                         'list of words for each, which may be empty.')
    forbidden, usable = set(forbidden), []
    for image, words in enumerate(required):
        words = [frozenset(word) for word in words]
        forms = frozenset().union(*words)
        if min(forms, default=0) < 0 or forms & {decoder.start_id, decoder.end_id}:
            raise ValueError(f'required[{image}] has the forms {sorted(forms)}: expected ids of '
                             f'words, not of the start ({decoder.start_id}) or the end '
                             f'({decoder.end_id}).')
        different = {}
        for position, word in enumerate(words):
            if sayable := word - forbidden:
                different.setdefault(sayable, []).append(position)
        if len(different) > MOST_WORDS:
            raise ValueError(f'required[{image}] has {len(different)} words: expected at most '
                             f'{MOST_WORDS}, since each subset of them has its beam.')
        usable.append(different)
    return usable


def _rows(features, images):
    if len(images) == len(features):
        return features
    return features[moved(torch.tensor(images), features.device)]


def _groups(required, device):
    """Split the images into groups of the same number of required words -> lists of images.

    A group is so small that no more captions are under way than beam search has of a full batch.
    """
    by_number = defaultdict(list)
    for image, words in enumerate(required):
        by_number[len(words)].append(image)
    for number, images in by_number.items():
        size = max(1, decoding_batch(device) // 2 ** number)
        if number == 0:
            size = len(images)
        for first in range(0, len(images), size):
            yield images[first:first + size]


class DecoderWithout:
    """A decoder in which certain words do not exist: it is as likely to write each of the others
    as if they were not there.
    """

    def __init__(self, words, decoder):
        self.decoder, self.rules = decoder, Rules(words)
        self.start_id, self.end_id = decoder.start_id, decoder.end_id
        self.init_state = decoder.init_state

    def step(self, words, state):
        logits, state = self.decoder.step(words, state)
        return self.rules.without_forbidden(logits.float()), state


# ---- The required words as tensors ----

class Forms:
    """The forms of the required words of B images, n words each.

    states: S = 2 ** n. State s has said the words of which the bit is set in s.
    ids: (B * S * K, F), for each place of the beam the forms of its image.
    moves: (B, S, S, 1, k + F), 0 where a caption may come to the state of the second axis, from
        that of the third, by the word of the last; else -inf. These words are k that are no form,
        which leave the state as it is, and then the forms.
    """

    def __init__(self, required, beam_size, likeliest, device):
        self.states = 2 ** len(required[0])
        said_by = [_words_said_by_each_form(sets) for sets in required]
        most = max(map(len, said_by))
        # An image with fewer forms than others has its first one again, which then says nothing.
        ids, said = [], []
        for words_said in said_by:
            first, *_ = words_said
            missing = most - len(words_said)
            ids.append([*words_said, *[first] * missing])
            said.append([*words_said.values(), *[0] * missing])
        ids = torch.tensor(ids)                                             # (B, F)
        self.largest = int(ids.max())
        ids = ids.repeat_interleave(self.states * beam_size, dim=0)
        self.ids = moved(ids, device)
        moves = _moves(torch.tensor(said), self.states, likeliest)
        self.moves = moved(moves, device)


def _words_said_by_each_form(words):
    """Sets of forms -> dict from each form to the words that it says, as bits."""
    said = {}
    for bit, forms in enumerate(words):
        for form in sorted(forms):
            said[form] = said.get(form, 0) | 1 << bit
    return said


def _moves(said, states, likeliest):
    """said: (B, F) bits -> `Forms.moves`."""
    state = torch.arange(states)
    after = state[:, None] | said[:, None]                                  # (B, S, F)
    says_a_new_one = after != state[:, None]
    arrives = after[:, None] == state[:, None, None]                        # (B, S, S, F)
    by_form = arrives & says_a_new_one[:, None]
    stays = torch.eye(states, dtype=torch.bool)[:, :, None]                 # (S, S, 1)
    stays = stays.expand(len(said), -1, -1, likeliest)                      # (B, S, S, k)
    possible = torch.cat([stays, by_form], dim=3)[:, :, :, None]
    return torch.zeros(possible.shape).masked_fill(~possible, -torch.inf)


# ---- The search ----

def _search(decoder, features, required, rules, beam_size, max_len, length_power):
    """constrained_beams of images that have the same number of required words, at least one."""
    images, device, end_id = len(features), features.device, decoder.end_id
    states, forms, patience = 2 ** len(required[0]), None, words_between_checks(device)
    state = decoder.init_state(features)
    rows_per_image = states * beam_size
    state = start_state = tuple(part.repeat_interleave(rows_per_image, dim=0) for part in state)
    beam = start_beam(images, rows_per_image, decoder.start_id, device)
    best = BestEnded(images * states, max_len, end_id, device)
    while beam.captions.shape[1] < max_len:
        logits, state = decoder.step(beam.captions[:, -1], state)
        if forms is None:
            forms = _forms_of(required, beam_size, logits)
        log_probs, words = rules.next_words(logits, beam.captions, forms.ids, beam_size)
        beam, rows = extend(beam, beam_size, forms.moves, log_probs, words, end_id, length_power)
        state = reorder(state, rows, start_state)
        best.update(beam, beam_size)
        if beam.captions.shape[1] % patience == 0 and _all_have_ended(beam):
            break
    return _list_captions(best, beam, states, beam_size, end_id)


def _forms_of(required, beam_size, logits):
    """Forms, once the size of the vocabulary is known from the first logits (rows, V)."""
    V = logits.shape[1]
    forms = Forms(required, beam_size, min(beam_size, V), logits.device)
    if forms.largest >= V:    # a GPU would not say what is wrong
        raise ValueError(f'required has the id {forms.largest}, but the decoder {V} words.')
    return forms


def _all_have_ended(beam):
    """Places of a beam that are empty, such as those of a state that cannot be, do not count."""
    empty = beam.scores == -torch.inf
    return (beam.ended | empty).all()


class RulesWithForms:
    """The words that may come next: the likeliest that are no form, and all forms."""

    def __init__(self, only_required, forbidden, no_repeat, not_after, ruled_out=None):
        self.rules = Rules(forbidden, no_repeat, not_after, ruled_out)
        self.competing = Rules(only_required)
        self._beside = None

    def next_words(self, logits, captions, forms, beam_size):
        """-> log-probabilities, -inf where a rule forbids the word, and ids, both (rows, k + F).

        logits: (rows, V), of the word that follows captions (rows, T). forms: (rows, F).
        """
        competing = self.competing.without_forbidden(logits.float())
        _, allowed = self.rules.next_words(competing, captions)             # (rows, V)
        of_forms = allowed.gather(1, forms)                                 # (rows, F)
        if self.competing.forbidden:
            beside = self.rules.without_ruled_out(logits).gather(1, forms)
            beside = beside - competing.logsumexp(dim=1, keepdim=True)
            if self.rules.not_after:
                beside = beside + self.rules.bias_after(captions, logits).gather(1, forms)
            of_forms = torch.where(self._are_beside(forms), beside, of_forms)
        allowed.scatter_(1, forms, -torch.inf)    # in place: a copy takes as long as the softmax
        likeliest, words = allowed.topk(min(beam_size, allowed.shape[1]), dim=1)
        return torch.cat([likeliest, of_forms], dim=1), torch.cat([words, forms], dim=1)

    def _are_beside(self, forms):
        """Which of the forms (rows, F) do not compete with other words."""
        if self._beside is None:    # the same at each step
            only_required = moved(torch.tensor(self.competing.forbidden), forms.device)
            self._beside = torch.isin(forms, only_required)
        return self._beside


def extend(beam, beam_size, moves, log_probs, words, end_id, length_power):
    """Write one more word: of all ways to come to a state of an image, keep the best K.

    moves: (B, S, S, 1, k + F), see Forms. log_probs, words: (B * S * K, k + F), see RulesWithForms.
    Returns the new beam, and for each of its captions the row of the old beam that it goes on with,
    (B * S * K,).
    """
    B, S, choices = *moves.shape[:2], words.shape[1]
    end_again = torch.full_like(log_probs[0], -torch.inf)
    end_again[:1].zero_()
    log_probs = torch.where(beam.ended[:, None], end_again, log_probs)
    words = words.masked_fill(beam.ended[:, None], end_id)
    lengths = beam.words + ~beam.ended                                      # (B * S * K,)
    scores = length_normalized(beam.total[:, None] + log_probs, lengths[:, None], length_power)
    scores = scores.view(B, 1, S, beam_size, choices) + moves               # (B, S, S, K, k + F)
    scores, chosen = scores.flatten(2).topk(beam_size, dim=2)               # (B, S, K)

    first_rows = S * beam_size * torch.arange(B, device=chosen.device)
    rows = (first_rows[:, None, None] + chosen // choices).flatten()        # (B * S * K,)
    choice, scores = (chosen % choices).flatten(), scores.flatten()
    words, word_log_probs = words[rows, choice], log_probs[rows, choice]
    lengths = lengths[rows]
    total = scores * lengths ** length_power
    ended = (words == end_id) & (scores > -torch.inf)
    captions = torch.cat([beam.captions[rows], words[:, None]], dim=1)
    log_probs = torch.cat([beam.log_probs[rows], word_log_probs[:, None]], dim=1)
    return Beam(captions, log_probs, lengths, total, scores, ended), rows


def _list_captions(best, beam, states, beam_size, end_id):
    """The captions of each image as triples (state, score, Caption), none for an empty place."""
    of_best = _with_states(best, states, 1, end_id)
    of_beam = _with_states(beam, states, beam_size, end_id)
    lists = []
    for triples, others in zip(of_best, of_beam, strict=True):
        triples = [*triples, *others]
        exist = [triple for triple in triples if triple[1] > -torch.inf]
        lists.append(exist or triples[:1])    # the rules forbid every word
    return lists


def _with_states(beam, states, places, end_id):
    """-> for each image its captions as triples (state, score, Caption).

    beam: so many places in each state.
    """
    captions = cut_after_end(beam.captions, beam.log_probs, end_id)
    triples = [(row // places % states, score, caption) for row, (score, caption)
               in enumerate(zip(beam.scores.tolist(), captions, strict=True))]
    size = states * places
    return [triples[first:first + size] for first in range(0, len(triples), size)]
