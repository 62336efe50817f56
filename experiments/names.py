"""What each part of naming brings: captions of photos with and without what the encoder recognizes.

    python -m experiments.names path/to/coco80 path/to/flickr8k

For each folder's validation photos: a table of one step a line, each with those above it; how the
thresholds do where they are chosen on other photos (five-fold, and the other folders); and an
oracle, which is given the words that at least two references share instead of what the encoder
recognizes.
"""

import argparse
import itertools

import numpy as np
import torch

from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, load_captioner
from captioning.naming import PEOPLE, Naming, Trust
from captioning.scoring import References, as_results, paired_test, score
from captioning.scoring.hallucination import chair, says, things_said
from captioning.scoring.split_captions import seen_split
from captioning.tables import percent, text_table
from scripts import run_main

HEADER = ('step', 'CIDEr', 'difference', 'BLEU-4', 'names', 'right', 'absent things', 'people')
RULED_OUT = Trust().ruled_out
ANIMALS = {kind: least for kind, least in RULED_OUT.items() if kind != PEOPLE}
SKETCH = 0.3             # probability above which the likeliest word must be said
FOLDS = 5
WEIGHTS, BONUSES, PEOPLE_LEAST = (0.3, 0.5, 0.7), (0.6, 0.9, 1.2, 1.5), (0.6, 0.7, 0.8)
CHOICES = list(itertools.product(PEOPLE_LEAST, WEIGHTS, BONUSES))


class Photos:
    """The validation photos of a data set, as a captioner sees them, and their references."""

    def __init__(self, captioner, folder):
        data = CaptionData(folder)
        self.name, self.words = data.name, captioner.naming.recognizer.words
        self.seen, self.rows, images = seen_split(captioner, data, 'val')
        self.ids = [images[row]['id'] for row in self.rows]
        self.references = References(data.annotation_file('val'), self.ids,
                                     annotations=data.annotations('val'))
        self.tokens = [self.references.tokens[image_id] for image_id in self.ids]
        self.forms = {word.word: frozenset(word.forms) for word in self.words}

    def results(self, descriptions):
        texts = [description.text for description in descriptions]
        return as_results(dict(zip(self.ids, texts, strict=True)))

    def row(self, title, descriptions, plain):
        """A line of the table. plain: Descriptions without names."""
        results = self.results(descriptions)
        scores = score(results, self.references, draws=1000)
        test = paired_test(self.results(plain), results, self.references)['CIDEr']
        low, high = test['interval']
        difference = f'{100 * test["difference"]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
        cider = percent(scores['CIDEr'], scores['intervals']['CIDEr'])
        cells = cider, difference, percent(scores['BLEU-4'])
        return title, *cells, *self._names(descriptions), *self._absent(descriptions)

    def _names(self, descriptions):
        """How many names are said, and the share that any reference has."""
        right = []
        for description, references in zip(descriptions, self.tokens, strict=True):
            for name in description.names:
                forms = self.forms[name.word]
                right.append(any(says(reference, forms) for reference in references))
        return f'{len(right)}', f'{np.mean(right):.2f}' if right else ''

    def _absent(self, descriptions):
        """Of the things said the share that no reference has, and captions with absent people."""
        captions = [description.text.rstrip(' .') for description in descriptions]
        things = list(self.forms.values())
        said, absent = things_said(captions, self.tokens, things)
        people = next(index for index, word in enumerate(self.words) if word.kind == PEOPLE)
        wrong = sum(people in indices for indices in absent)
        return f'{chair(said, absent)["of things"]:.2f}', f'{wrong}'

    def given(self):
        """Seen with the words that two references share, as sure as can be, instead."""
        shared = []
        for references in self.tokens:
            counts = [sum(says(reference, word.forms) for reference in references)
                      for word in self.words]
            shared.append([count >= 2 for count in counts])
        probabilities = torch.zeros(self.seen.probabilities.shape)
        probabilities[torch.as_tensor(self.rows)] = torch.tensor(shared).float()
        return self.seen._replace(probabilities=probabilities)


# ---- The steps ----

def without_names(captioner, photos, beam_size):
    seen = photos.seen._replace(probabilities=None)
    return [best for best, *_ in captioner.describe(seen, beam_size, rows=photos.rows)]


