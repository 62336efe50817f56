"""Score captions against what people wrote: BLEU, METEOR, ROUGE-L, CIDEr, SPICE, with intervals.

    python -m scripts.evaluate runs/NAME/best.pt --beam-size 3
    python -m scripts.evaluate --results a.json --annotations captions_val2014.json --against b.json

Without --results, the checkpoint captions a split first. captioning/scoring says what is computed.
"""

import argparse
from pathlib import Path

from captioning.annotations import read_annotations
from captioning.caption_data import find_data
from captioning.files import write_json
from captioning.scoring.evaluation import as_json, evaluate, format_evaluation
from captioning.scoring.results import read_results
from scripts import add_choice_options, run_main


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', nargs='?',
                        help='captions the split, such as runs/NAME/best.pt')
    parser.add_argument('--model-file',
                        help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--results', help='COCO results file to score instead')
    parser.add_argument('--annotations', help='COCO captions file to score --results against')
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    parser.add_argument('--split', default='val', choices=('val', 'test'))
    parser.add_argument('--beam-size', type=int, default=1, help='1 is greedy')
    add_choice_options(parser)
    parser.add_argument('--limit', type=int, help='caption only the first LIMIT images')
    parser.add_argument('--results-out',
                        help='file for the captions (default: beside the checkpoint)')
    parser.add_argument('--json', help='file for the scores')
    parser.add_argument('--against', help='another results file: test whether the two differ')
    parser.add_argument('--human', action='store_true',
                        help="score each image's first caption against its others too")
    parser.add_argument('--missing-as-empty', action='store_true',
                        help='score images without a caption as misses')
    parser.add_argument('--no-java', action='store_true', help='leave out what needs Java')
    args = parser.parse_args()

    only_people = args.human and not args.checkpoint
    if bool(args.checkpoint) + bool(args.results) != 1 and not only_people:
        parser.error('give a checkpoint, or --results FILE, or --human alone')
    if args.against and not (args.checkpoint or args.results):
        parser.error('--against needs captions to compare: a checkpoint or --results FILE')
    if args.annotations and args.checkpoint:
        parser.error('--annotations goes with --results; a checkpoint captions the images under '
                     '--cocoapi-loc')
    return args


def write_captions(args, data):
    """Caption the split with the checkpoint and write the results file -> results."""
    from captioning.scoring.split_captions import caption_split  # here, because it loads torch
    beside = Path(args.checkpoint).with_name(f'captions_{args.split}_beam{args.beam_size}.json')
    out = Path(args.results_out or beside)
    if args.against and out.resolve() == Path(args.against).resolve():
        raise ValueError(f'the captions would be written over {args.against}, which they are to be '
                         'compared with: give another file by --results-out')
    results = caption_split(args.checkpoint, data, args.split, args.beam_size, args.limit,
                            args.model_file, args.names, args.consensus)
    write_json(out, results, indent=None)
    print(f'{len(results):,} captions are in {out}')
    return results


def main():
    args = parse_arguments()
    options = {'java': not args.no_java}
    results, others = None, None
    if args.annotations:
        file = Path(args.annotations)
    else:
        data = find_data(args.cocoapi_loc)
        file = data.caption_file(args.split)
    if args.checkpoint:
        results = write_captions(args, data)
        options['image_ids'] = [result['image_id'] for result in results]
        if not file.exists():
            print(f'no scores: {file} is not there, the references of this split are withheld')
            return

    annotations = read_annotations(file)
    if args.results:
        results = read_results(args.results, annotations, args.missing_as_empty)
    if args.against:
        others = read_results(args.against, annotations, args.missing_as_empty)
    evaluation = evaluate(file, annotations, results, args.human, others, **options)
    print(format_evaluation(evaluation, others_name=args.against))
    if args.json:
        write_json(args.json, as_json(evaluation))


if __name__ == '__main__':
    run_main(main)
