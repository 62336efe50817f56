"""Captions that name what a recognizer sees, though no caption that was trained on has the word.

    naming = Naming(captioner, recognizer)
    naming.describe(seen, beam_size=5)              # lists of Description, best first

A word that the recognizer holds likely may be said, and is where what speaks for it outweighs what
the sentence loses by it. Constrained beam search has the best captions with and without each of
them; the first is the one with the highest

    length-normalized log-probability + sum over the words that it says of
        min(weight * logit(p) + bonus, highest)

and what the captioner's consensus adds, where it has one.

Words that the decoder has not learned borrow the rows of like ones. People and animals that the
recognizer rules out are not said. docs/names.md has what each part brings.

Axes: N images, W words of the recognizer, V vocabulary.
"""

import math
from typing import NamedTuple

import torch

from captioning.constrained_search import beams_by_said
from captioning.decoding_rules import Caption
from captioning.devices import moved
from captioning.extended_vocabulary import extended, row_norms
from captioning.grammar import grammar_of
from captioning.recognition.like_words import KnownNouns

PEOPLE = 'people'        # words of this kind are never asked for: a caption has them by itself


class Trust(NamedTuple):
    """When a recognized word is said; docs/names.md tells how the defaults were chosen.

    least: probability of a word that may be said. most: such words of an image. weight, bonus,
    highest: of the sum above; however sure a word is, it is not worth any sentence. ruled_out:
    {kind of word: probability below which it is not there}.
    """

    least: float = 0.05
    most: int = 2
    weight: float = 0.45
    bonus: float = 1.2
    highest: float = 1.5
    ruled_out: dict = {'animal': 0.03, 'bird': 0.03, PEOPLE: 0.7}

    def evidence(self, probability):
        """What speaks for saying a word of this probability; captions' scores are of its kind."""
        odds = max(probability, 1e-4) / max(1 - probability, 1e-4)
        return min(self.weight * math.log(odds) + self.bonus, self.highest)


class Seen(NamedTuple):
    """What a captioner has of N images before it says anything.

    features: its own, (N, C) or (N, P, C). probabilities: of the recognizer's words, (N, W), or
    None where nothing is recognized.
    """

    features: object
    probabilities: object = None


class Recognized(NamedTuple):
    """A word and how likely the recognizer holds it, 0 to 1."""

    word: str
    probability: float


class Description(NamedTuple):
    """A caption in words. names: the Recognized that it says, which is why it was chosen."""

    text: str
    caption: Caption
    names: tuple = ()


