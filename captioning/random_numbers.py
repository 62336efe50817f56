"""Random numbers that follow from keys alone: the same on every device, whatever is drawn beside.

    seeds = mixed(seed, epoch, rows[:, None], torch.arange(samples))    # (B, samples)
    numbers = uniform_numbers(seeds.flatten(), 20)                      # (B * samples, 20)

A generator for each caption would take longer than the network. Here a number is a hash of its
keys, so that tensors of them are computed at once.
"""

import torch

# Steele et al. 2014, Fast Splittable Pseudorandom Number Generators: the step and the two factors
# of SplitMix64, as int64, whose products wrap around.
STEP = 0x9E3779B97F4A7C15 - 2 ** 64
FACTORS = 0xBF58476D1CE4E5B9 - 2 ** 64, 0x94D049BB133111EB - 2 ** 64
BITS = 24    # of a float32 between 0 and 1


def mixed(*keys):
    """A hash of several keys -> int64 tensor.

    keys: ints from 0, or int64 tensors that can be broadcast; the order of keys counts.
    """
    state = 0
    for key in keys:
        if not isinstance(key, torch.Tensor):
            key = torch.tensor(key)
        state = _scrambled(key + state + STEP)
    return state


def uniform_numbers(seeds, count):
    """For each of B seeds, int64 (B,), `count` numbers from 0 below 1 -> (B, count) float32."""
    steps = torch.arange(1, count + 1, device=seeds.device) * STEP
    hashes = _scrambled(seeds[:, None] + steps)
    return _shifted(hashes, 64 - BITS).float() / 2 ** BITS


def _scrambled(state):
    """SplitMix64's function of its state."""
    state = (state ^ _shifted(state, 30)) * FACTORS[0]
    state = (state ^ _shifted(state, 27)) * FACTORS[1]
    return state ^ _shifted(state, 31)


def _shifted(state, bits):
    """Shifted to the right, zeros following from the left, as with unsigned numbers."""
    return (state >> bits) & (2 ** (64 - bits) - 1)
