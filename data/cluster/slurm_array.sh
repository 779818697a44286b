#!/usr/bin/env bash
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
# A sweep as a Slurm array, a share of the points for each task, from this repository's
# folder on a disk that all nodes see; then all shares in one store:
#
#   sbatch data/cluster/slurm_array.sh data/sweeps/reference.yaml results/shares
#   bash data/cluster/slurm_array.sh merge results/shares
#
# A task that was ended goes on where it stopped: submit the first line again.
# Nodes differ in speed: --mix-hosts allows it, and each row names its host.
set -euo pipefail
PATH="$PWD/.venv/bin:$PATH"
sweep=$1 out=$2
if [ "$sweep" = merge ]; then
    exec fastlab merge "$out"/[0-9]* --into "$out/all" --mix-hosts
fi
i=$SLURM_ARRAY_TASK_ID n=$SLURM_ARRAY_TASK_COUNT
fastlab sweep "$sweep" --store "$out/$i" --shard "$i/$n" --mix-hosts --for-s 13500
