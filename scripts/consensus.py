"""Let a captioner choose among several captions by what people would say of the photo.

    python -m scripts.consensus runs/NAME/best.pt      # writes runs/NAME/best.consensus.pt
    python -m scripts.consensus runs/NAME/best.pt --text captions.tsv.gz

It is learned from the training photos and their captions, without training the captioner anew
(captioning/consensus.py): a minute for 6,000 photos. Whatever loads a checkpoint beside that file
uses it: in beam search, and where names are said. From further captions, without photos, it learns
what is written of the things whose names can be said (captioning/associations.py).
"""

import argparse
from pathlib import Path

from captioning.associations import learn_associations, read_captions
from captioning.caption_data import find_data
from captioning.captioner import CONSENSUS, load_captioner
from captioning.consensus import consensus_for
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', help='such as runs/NAME/best.pt')
    parser.add_argument('--cocoapi-loc', help='folder that holds cocoapi/, of the data that it was '
                        'trained on; default: $COCOAPI_LOC, here, or the scenes')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was '
                        'edited; it is run')
    parser.add_argument('--text', metavar='FILE', help='further captions: lines of the name of an '
                        'image, a tab and a caption; may be gzipped')
    args = parser.parse_args()
    groups = read_captions(args.text) if args.text else None
    captioner = load_captioner(args.checkpoint, model_file=args.model_file,
                               names=groups is not None, consensus=False)
    output = Path(args.checkpoint).with_suffix(CONSENSUS)
    consensus = consensus_for(captioner, find_data(args.cocoapi_loc))
    if groups is not None:
        consensus.associations = learn_associations(groups, captioner.naming.recognizer.words)
    consensus.save(output)
    print(f'{output}: {output.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    run_main(main)
