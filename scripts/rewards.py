"""CIDEr-D of captions given as ids, fast enough to reward every sampled caption. Needs torch and numpy alone.

    reward = CiderReward(captions)              # batches.Captions of the training split
    values = reward(sampled, rows)              # lists [start, words..., end] and the rows of their images -> (S,)

The end word counts as a word: a reward without it teaches captions that break off ("a dog with a").
Axes: S sampled captions, R references of an image, T words.
"""

import numpy as np
import torch

LONGEST_GRAM, SIGMA = 4, 6.0    # as in the reference code of CIDEr-D


class CiderReward:
    """CIDEr-D (Vedantam et al. 2015, CIDEr: Consensus-based Image Description Evaluation) against training captions.

    Word sequences are weighed by how few training images have them in their captions. Equal to the scorer of
    pycocoevalcap on the same words with the end word among them; 1 of it is 100 in papers.
    """

    def __init__(self, captions):
        self.captions = captions
        device, owners = captions.table.device, captions.image_rows[captions.indices]
        radix = len(captions.features)    # images
        grams = self._grams(*self._words(captions.indices))
        self.known = []    # for each length of sequences: those there are, sorted, and their weights
        for keys in grams:
            keys, valid = keys.cpu().numpy(), keys.cpu().numpy() != -1
            known, which = np.unique(keys[valid], return_inverse=True)
            pairs = np.unique(which * radix + np.broadcast_to(owners[:, None], keys.shape)[valid])
            weights = np.log(len(captions.rows) / np.bincount(pairs // radix, minlength=len(known)))
            self.known.append((torch.from_numpy(known).to(device), torch.from_numpy(weights).float().to(device)))
        self.unknown = float(np.log(len(captions.rows)))

    def _words(self, indices):
        """Captions without the start word -> ids (N, T), lengths (N,)."""
        table, lengths = self.captions.table, torch.from_numpy(self.captions.lengths[indices]).to(
            self.captions.table.device) - 1
        return table[torch.from_numpy(indices).to(table.device), 1:int(lengths.max()) + 1].long(), lengths

    @staticmethod
    def _grams(ids, lengths):
        """ids (N, T) -> for each length of sequences a tensor (N, T), one number a sequence; -1 where there is none."""
        found, keys, position = [], torch.zeros_like(ids), torch.arange(ids.shape[1], device=ids.device)
        for n in range(LONGEST_GRAM):
            keys = keys.roll(1, dims=1) * 1_000_003 + ids + 1    # ends at each position; numbers wrap around
            found.append(keys.masked_fill((position < n) | (position >= lengths[:, None]), -1))
        return found

    def _weights(self, keys, n):
        """How much each sequence weighs; 0 for -1."""
        known, weights = self.known[n]
        at = torch.searchsorted(known, keys).clamp(max=max(len(known) - 1, 0))
        found = torch.where(known[at] == keys, weights[at], self.unknown) if len(known) else torch.full_like(
            keys, self.unknown, dtype=torch.float32)
        return found.masked_fill(keys == -1, 0)

    def __call__(self, sampled, rows):
        """CIDEr-D of captions `sampled`, lists of ids that begin with the start word, of images `rows` -> (S,)."""
        device = self.captions.table.device
        lengths = torch.tensor([len(ids) - 1 for ids in sampled], device=device)
        ids = torch.zeros(len(sampled), max(int(lengths.max()), 1), dtype=torch.long)
        for i, own in enumerate(sampled):
            ids[i, :len(own) - 1] = torch.tensor(own[1:])
        pairs = [(i, index) for i, row in enumerate(rows) for index in self.captions.of_images([row])]
        who, indices = (np.array(part) for part in zip(*pairs, strict=True))
        who = torch.from_numpy(who).to(device)
        theirs, their_lengths = self._words(indices)                                # (Q, T), Q pairs with a reference
        total = torch.zeros(len(pairs), device=device)
        for n, (own, other) in enumerate(zip(self._grams(ids.to(device), lengths),
                                             self._grams(theirs, their_lengths), strict=True)):
            weights, other_weights = self._weights(own, n), self._weights(other, n)
            times, other_times = ((keys[:, :, None] == keys[:, None, :]).sum(2).float() for keys in (own, other))
            norm = (times * weights ** 2).sum(1).sqrt()[who]                        # (Q,)
            other_norm = (other_times * other_weights ** 2).sum(1).sqrt()
            own = own.masked_fill(own == -1, -2)[who]                               # what is not there equals nothing
            shared = (own[:, :, None] == other[:, None, :]).sum(2).float()          # (Q, T): times in the reference
            both = shared.minimum(times[who]) * shared / times[who] * weights[who] ** 2
            total += (both.sum(1) / (norm * other_norm)).nan_to_num(0, 0, 0)
        difference = (lengths[who] - their_lengths).float()
        total *= torch.exp(-difference ** 2 / (2 * SIGMA ** 2)) / LONGEST_GRAM
        sums = torch.zeros(len(sampled), device=device).index_add(0, who, total)
        return 10 * sums / torch.bincount(who, minlength=len(sampled))
