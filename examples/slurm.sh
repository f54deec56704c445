#!/bin/bash
# One training on two machines under Slurm, eight processes on each: sbatch examples/slurm.sh train.py
#SBATCH --job-name=trpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail

export OMP_NUM_THREADS=1
# The first machine of the job is where the processes meet.
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
PORT=${PORT:-29500}

# One launcher on each machine, which knows its number by SLURM_NODEID.
srun bash -c "exec python -m torch.distributed.run \
    --nnodes=$SLURM_NNODES --node-rank=\$SLURM_NODEID --nproc-per-node=$SLURM_CPUS_PER_TASK \
    --master-addr=$FIRST --master-port=$PORT --max-restarts=3 $*"