def sketch(captioner, photos, beam_size):
    """The likeliest word, if it is likely enough, must be said -> Descriptions."""
    naming = Naming(captioner, captioner.naming.recognizer, Trust(SKETCH, most=1, ruled_out={}))
    naming.not_after = None
    descriptions = []
    for candidates, recognized in naming.candidates(photos.seen, beam_size, rows=photos.rows):
        must_say = [one for one in candidates if len(one.said) == len(recognized)]
        descriptions.append(naming.ranked(must_say or candidates, recognized)[0])
    return descriptions


def with_names(captioner, photos, beam_size, trust, grammar=True, seen=None):
    naming = Naming(captioner, captioner.naming.recognizer, trust)
    if not grammar:
        naming.not_after = None
    seen = seen or photos.seen
    lists = naming.describe(seen, beam_size, rows=photos.rows)
    return [best for best, *_ in lists]


def table(captioner, photos, beam_size, cross_validated):
    """What each step brings on photos -> rows. cross_validated: Descriptions."""
    plain = without_names(captioner, photos, beam_size)
    steps = {'without names': plain,
             'the likeliest word must be said': sketch(captioner, photos, beam_size)}
    for title, trust, grammar in (
            ('said where more speaks for it', Trust(most=1, ruled_out={}), False),
            ('two words', Trust(ruled_out={}), False),
            ('grammar', Trust(ruled_out={}), True),
            ('animals ruled out', Trust(ruled_out=ANIMALS), True),
            ('people ruled out: as it ships', Trust(), True)):
        steps[title] = with_names(captioner, photos, beam_size, trust, grammar)
    steps['thresholds of other photos'] = cross_validated
    steps['oracle, two words'] = with_names(captioner, photos, beam_size, Trust(),
                                            seen=photos.given())
    return [HEADER, *(photos.row(title, descriptions, plain)
                      for title, descriptions in steps.items())]


# ---- Thresholds chosen on other photos ----

class Choices:
    """Photos described with each choice of thresholds: descriptions[choice][image], and the CIDEr
    of each, ciders (choices, images).
    """

    def __init__(self, captioner, photos, beam_size):
        self.descriptions, ciders = [], []
        for naming, candidates in self._by_people(captioner, photos, beam_size):
            for weight, bonus in itertools.product(WEIGHTS, BONUSES):
                naming.trust = naming.trust._replace(weight=weight, bonus=bonus)
                self.descriptions.append([naming.ranked(*of_image)[0] for of_image in candidates])
        for descriptions in self.descriptions:
            scores = score(photos.results(descriptions), photos.references)
            per_image = scores['cider_per_image']
            ciders.append([per_image[image_id] for image_id in photos.ids])
        self.ciders = np.array(ciders)

    def _by_people(self, captioner, photos, beam_size):
        for least in PEOPLE_LEAST:
            trust = Trust(ruled_out={**ANIMALS, PEOPLE: least})
            naming = Naming(captioner, captioner.naming.recognizer, trust)
            yield naming, naming.candidates(photos.seen, beam_size, rows=photos.rows)

    def cross_validated(self, others):
        """Each fifth of the photos with the thresholds that are best, on the average of the data
        sets, on its other photos and on those of `others` -> Descriptions.
        """
        of_others = sum(each.ciders.mean(axis=1) for each in others)
        fold = np.arange(self.ciders.shape[1]) % FOLDS
        best = []
        for each in range(FOLDS):
            of_rest = self.ciders[:, fold != each].mean(axis=1)
            best.append((of_rest + of_others).argmax())
        print('chosen (people, weight, bonus):', *(CHOICES[choice] for choice in best))
        return [self.descriptions[best[each]][image] for image, each in enumerate(fold)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='+', help='data sets, each the folder that holds cocoapi/')
    parser.add_argument('--checkpoint', default=SHIPPED)
    parser.add_argument('--beam-size', type=int, default=5)
    args = parser.parse_args()
    captioner = load_captioner(args.checkpoint, names=True, consensus=False)
    sets = [Photos(captioner, folder) for folder in args.folders]
    choices = [Choices(captioner, photos, args.beam_size) for photos in sets]
    for photos, chosen in zip(sets, choices, strict=True):
        print(f'\n{photos.name}, {len(photos.ids)} photos')
        others = [each for each in choices if each is not chosen]
        cross_validated = chosen.cross_validated(others)
        print(text_table(table(captioner, photos, args.beam_size, cross_validated)), flush=True)


if __name__ == '__main__':
    run_main(main)
