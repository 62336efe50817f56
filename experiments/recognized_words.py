"""What does a decoder gain that reads the recognized words, and captions that have no photo?

    python -m experiments.recognized_words path/to/flickr8k path/to/coco80 --text captions.tsv.gz

A model with attention learns the training captions of the first folder, its CNN as the best that
ships has tuned it, with what VARIANTS lists; the validation photos of all folders are captioned.

- words: up to three recognized words are further places of an image. A word's place has the row of
  ImageNet's classifier for it, which is a vector like those of other places.
- swapped: some photos are there a second time, with a noun of their captions and its place
  exchanged for one of the same kind (after Bujimalla et al. 2021, Partially-Supervised Novel Object
  Captioning Leveraging Context from Paired Data): there the noun is the word's place's, not the
  photo's.
- text: captions without photos, zeros in the place of the grid; their nouns are what is recognized.
- pointer, and in turn: see experiments/pointer.py.
"""

import argparse
import collections

import numpy as np
import torch

from captioning.associations import read_captions
from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, load_captioner, model_file_beside
from captioning.captions import Captions
from captioning.devices import moved
from captioning.files import ROOT, repository_path
from captioning.naming import PEOPLE, Seen
from captioning.recognition.like_words import KnownNouns
from captioning.scoring import References, as_results, score
from captioning.scoring.split_captions import seen_split
from captioning.tables import percent, text_table
from captioning.training import (
    finish_epoch,
    make_settings,
    open_run,
    train_one_epoch,
    validate,
)
from captioning.training.features_phase import FeaturesPhase
from scripts import run_main
from vocabulary import Vocabulary, tokenize

VARIANTS = {'photos': (), 'words': ('words',), 'words-swapped': ('words', 'swapped'),
            'text': ('text',), 'words-text': ('words', 'text'), 'pointer': ('words', 'pointer'),
            'pointer-in-turn': ('words', 'pointer', 'in turn')}
POINTER = ROOT / 'experiments' / 'pointer.py'
IN_TURN = 0.3          # of the recognized words that are treated as new, where this is done
WORDS = 3              # places of an image for recognized words
LEAST = 0.05           # probability of a word that is recognized
STRENGTH = 3           # length of a word's place, in those of the mean place of a photo
HEADER = ('learned from', 'photos', 'BLEU-4', 'CIDEr', 'CIDEr with names')


# ---- What there is to learn ----

class Examples:
    """Images, or what stands for them, with their captions.

    grid_rows: (N,), the row of each one's grid, -1 where there is no photo. probabilities: (N, W)
    of the recognizer's words. captions: for each a list of lists of tokens.
    """

    def __init__(self, grid_rows, probabilities, captions):
        self.grid_rows, self.captions = np.asarray(grid_rows), captions
        self.probabilities = np.asarray(probabilities, np.float32)

    def __add__(self, other):
        return Examples(np.concatenate([self.grid_rows, other.grid_rows]),
                        np.concatenate([self.probabilities, other.probabilities]),
                        self.captions + other.captions)


def examples_of_photos(data, seen, rows, images):
    """The training photos of a data set. seen, rows, images: as seen_split gives them."""
    captions = collections.defaultdict(list)
    for entry in data.annotations('train')['annotations']:
        captions[entry['image_id']].append(tokenize(entry['caption']))
    return Examples(rows, seen.probabilities[torch.as_tensor(rows)],
                    [captions[images[row]['id']] for row in rows])


class Nouns:
    """The recognizer's words as captions have them. People are left out: ImageNet has none."""

    def __init__(self, words, captions):
        self.words = words
        self.of_form = {form: index for index, word in enumerate(words) if word.kind != PEOPLE
                        for form in word.forms if ' ' not in form}
        self.tokens = collections.Counter(token for each in captions for tokens in each
                                          for token in tokens)
        self.counts = np.array([sum(self.tokens[form] for form in word.forms) for word in words])

    def counted(self, captions):
        """How many of an image's captions have each word -> Counter of indices."""
        counter = collections.Counter()
        for tokens in captions:
            counter.update({self.of_form[token] for token in tokens if token in self.of_form})
        return counter

    def teach(self, decoder, vocab):
        """Tell a decoder of experiments/pointer.py how the words are written."""
        known = [word for word in vocab.word2idx if word in self.tokens]
        like_words = KnownNouns(sorted(known, key=self.tokens.get, reverse=True))
        like = {form: like_words.like(form, kind=word.kind)
                for word in self.words for form in written_forms(word)}
        decoder.know(self.words, vocab, {form: pairs for form, pairs in like.items() if pairs},
                     is_new=[form for form in like if form not in self.tokens])

    def like(self, index):
        """Indices of the other words of the same kind that are one token."""
        kind = self.words[index].kind
        return [other for form, other in self.of_form.items()
                if form == self.words[other].word and other != index
                and self.words[other].kind == kind]


def written_forms(word):
    """Singular and plural of a Word, which a decoder may be the first to write."""
    return [form for form in (word.word, word.plural) if form]


