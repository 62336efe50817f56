"""ImageNet's classifier, as probabilities of plain words, and the recognizers that ship.

    recognizer, reason = recognizer_for(captioner)
    recognizer.probabilities(pooled)        # (N, W), of recognizer.words

The last layer of the ResNet-50 in models/resnet50_v1_imagenet.pt (He et al. 2015, Deep Residual
Learning for Image Recognition) lies beside it in a file of its own. It has no class for people:
whether there are any, models/flickr8k_people.pt tells, made by experiments/people.py.

Axes: N images, C channels, K classes, W words.
"""

import torch
from torch import nn

from captioning import files
from captioning.recognition.linear import LinearRecognizer, read_weights
from captioning.recognition.words import TABLE, read_table, words_of

CLASSIFIER = files.ROOT / 'models' / 'resnet50_v1_imagenet_classifier.pt'
PEOPLE = files.ROOT / 'models' / 'flickr8k_people.pt'
WEIGHTS_OF_RECOGNIZERS = 'resnet50_v1_imagenet.pt'    # in models/
BACKBONE_HASH = '264bcf2048ab0d49'                   # of these, by weights_hash


class ImageNetRecognizer(nn.Module):
    """A linear classifier whose classes are told by plain words.

    weight: (K, C). bias: (K,). lines: of the table of classes, K of them. backbone_hash: of the CNN
    that it belongs to. `.words`: list of W Word. Classes without a word keep their probability to
    themselves.
    """

    def __init__(self, weight, bias, lines, backbone_hash=BACKBONE_HASH):
        super().__init__()
        if len(lines) != len(weight):
            raise ValueError(f'{len(lines)} lines of words for {len(weight)} classes.')
        self.backbone_hash = backbone_hash
        self.words, classes = words_of(lines)
        sums = torch.zeros(len(weight), len(self.words))
        for word, members in enumerate(classes):
            sums[members, word] = 1
        self.register_buffer('weight', weight.float())
        self.register_buffer('bias', bias.float())
        self.register_buffer('sums', sums)    # (K, W): 1 where a class is told by a word

    @torch.no_grad()
    def probabilities(self, features):
        """Probabilities of the words, (N, W) float32, that add up to at most 1 for an image.

        features: pooled, (N, C), of the CNN as it was when the classifier was trained. A word's is
        the sum of those of its classes.
        """
        self.to(features.device)
        logits = nn.functional.linear(features.float(), self.weight, self.bias)    # (N, K)
        return logits.softmax(dim=1) @ self.sums


class Recognizers:
    """Several recognizers of the same features as one. ValueError where they read others."""

    def __init__(self, *recognizers):
        self.recognizers = recognizers
        self.backbone_hash, *others = {each.backbone_hash for each in recognizers}
        if others:
            raise ValueError('The recognizers belong to different encoders.')
        self.words = [word for each in recognizers for word in each.words]

    def probabilities(self, features):
        """Pooled features (N, C) -> (N, W)."""
        return torch.cat([each.probabilities(features) for each in self.recognizers], dim=1)


def load_recognizer(classifier=CLASSIFIER, table=TABLE):
    """ImageNet's classifier. FileNotFoundError and ValueError say what is wrong with a file."""
    lines = read_table(table)
    weight, bias = read_weights(
        classifier, lambda state: (state['fc.weight'], state['fc.bias']), 'fc.weight and fc.bias')
    return ImageNetRecognizer(weight, bias, lines)


def recognizer_for(captioner):
    """The recognizer for a captioner, and why there is none -> (recognizer or None, text or '').

    Those that ship fit the ResNet-50 that ships alone, tuned since or not.
    """
    if captioner.backbone_hash != BACKBONE_HASH:
        return None, ('Nothing is recognized: the classifier that ships belongs to the weights '
                      f'{BACKBONE_HASH} of models/resnet50_v1_imagenet.pt, and the encoder of this '
                      f'captioner started from {captioner.backbone_hash or "others"}. '
                      '--no-names leaves names out.')
    return Recognizers(load_recognizer(), LinearRecognizer.load(PEOPLE)), ''
