"""Does the CIDEr that is expected of a caption choose better than its log-probability?

    python -m experiments.consensus path/to/flickr8k path/to/coco80

Validation photos are captioned without and with the consensus beside the checkpoint (which
`python -m scripts.consensus` makes), without and with names. Differences are those to the row
above. The folders are data sets, each the folder that holds cocoapi/. CHAIR: of the things said,
those that no reference has.
"""

import argparse
import itertools

from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, load_captioner
from captioning.scoring import References, paired_test, score
from captioning.scoring.hallucination import chair, things_said
from captioning.scoring.split_captions import seen_split
from captioning.tables import markdown_table, percent
from scripts import run_main

SCORES = ('BLEU-4', 'CIDEr')


class Photos:
    """The validation photos of a data set, as a captioner sees them."""

    def __init__(self, captioner, folder):
        self.data = CaptionData(folder)
        self.seen, self.rows, images = seen_split(captioner, self.data, 'val')
        self.ids = [images[row]['id'] for row in self.rows]
        self.references = References(self.data.annotation_file('val'), self.ids,
                                     annotations=self.data.annotations('val'))
        self.things = [frozenset(word.forms) for word in captioner.naming.recognizer.words]

    def described(self, captioner, beam_size, names):
        """Captions as results."""
        seen = self.seen if names else self.seen._replace(probabilities=None)
        lists = captioner.describe(seen, beam_size, rows=self.rows)
        return [{'image_id': image_id, 'caption': best.text}
                for image_id, (best, *_) in zip(self.ids, lists, strict=True)]

    def chair(self, results):
        """The share of the things said that no reference has."""
        captions = [result['caption'].rstrip(' .') for result in results]
        tokens = [self.references.tokens[result['image_id']] for result in results]
        return chair(*things_said(captions, tokens, self.things))['of things']


def table(captioner, photos, beam_sizes):
    """Rows: for each beam, without and with names, the captions without and with the consensus, and
    with what further captions say of the things that are recognized, where it knows that.
    """
    consensus = captioner.consensus
    associations = consensus.associations
    rows = [('Beam', 'Names', 'Consensus', *SCORES, 'Difference in CIDEr, paired', 'CHAIR')]
    for size, names in itertools.product(beam_sizes, (False, True)):
        captioner.consensus = None
        before = photos.described(captioner, size, names)
        captioner.consensus, consensus.associations = consensus, None
        variants = {'no': before, 'yes': photos.described(captioner, size, names)}
        consensus.associations = associations
        if names and associations:
            variants['with further captions'] = photos.described(captioner, size, names)
        for asked, results in variants.items():
            scores = score(results, photos.references, draws=1000)
            cells = [percent(scores[name], scores['intervals'][name]) for name in SCORES]
            gain = '' if asked == 'no' else _gain(before, results, photos.references)
            rows.append((size, 'yes' if names else 'no', asked, *cells, gain,
                         percent(photos.chair(results))))
            before = results
    return rows


def _gain(before, after, references):
    test = paired_test(before, after, references)['CIDEr']
    low, high = test['interval']
    return f'{100 * test["difference"]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folders', nargs='+', help='data sets')
    parser.add_argument('--checkpoint', default=SHIPPED)
    parser.add_argument('--beam-sizes', type=int, nargs='+', default=(5,))
    args = parser.parse_args()
    captioner = load_captioner(args.checkpoint, names=True, consensus=True)
    for folder in args.folders:
        photos = Photos(captioner, folder)
        print(f'\n{photos.data.name}, {len(photos.ids)} photos\n')
        print(markdown_table(table(captioner, photos, args.beam_sizes)), flush=True)


if __name__ == '__main__':
    run_main(main)