class Naming:
    """Describes images by a captioner and a recognizer.

    captioner: a Captioner; its decoder and vocabulary stay as they are. recognizer: see
    captioning/recognition. trust: a Trust. `.decoder` and `.vocab` have the recognizer's words
    beside the learned ones; `.not_after` is the grammar. ValueError tells why a decoder cannot take
    new words.
    """

    def __init__(self, captioner, recognizer, trust=None):
        self.captioner, self.recognizer = captioner, recognizer
        self.trust = trust or Trust()
        self.decoder, self.vocab, self._new_ids = self._with_new_words()
        self.not_after = grammar_of(self.vocab, recognizer.words, self._new_ids)
        self._forms = {word.word: self._ids(word) for word in recognizer.words}
        self._asked_for = torch.tensor([word.kind != PEOPLE for word in recognizer.words])
        self._judged, self._least, self._judged_forms = self._ruling_out()

    def _with_new_words(self):
        """The captioner's decoder and vocabulary with the recognizer's words -> Extended."""
        decoder, vocab, like = self.captioner.decoder, self.captioner.vocab, {}
        nouns = KnownNouns(row_norms(decoder, vocab))
        for word in self.recognizer.words:
            for form in filter(None, (word.word, word.plural)):
                like[form] = nouns.like(form, kind=word.kind)
        like = {form: words for form, words in like.items() if words}
        return extended(decoder, vocab, like)

    def _ruling_out(self):
        """For each word that may be ruled out its column, the least probability at which it is not
        (A,), and its forms, (A, V): 1, others 0.
        """
        words, ruled_out = self.recognizer.words, self.trust.ruled_out
        columns = [column for column, word in enumerate(words) if word.kind in ruled_out]
        least = [ruled_out[words[column].kind] for column in columns]
        forms = torch.zeros(len(columns), len(self.vocab))
        for row, column in enumerate(columns):
            forms[row, list(self._forms[words[column].word])] = 1
        return columns, torch.tensor(least), forms

    def _ids(self, word):
        """The forms of a word that can be written: all that were learned, and of new ones two."""
        return frozenset(self.vocab(form) for form in word.forms if form in self.vocab.word2idx)

    # ---- What is there ----

    def recognized(self, probabilities):
        """Probabilities (N, W) -> for each image its Recognized, the likeliest first."""
        asked_for = moved(self._asked_for, probabilities.device)
        most = min(self.trust.most, len(asked_for))
        likeliest, words = (probabilities * asked_for).topk(most, dim=1)
        return [[Recognized(self.recognizer.words[word].word, probability)
                 for word, probability in zip(*of_image, strict=True)
                 if probability >= self.trust.least]
                for of_image in zip(words.tolist(), likeliest.tolist(), strict=True)]

    # ---- What is said ----

    def describe(self, seen, beam_size=1, max_len=20, count=1, rows=None):
        """Descriptions of Seen images, or of these rows -> for each a list of 1 to `count`.

        The best comes first. beam_size: captions kept in mind for each choice of words.
        """
        candidates = self.candidates(seen, beam_size, max_len, rows)
        return [self.ranked(*of_image)[:count] for of_image in candidates]

    def candidates(self, seen, beam_size=1, max_len=20, rows=None):
        """The best captions with and without each word -> for each image a list of Candidate, and
        its Recognized, to whose positions `said` of a Candidate points. The support of the
        captioner's consensus is in the scores.
        """
        probabilities = seen.probabilities
        if rows is not None:
            probabilities = probabilities[rows]
        found = self.captioner.decode(seen.features, self._search, rows, beam_size=beam_size,
                                      max_len=max_len, probabilities=probabilities)
        supports = self.captioner.support(
            seen, [[self.vocab.decode(one.caption.ids) for one in candidates]
                   for candidates, _ in found], rows)
        return [([one._replace(score=one.score + more)
                  for one, more in zip(candidates, support, strict=True)], recognized)
                for (candidates, recognized), support in zip(found, supports, strict=True)]

    def ranked(self, candidates, recognized):
        """Candidates of an image -> its Descriptions, the best first."""
        descriptions = []
        for said, score, caption in candidates:
            names = tuple(recognized[position] for position in sorted(said))
            score += sum(self.trust.evidence(name.probability) for name in names)
            ended = caption.ids[-1] == self.decoder.end_id
            description = Description(self.vocab.decode(caption.ids), caption, names)
            descriptions.append(((ended, score), description))
        descriptions.sort(key=lambda ranked: ranked[0], reverse=True)
        return [description for _, description in descriptions]

    def _search(self, decoder, embedded, probabilities, forbidden, **options):
        """A method of decoding that gives `candidates`; the decoder is the extended one.

        Like a new word, the unknown one does not compete: a word that is asked for may be what the
        decoder would say there, had it learned it.
        """
        recognized = self.recognized(probabilities)
        words = [[self._forms[name.word] for name in names] for names in recognized]
        apart = [*self._new_ids, self.vocab.unk_id]
        ruled_out = self._ruled_out(moved(probabilities, embedded.device))
        lists = beams_by_said(self.decoder, embedded, words, forbidden=forbidden,
                              ruled_out=ruled_out, only_required=apart,
                              not_after=self.not_after, **options)
        return list(zip(lists, recognized, strict=True))

    def _ruled_out(self, probabilities):
        """Probabilities (N, W) -> the words that are not said of each image, (N, V) bool."""
        device = probabilities.device
        is_not_there = probabilities[:, self._judged] < moved(self._least, device)      # (N, A)
        return is_not_there.float() @ moved(self._judged_forms, device) > 0
