#!/usr/bin/env bash
# Two nodes of four GPUs under Slurm:
#   sbatch recipes/slurm.sh @recipes/cityscapes_resnet50.txt --data_root DIR
# One torchrun on each node starts a process for each GPU; they share --batch_size equally.
# Two minutes before the time limit the run is told to stop. It saves and ends.
# Then the job is queued again and goes on from there.
# If you give an --output_dir, also set OUTPUT_DIR to it.
#SBATCH --job-name=deeplab
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# The processes meet on the first node of the run.
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# After a requeue, go on; or begin anew if nothing has been saved yet.
resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    resume=(--overwrite)
    if compgen -G "${OUTPUT_DIR:-checkpoints}/latest_*.pth" > /dev/null; then
        resume=(--continue_training)
    fi
fi

# srun needs --cpus-per-task again; torchrun hands on only the signals that it is told to.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --nnodes "$SLURM_NNODES" \
    --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$head_node:29500" \
    main.py "$@" "${resume[@]}" &
step=$!

# Slurm signals this script alone (B: above); srun hands the signal on to every torchrun.
stopping=
trap 'stopping=yes; kill -USR1 "$step"' USR1
status=0
while kill -0 "$step" 2>/dev/null; do
    status=0
    wait "$step" || status=$?
done

# The run is out of time, neither finished nor broken: queue it again.
if [ -n "$stopping" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
