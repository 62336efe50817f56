"""A recognizer for words that no photo's captions have, learned from captions without photos.

    recognizer = recognizer_from_text(groups, features, captions, words, backbone_hash)
    recognizer = SecondOpinion(load_recognizer(), recognizer, features)

Where people kick something there is a ball. That further captions tell: of an image whose captions
have those words, how likely does one of them have this word? So what is written of a photo tells
how likely a word is true of it, though its own captions never have it; and that, a linear layer
learns from the features of the photos. Of soft labels Hinton et al. 2015 (Distilling the Knowledge
in a Neural Network); here the teacher reads, and who learns from it looks.

Axes: N images, C channels, V words of captions, W words of the recognizer.
"""

import collections

import torch

from captioning.associations import shares_that_name
from captioning.recognition.linear import trained_recognizer

LEAST_IMAGES = 30      # without photos, whose captions have a word that tells of others
TEXT_DECAY = 1e-2      # of the weights that read captions
PHOTO_DECAY = 0.1      # of those that read features
SHARE = 0.15           # of the first opinion's logit in the second's


def recognizer_from_text(groups, features, captions, words, backbone_hash):
    """Learn words from captions without photos, and photos without the words -> LinearRecognizer.

    groups: of each image without photo a list of captions, each a list of tokens. features: (N, C),
    pooled, of photos. captions: of each photo what a group is. words: list of Word; captions that
    have any of them tell nothing but that.
    """
    others = [without(group, words) for group in groups]
    told = [row for row, group in enumerate(others) if group]
    images_of = collections.Counter(token for row in told
                                    for token in {token for tokens in others[row]
                                                  for token in tokens})
    known = [token for token, images in images_of.items() if images >= LEAST_IMAGES]
    is_said = shares_that_name([groups[row] for row in told], words) > 0
    reader = trained_recognizer(shares_of([others[row] for row in told], known), is_said, words,
                                None, TEXT_DECAY)
    captions = [without(group, words) for group in captions]
    rows = [row for row, group in enumerate(captions) if group]
    likely = reader.probabilities(shares_of([captions[row] for row in rows], known))
    return trained_recognizer(features[rows], likely, words, backbone_hash, PHOTO_DECAY)


def without(captions, words):
    """The captions of an image, each a list of tokens, that name none of the words."""
    names = shares_that_name([[tokens] for tokens in captions], words).any(dim=1).tolist()
    return [tokens for tokens, is_named in zip(captions, names, strict=True) if not is_named]


def shares_of(groups, known):
    """Of the captions of each image the share that has each known word, (N, V)."""
    columns = {token: column for column, token in enumerate(known)}
    shares = torch.zeros(len(groups), len(known))
    for of_image, captions in zip(shares.numpy(), groups, strict=True):
        for tokens in captions:
            of_image[[columns[token] for token in set(tokens) if token in columns]] += (
                1 / len(captions))
    return shares


class SecondOpinion:
    """A recognizer some of whose words another one tells as well.

    Of these the logit is that of the other and `share` of the first one's, less what makes a word
    likelier than not for as many photos as the two expect to show it. features: (N, C), pooled, of
    photos as they are usual.
    """

    def __init__(self, first, second, features, share=SHARE):
        self.first, self.second, self.share = first, second, share
        self.words, self.backbone_hash = first.words, first.backbone_hash
        columns = {word.word: column for column, word in enumerate(first.words)}
        self._columns = [columns[word.word] for word in second.words]
        opinions = first.probabilities(features)[:, self._columns], second.probabilities(features)
        expected = torch.maximum(*(each.mean(dim=0) for each in opinions))
        self._least = torch.stack([of_word.quantile(1 - photos) for of_word, photos in
                                   zip(self._logits(*opinions).T, expected, strict=True)])

    def _logits(self, first, second):
        return torch.logit(second, eps=1e-5) + self.share * torch.logit(first, eps=1e-5)

    def probabilities(self, features):
        """Pooled features (N, C) -> (N, W)."""
        probabilities = self.first.probabilities(features)
        logits = self._logits(probabilities[:, self._columns], self.second.probabilities(features))
        probabilities[:, self._columns] = (logits - self._least).sigmoid()
        return probabilities
