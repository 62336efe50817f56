"""How much work it is to encode, to train and to decode -> Work of yardsticks.py.

Matrix products are counted exactly, memory about: what a step cannot keep in a cache. Calls were
counted on the pretended GPU (captioning/pretended_gpu), where a recurrent layer is one.
Axes: B batch, T caption length, E embedding, H hidden, C channels, P places, V vocabulary, K beam.
"""

from captioning.doctor.yardsticks import Work

# He et al. 2016, Deep Residual Learning: 3.8 billion multiply-adds for a ResNet-50 of an image of
# 224 x 224; Radosavovic et al. 2020, Designing Network Design Spaces: 11.1 million activations.
RESNET50_OPERATIONS, RESNET50_ACTIVATIONS = 7.6e9, 11.1e6
PASSES = 4                  # over an activation: written, and read and written by ReLU, and read
ENCODING_CALLS = 124
TRAINING_CALLS = 132
DECODING_CALLS = {1: 27, 3: 62}     # a word: greedy, and a beam of 3
# For a weight: AdamW reads four numbers and writes three, clipping reads one, reads and writes one,
# and the gradient is written.
BYTES_A_WEIGHT = 11 * 4
BYTES_A_SCORE = 16          # in 16 bits: written, read by loss and both products, and its gradient
BYTES_A_FEATURE = 12        # read, as float32 written, and read twice


def encoding_work(images, dtype):
    """Encode a batch of images by a ResNet-50."""
    return Work(images * RESNET50_OPERATIONS,
                images * PASSES * RESNET50_ACTIVATIONS * dtype.itemsize, ENCODING_CALLS)


def training_work(phase, rates, batch_size, places):
    """A training step of so many captions. rates: of the same phase, which tell its operations."""
    captions, embed = phase.train, phase.model.encoder.embed[0]
    vocab_size = phase.model.decoder.linear.out_features
    scored = captions.words(captions.indices) / len(captions.indices) * batch_size
    images = phase.items.batch_size if places > 1 else batch_size
    features = images * places * embed.in_features
    weights = sum(weight.numel() for weight in phase.parameters)
    operations = 1e9 * rates.gflops / rates.captions * batch_size
    operations += 4 * features * embed.out_features    # 2 operations forward, 2 for the weights
    memory = (BYTES_A_WEIGHT * weights + BYTES_A_SCORE * scored * vocab_size
              + BYTES_A_FEATURE * features)
    return Work(operations, memory, TRAINING_CALLS)


def decoding_work(decoder, images, words, beam_size):
    """Caption images, `words` words each, by a decoder with attention."""
    E, H, V = decoder.lstm.input_size, decoder.lstm.hidden_size, decoder.linear.out_features
    attention = 2 * E * H + 2 * 49 * E
    operations = 2 * (4 * H * (E + H) + H * V + attention)
    places = 49 * E * 4                     # of each caption, reordered at each word of a beam
    memory = 24 * V + 2 * places            # scores become log-probabilities, with rules
    count = images * beam_size * words
    return Work(count * operations, count * memory, words * DECODING_CALLS[beam_size])