def examples_of_text(groups, nouns, top_probabilities, count, random):
    """`count` groups of captions, those with nouns that photos' captions lack more often."""
    counted = [nouns.counted(captions) for captions in groups]
    weights = np.array([max((1 / np.sqrt(5 + nouns.counts[index]) for index in counter),
                            default=0.02) for counter in counted])
    chosen = random.choice(len(groups), count, replace=False, p=weights / weights.sum())
    probabilities = np.zeros((count, len(nouns.words)), np.float32)
    named = list(set(nouns.of_form.values()))
    for row, group in enumerate(chosen):
        for index, times in counted[group].items():
            if random.random() < 0.35 + 0.13 * times:
                probabilities[row, index] = random.choice(top_probabilities)
        if random.random() < 0.6:    # what is recognized is sometimes wrong
            wrong = random.choice(named)
            probabilities[row, wrong] = random.choice(top_probabilities, 2).min()
    return Examples(np.full(count, -1), probabilities, [groups[group] for group in chosen])


def swapped_examples(photos, nouns, top_probabilities, count, random):
    """Up to `count` photos again, one noun of theirs exchanged."""
    grid_rows, probabilities, captions = [], [], []
    for row in random.permutation(len(photos.captions)):
        counted = nouns.counted(photos.captions[row])
        shared = [index for index, times in counted.items() if times >= 2 and nouns.like(index)]
        if not shared or len(captions) == count:
            continue
        old = random.choice(shared)
        new = random.choice(nouns.like(old))
        of_row = photos.probabilities[row].copy()
        known = of_row[old] >= LEAST
        of_row[new] = of_row[old] if known else random.choice(top_probabilities)
        of_row[old] = 0
        grid_rows.append(photos.grid_rows[row])
        probabilities.append(of_row)
        captions.append([exchanged(tokens, nouns.words[old], nouns.words[new])
                         for tokens in photos.captions[row]])
    return Examples(grid_rows, probabilities, captions)


def exchanged(tokens, old, new):
    """Tokens of a caption with another Word, in the same number and with its article."""
    result = []
    for token in tokens:
        if token in old.forms:
            is_plural = token == old.plural or token in old.also and token.endswith('s')
            token = new.plural if is_plural and new.plural else new.word
            if result and result[-1] in ('a', 'an'):
                result[-1] = new.article or 'a'
        result.append(token)
    return result


# ---- As features ----

class WordPlaces:
    """Recognized words as places of an image. length: of the mean place of a photo. numbered: the
    first number of a place tells of which word it is, as experiments/pointer.py reads it.
    """

    def __init__(self, classifier, length, numbered=False):
        rows = classifier.sums.T @ classifier.weight
        self.rows = rows / rows.norm(dim=1, keepdim=True) * length * STRENGTH    # (W, C)
        self.numbered = numbered

    def __call__(self, probabilities):
        """(N, W) -> (N, WORDS, C) float16; zeros where less is recognized, short where unsure."""
        probabilities = torch.as_tensor(probabilities)[:, :len(self.rows)]    # without people
        top, words = probabilities.topk(WORDS, dim=1)
        sure = 1 + torch.logit(top, eps=1e-4).clamp(-4, 4) / 4
        sure[top < LEAST] = 0
        places = sure[:, :, None] * self.rows[words]
        if self.numbered:
            places[:, :, 0] = torch.where(sure > 0, -1.0 - words, 0.0)
        return places.half()


class GridsWithWords:
    """Features (N, P, C) of Examples, made when they are asked for, as `Captions` reads them.

    grids: array (photos, P, C). words: (N, WORDS, C), or None.
    """

    ndim, dtype = 3, torch.float16

    def __init__(self, grids, grid_rows, words=None):
        self.grids, self.grid_rows, self.words = grids, grid_rows, words
        places = grids.shape[1] + (0 if words is None else WORDS)
        self.shape = (len(grid_rows), places, grids.shape[2])

    def __len__(self):
        return len(self.grid_rows)

    def __getitem__(self, rows):
        features = torch.zeros(len(rows), *self.shape[1:], dtype=self.dtype)
        grid_rows = self.grid_rows[rows]
        is_photo = np.flatnonzero(grid_rows >= 0)
        grids = self.grids[grid_rows[is_photo]]
        features[is_photo, :self.grids.shape[1]] = torch.as_tensor(grids, dtype=self.dtype)
        if self.words is not None:
            features[:, self.grids.shape[1]:] = self.words[rows]
        return features


def captions_of(examples, vocab, views):
    """Examples as training reads them. views: GridsWithWords, the first as the photos are."""
    sequences = [[vocab.start_id, *map(vocab, tokens), vocab.end_id]
                 for captions in examples.captions for tokens in captions]
    lengths = np.array(list(map(len, sequences)))
    table = torch.full((len(sequences), lengths.max()), vocab.end_id, dtype=torch.int32)
    for ids, row in zip(sequences, table, strict=True):
        row[:len(ids)] = torch.tensor(ids)
    image_rows = np.repeat(np.arange(len(examples.captions)), list(map(len, examples.captions)))
    features, *others = views
    return Captions(features, image_rows, table, lengths, np.ones(len(features), bool),
                    views=others)


# ---- Training ----

