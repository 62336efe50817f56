"""What people would say of an image, foretold from its features; it chooses among captions.

    consensus = consensus_for(captioner, data)          # of the training images
    consensus.expected_cider(features, candidates)      # of each caption of each image
    consensus.support(features, texts)                  # the same, weighed for beam search
    consensus.save('best.consensus.pt')
    consensus = Consensus.load('best.consensus.pt')

A caption scores high in CIDEr if it has the n-grams of the captions that people wrote. Which these
are can be foretold as a whole: for each n-gram its mean share in an image's captions, weighed as
CIDEr weighs it. Between that and a caption CIDEr itself is expected. Devlin et al. 2015 (Exploring
Nearest Neighbor Approaches for Image Captioning) choose the caption that is most like those of the
nearest images; here a kernel ridge regression takes the place of the neighbours.

Axes: N images, C channels, D directions that are kept of them, M centres of the kernel, G n-grams,
R directions that are kept of these.
"""

import numpy as np
import torch

from captioning.associations import Associations
from captioning.features import split_features
from captioning.files import write_aside
from captioning.ngrams import LEAST_IMAGES, NGrams
from captioning.recognition.linear import read_weights, roots
from captioning.recognition.untuned import pooling_encoder
from vocabulary import tokenize

CENTRES = 6000          # of the kernel, at most
FEATURE_DIRECTIONS = 256    # that are kept, D
NGRAM_DIRECTIONS = 512      # that are kept, R
DECAY = 0.3             # of the ridge regression
NARROWNESS = 2.5        # squared width of the kernel: the median squared distance divided by it
WEIGHT = 4.0            # of the expected CIDEr beside the log-probability
LEAST_KNOWN = 0.85      # share of the words of captions that the captioner must know
CHUNK = 2000            # images at a time


class Consensus:
    """Foretells the n-grams of people's captions from pooled features.

    ngrams: NGrams. state: {name: tensor}, as fit_consensus makes it: 'mean' (C,) and 'directions'
    (C, D) of the roots of features, 'centres' (M, D) and 'width' of the kernel, 'weight' (M, R),
    'basis' (R, G), and 'usual' (G,), the mean of what is foretold. encoder_hash: that of the
    captioner whose features it reads. `.weight`: of the expected CIDEr in `support`.
    `.associations`: Associations of the words that are recognized, or None.
    """

    def __init__(self, ngrams, state, encoder_hash=None):
        self.ngrams, self.state, self.encoder_hash = ngrams, state, encoder_hash
        self.weight, self.associations = WEIGHT, None

    @torch.no_grad()
    def expected_cider(self, features, candidates):
        """CIDEr that captions can expect -> for each image an array; 1 of it is 100 in papers.

        features: (N, C), pooled. candidates: for each image a list of captions, each of words.
        """
        expected = []
        for start in range(0, len(features), CHUNK):
            foretold = self.foretold(features[start:start + CHUNK].cpu())
            expected += self.ngrams.expected_cider(foretold, candidates[start:start + CHUNK])
        return expected

    def support(self, features, texts, recognized=None):
        """What speaks for captions beside their log-probability -> for each image an array.

        features: (N, C), pooled. texts: for each image a list of captions. recognized: words and
        their probabilities (N, W), or None. It is `.weight` times the expected CIDEr.
        """
        candidates = [[tokenize(text) for text in of_image] for of_image in texts]
        expected = self.expected_cider(features, candidates)
        if self.associations and recognized:
            added = self.associations.expected_cider(*recognized, candidates)
            expected = [one + more for one, more in zip(expected, added, strict=True)]
        return [self.weight * values for values in expected]

    def foretold(self, features):
        """Pooled features (N, C) -> the mean vector of what people would write of each, (N, G)."""
        state = self.state
        kernel = gaussian(reduced(features, state), state['centres'], state['width'])   # (N, M)
        return kernel @ state['weight'] @ state['basis'] + state['usual']

    def save(self, path):
        """Write it to a file, in float16."""
        content = {'state': {name: value.half() for name, value in self.state.items()},
                   **self.ngrams.content(), 'encoder_hash': self.encoder_hash}
        if self.associations:
            content['associations'] = self.associations.content()
        with write_aside(path) as aside:
            torch.save(content, aside)

    @classmethod
    def load(cls, path):
        """FileNotFoundError and ValueError say what is wrong with a file."""
        def of_content(content):
            state = {name: value.float() for name, value in content['state'].items()}
            consensus = cls(NGrams.of_content(content), state, content['encoder_hash'])
            if 'associations' in content:
                consensus.associations = Associations.of_content(content['associations'])
            return consensus

        return read_weights(path, of_content, 'consensus')


# ---- Kernel ridge regression ----

def consensus_for(captioner, data):
    """Learn from the training images of a CaptionData, as a captioner sees them -> Consensus.

    ValueError where the captioner was not trained on these captions.
    """
    features, unreadable, images = split_features(pooling_encoder(captioner), data, 'train')
    captions = {image['id']: [] for image in images}
    for entry in data.annotations('train')['annotations']:
        if entry['image_id'] in captions:
            captions[entry['image_id']].append(tokenize(entry['caption']))
    of_rows = [captions[image['id']] for image in images]
    _check_words(of_rows, captioner.vocab, data)
    rows = [row for row in np.setdiff1d(np.arange(len(images)), unreadable) if of_rows[row]]
    return fit_consensus(torch.tensor(np.array(features[rows])), [of_rows[row] for row in rows],
                         captioner.encoder_hash)


