"""model.py with a GRU, which has no cell state, in place of the LSTM: an exercise of 2_Training.

    python -m scripts.train --name gru --model-file experiments/gru.py

Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
Translation. Axes: B batch, T caption length, E embedding, H hidden, L layers.
"""

import functools

from torch import nn

import model
from model import EncoderCNN

__all__ = ['DecoderRNN', 'EncoderCNN']


class DecoderRNN(model.DecoderRNN):
    @functools.wraps(model.DecoderRNN.__init__)    # its arguments are the settings
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        lstm = self.lstm
        self.lstm = nn.GRU(lstm.input_size, lstm.hidden_size, lstm.num_layers, batch_first=True,
                           dropout=lstm.dropout)

    def _read(self, inputs, state=None):
        """inputs: (B, T, E); state: a tuple that begins with h (B, L, H), or None for zeros."""
        if state is not None:
            state = state[0].transpose(0, 1).contiguous()    # PyTorch wants (L, B, H)
        hidden, state = self.lstm(inputs, state)
        return hidden, (state.transpose(0, 1),)
