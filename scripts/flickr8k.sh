#!/bin/sh
# Trains the two captioners that ship in models/, from captions and photos to files:
#     sh scripts/flickr8k.sh path/to/flickr8k [captions.tsv.gz]
# The first is the folder that holds cocoapi/, which `scripts.convert` makes; the second has further captions, without
# photos, from which the best learns what is written of the things that it names: lines of an image, a tab and a caption.
# 51 minutes of training on two cores, besides the features. Killed, the same command continues; it needs what `make run` or `make test` installs.
set -e
COCOAPI_LOC=$(cd "$1" && pwd)
export COCOAPI_LOC
text=
[ -z "$2" ] || text=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$(dirname "$0")/.."
python=.venv/bin/python

# Plain: one vector for the image, the encoder as it was trained on ImageNet.
$python -m scripts.train --name flickr8k-plain --reward-epochs 4

# Best: attention, then the encoder's last stage fine-tuned, then self-critical training.
$python -m scripts.train --name flickr8k-best --image attention --views 7 --learning-rate 1.5e-3 \
    --tune-epochs 6 --tune-batch-size 26 --tune-crop 0.6 --tune-head-rate 3e-4
$python -m scripts.train --name flickr8k-reward --image attention --views 2 --start runs/flickr8k-best/best.pt \
    --epochs 0 --reward-epochs 5

for pair in plain:plain reward:best; do
    $python -m scripts.checkpoint "runs/flickr8k-${pair%:*}/best.pt" --output "models/flickr8k_${pair#*:}.pt"
done
for name in plain best; do
    # What people would say, by which it chooses among the captions of a beam.
    if [ "$name" = best ] && [ -n "$text" ]; then
        $python -m scripts.consensus "models/flickr8k_$name.pt" --text "$text"
    else
        $python -m scripts.consensus "models/flickr8k_$name.pt"
    fi
    for size in greedy:1 beam:5; do
        $python -m scripts.evaluate "models/flickr8k_$name.pt" --split test --beam-size "${size#*:}" \
            --results-out "models/flickr8k_test_${name}_${size%:*}.json"
    done
done