def _check_words(captions, vocab, data):
    words = [word for of_image in captions for caption in of_image for word in caption]
    known = sum(word in vocab.word2idx for word in words) / max(1, len(words))
    if known < LEAST_KNOWN:
        raise ValueError(
            f'The captioner knows {known:.0%} of the words in the training captions of '
            f'{data.name}: it was trained on others. --cocoapi-loc takes their folder.')


@torch.no_grad()
def fit_consensus(features, captions, encoder_hash=None, centres=CENTRES, decay=DECAY):
    """Learn from training images -> Consensus.

    features: (N, C), pooled. captions: of each image a list of captions, each a list of words.
    centres: images that the kernel compares with, chosen by chance where there are more.
    Least squares on all images with the penalty of the kernel's own norm (Rudi, Camoriano and
    Rosasco 2015, Less is More: Nystrom Computational Regularization); of the result the R
    directions are kept that vary most. ValueError where there is too little to learn from.
    """
    ngrams = NGrams.of_captions(captions)
    if not ngrams.column:
        raise ValueError(f'{len(captions)} images: too few to have anything in common that people '
                         f'say of them; {LEAST_IMAGES} must share an n-gram.')
    generator = torch.Generator().manual_seed(0)
    state = _feature_directions(features)
    chosen = torch.randperm(len(features), generator=generator)[:centres]
    state['centres'] = reduced(features[chosen], state)                         # (M, D)
    distances = squared_distances(state['centres'], state['centres'][:1000])
    state['width'] = distances.median() / NARROWNESS
    if state['width'] == 0:
        raise ValueError(f'The features of {len(features)} images are alike.')
    products, targets, state['usual'] = _normal_equations(features, captions, ngrams, state)
    weight = _ridge_solution(products, targets, state, decay)                   # (M, G)
    state['basis'] = _strongest(weight, products.float(), generator)            # (R, G)
    state['weight'] = weight @ state['basis'].T                                 # (M, R)
    return Consensus(ngrams, state, encoder_hash)


def _normal_equations(features, captions, ngrams, state):
    """Sums over all images -> products of the kernel (M, M) float64, those with what is foretold
    less its mean (M, G), and that mean (G,).
    """
    products, targets, sums, kernel_sums = 0, 0, 0, 0
    for start in range(0, len(features), CHUNK):
        part = reduced(features[start:start + CHUNK], state)
        kernel = gaussian(part, state['centres'], state['width'])               # (chunk, M)
        shares = ngrams.mean_vectors(captions[start:start + CHUNK])             # (chunk, G)
        products += (kernel.T @ kernel).double()
        targets += kernel.T @ shares
        sums += shares.sum(dim=0)
        kernel_sums += kernel.sum(dim=0)
    mean = sums / len(features)
    return products, targets - torch.outer(kernel_sums, mean), mean


def _ridge_solution(products, targets, state, decay):
    """Weights of the kernel, (M, G)."""
    penalty = gaussian(state['centres'], state['centres'], state['width']).double()
    # What float32 leaves of images that are nearly alike must not become large weights.
    least = 1e-2 * decay + 1e-6 * products.diagonal().mean()
    ridge = products + decay * penalty + least * torch.eye(len(penalty))
    return torch.cholesky_solve(targets.double(), torch.linalg.cholesky(ridge)).float()


def _feature_directions(features):
    """Mean of the roots of features, and the directions in which they vary most, each channel
    counted alike -> {'mean': (C,), 'directions': (C, D)}.
    """
    total = squares = 0
    for start in range(0, len(features), CHUNK):
        part = roots(features[start:start + CHUNK]).double()
        total += part.sum(dim=0)
        squares += part.T @ part
    if not squares.isfinite().all():
        raise ValueError(f'Some features of {len(features)} images are no numbers.')
    mean = total / len(features)
    covariance = squares / len(features) - torch.outer(mean, mean)
    deviation = covariance.diagonal().clamp(min=0).sqrt() + 1e-3
    _, directions = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
    kept = directions[:, -FEATURE_DIRECTIONS:] / deviation[:, None]
    return {'mean': mean.float(), 'directions': kept.float()}


def reduced(features, state):
    """Pooled features (N, C) -> (N, D)."""
    return (roots(features) - state['mean']) @ state['directions']


def gaussian(inputs, centres, width):
    """How near each centre is, from 0 to 1. (N, D) and (M, D) -> (N, M)."""
    return torch.exp(-squared_distances(inputs, centres) / width)


def squared_distances(inputs, centres):
    """(N, D) and (M, D) -> (N, M)."""
    squares = inputs.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return (squares - 2 * inputs @ centres.T).clamp(min=0)


def _strongest(weight, products, generator):
    """The directions in which what is foretold of the training images varies most -> (R, G).

    weight: (M, G). products: (M, M), of the kernel. By iterated products with a few vectors (Halko,
    Martinsson and Tropp 2011, Finding Structure with Randomness).
    """
    count = min(NGRAM_DIRECTIONS, *weight.shape)
    basis = torch.randn(weight.shape[1], count, generator=generator)            # (G, R)
    for _ in range(4):
        basis, _ = torch.linalg.qr(weight.T @ (products @ (weight @ basis)))
    return basis.T.contiguous()