class DataWithWords(CaptionData):
    """A data set whose vocabulary has more words than its captions."""

    def __init__(self, folder, more_words):
        super().__init__(folder)
        self.more_words = more_words

    def vocabulary(self, threshold):
        words = [*super().vocabulary(threshold).word2idx, *self.more_words]
        return Vocabulary.from_words(list(dict.fromkeys(words)))


def words_to_learn(examples, nouns, least=25):
    """Words that are in many captions, and those that can be recognized and are in five."""
    counts = collections.Counter(token for captions in examples.captions for tokens in captions
                                 for token in tokens)
    return [word for word, count in counts.items()
            if count >= least or count >= 5 and word in nouns.of_form]


def train(variant, seen, examples, places, args, nouns):
    """Train a variant, or continue it -> Run. seen: the validation photos. places: WordPlaces, or
    None."""
    more_words, pointer = words_to_learn(examples, nouns), {}
    if 'pointer' in VARIANTS[variant]:
        more_words += [form for word in nouns.words for form in written_forms(word)]
        pointer = {'model_file': str(POINTER), 'recognized': len(nouns.words),
                   'word_places': WORDS, 'in_turn': IN_TURN * ('in turn' in VARIANTS[variant])}
    data = DataWithWords(args.folders[0], more_words)
    settings = make_settings(
        name=f'recognized-{variant}', cocoapi_loc=str(data.folder), image='attention', views=2,
        start=repository_path(SHIPPED).as_posix(), start_with='cnn', learning_rate=1.5e-3,
        epochs=args.epochs, **pointer)
    run = open_run(settings, data)
    if pointer:
        nouns.teach(run.model.decoder, run.model.vocab)
    words = None if places is None else places(examples.probabilities)
    views = [GridsWithWords(view, examples.grid_rows, words)
             for view in (run.train.features, *run.train.views)]
    captions = captions_of(examples, run.model.vocab, views)
    captions.table = moved(captions.table, run.device)
    run.val.features = with_words(seen, places).to(run.device)
    phase = FeaturesPhase(settings, run.model, captions, run.val)
    phase.optimizer.load_state_dict(run.phase.optimizer.state_dict())
    run.phase = phase
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def with_words(seen, places):
    """The features of Seen photos, with places for their words -> (N, P, C)."""
    features = torch.as_tensor(np.asarray(seen.features))
    if places is None:
        return features
    return torch.cat([features, places(seen.probabilities)], dim=1)


def lines(title, run, photos, places, beam_size):
    """Rows of the table: the validation photos of each folder."""
    checkpoint = run.folder / 'best.pt'
    captioner = load_captioner(checkpoint, run.device, model_file_beside(checkpoint), names=True,
                               consensus=False)
    for data, (seen, rows, images) in photos.items():
        ids = [images[row]['id'] for row in rows]
        references = References(data.annotation_file('val'), ids)
        cells = []
        for probabilities in (None, seen.probabilities):
            lists = captioner.describe(Seen(with_words(seen, places), probabilities), beam_size,
                                       rows=rows)
            texts = [best.text for best, *_ in lists]
            scores = score(as_results(dict(zip(ids, texts, strict=True))), references, draws=1000)
            cells.append(percent(scores['CIDEr'], scores['intervals']['CIDEr']))
            if probabilities is None:
                cells.insert(0, percent(scores['BLEU-4']))
        yield title, data.name, *cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='+', help='data sets; the first one is learned')
    parser.add_argument('--text', help='captions without photos: number, tab, caption')
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--count', type=int, default=4000, help='of groups, or of swapped photos')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--beam-size', type=int, default=5)
    args = parser.parse_args()
    if not args.text and any('text' in VARIANTS[variant] for variant in args.variants):
        parser.error('captions without photos are needed: --text FILE, or other --variants')
    shipped = load_captioner(names=True)
    photos = {data: seen_split(shipped, data, 'val') for data in map(CaptionData, args.folders)}
    data = next(iter(photos))
    seen = photos[data][0]
    of_photos = examples_of_photos(data, *seen_split(shipped, data, 'train'))
    nouns = Nouns(shipped.naming.recognizer.words, of_photos.captions)
    is_thing = [word.kind != PEOPLE for word in nouns.words]
    top = of_photos.probabilities[:, is_thing].max(axis=1).clip(LEAST)
    length = float(np.linalg.norm(seen.features[:200].astype(np.float32), axis=2).mean())
    classifier = shipped.naming.recognizer.recognizers[0]
    table = [HEADER]
    for variant in args.variants:
        examples, random = of_photos, np.random.default_rng(0)
        if 'text' in VARIANTS[variant]:
            examples += examples_of_text(read_captions(args.text), nouns, top, args.count, random)
        if 'swapped' in VARIANTS[variant]:
            examples += swapped_examples(of_photos, nouns, top, args.count, random)
        places = None
        if 'words' in VARIANTS[variant]:
            places = WordPlaces(classifier, length, numbered='pointer' in VARIANTS[variant])
        run = train(variant, seen, examples, places, args, nouns)
        table += lines(variant, run, photos, places, args.beam_size)
    print(text_table(table))


if __name__ == '__main__':
    run_main(main)
