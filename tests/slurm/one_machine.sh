#!/bin/bash
# Try experiments/slurm/fit.sbatch on a real SLURM: a cluster of two nodes that are both this machine, in a temporary
# folder, with daemons of its own. A run of two processes, one a node, is told to stop, then pre-empted by a job that
# matters more; it has to come back each time and to end with the weights of a run that nobody disturbed. Then a study's
# runs go through `compare --executor slurm`, and one of its tasks is told to stop.
#
#   bash tests/slurm/one_machine.sh          eight minutes on two busy cores; needs `apt-get install slurm-wlm munge`
#
# Not part of `make test`. As root or not; nothing outside the temporary folder is touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin

for tool in munged munge slurmctld slurmd srun sbatch scontrol squeue; do
  if ! command -v "$tool" >/dev/null; then
    echo "SLURM is not installed here: no $tool. Nothing was tried. Debian has it: apt-get install slurm-wlm munge" >&2
    exit 3
  fi
done

repository=$PWD
python=${PYTHON:-$repository/.venv/bin/python}
work=$(mktemp -d /tmp/vitlab-slurm.XXXXXX)
started=()
finish() {
  status=$?
  [ "$status" -ne 0 ] && tail -n 20 "$work"/*.log "$work"/slurm-*.log 2>/dev/null
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  [ -n "${KEEP:-}" ] && echo "Kept: $work" || rm -rf "$work"
  exit "$status"
}
trap finish EXIT
say() { echo "$(date +%T) $*"; }

# ---- a cluster of two nodes

export SLURM_CONF=$work/slurm.conf
user=$(id -un)
port=$((20000 + $$ % 20000))
chmod 755 "$work"
mkdir -m 755 "$work/munge" && mkdir "$work/state" "$work/spool-n1" "$work/spool-n2"
dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 status=none && chmod 400 "$work/munge/key"
cat >"$SLURM_CONF" <<CONF
ClusterName=one_machine
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$work/munge/socket,cred_expire=10
SlurmctldPort=$port
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=30
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=30
CONF
echo "CgroupPlugin=cgroup/v1" >"$work/cgroup.conf"

munged --foreground --force --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munge/pid" \
  --log-file "$work/munge/log" --seed-file "$work/munge/seed" >"$work/munged.log" 2>&1 & started+=($!)
for _ in $(seq 50); do [ -S "$work/munge/socket" ] && break; sleep 0.1; done
slurmctld -D -c >"$work/ctld-start.log" 2>&1 & started+=($!)
for node in n1 n2; do slurmd -D -N "$node" >"$work/slurmd-start-$node.log" 2>&1 & started+=($!); done
for _ in $(seq 60); do [ "$(sinfo -h -o %t -p usual 2>/dev/null | sort -u)" = idle ] && break; sleep 0.5; done
say "$(slurmctld -V), nodes: $(sinfo -h -o '%n %t' -p usual | paste -sd ' ')"

# ---- a run of half a minute

cat >"$work/digits.yaml" <<'YAML'
model:
  class_path: vitlab.objectives.Supervised
  init_args:
    backbone:
      class_path: vitlab.models.VisionTransformer
      init_args: {patch_size: 2, embed_dim: 32, depth: 3, num_heads: 2, drop_path_rate: 0.1}
    optimizer: {class_path: vitlab.optim.AdamW, init_args: {lr: 1.0e-3}}
    schedule: {class_path: vitlab.optim.WarmupCosine, init_args: {warmup_epochs: 1}}
    ema: {decay: 0.99}
data:
  class_path: vitlab.data.Digits
  init_args: {batch_size: 16, mixup: {}}
trainer: {max_epochs: 12, accelerator: cpu, strategy: ddp}
run: {wandb: {mode: disabled}}
YAML
cd "$work"
export PYTHONPATH=$repository OMP_NUM_THREADS=1 MASTER_ADDR=127.0.0.1
PATH=$(dirname "$python"):$PATH
run=$work/runs/digits/seed-0

steps() { awk -F, 'END {print $1 + 0}' "$run/metrics.csv" 2>/dev/null || echo 0; }
state() { scontrol show job -o "$job" 2>/dev/null | sed -n 's/.*JobState=\([A-Z]*\).*Restarts=\([0-9]*\).*/\1 after \2 restarts/p'; }
await() { # what, until when in seconds, test
  for _ in $(seq "$2"); do eval "$3" && return; sleep 1; done
  say "Waited $2 s in vain for: $1. The job: $(state)" && return 1
}

job=$(sbatch --parsable --nodes 2 --ntasks-per-node 1 "$repository/experiments/slurm/fit.sbatch" --config digits.yaml)
say "job $job submitted: two nodes, a process on each"
await "the first epochs" 200 '[ "$(steps)" -ge 60 ]'
say "step $(steps): USR1, as SLURM sends it 90 s before the time is up"
scancel --signal=USR1 "$job"
await "the requeued job" 60 '[[ "$(state)" == *"after 1 restarts" ]]'
say "$(state)"
await "its first new epochs" 200 'grep -q "continuing from" slurm-*.log && [ "$(steps)" -ge 160 ]'
say "step $(steps): pre-empted by a job of a partition that matters more"
urgent=$(sbatch --parsable --partition urgent --nodes 2 --exclusive --output urgent.log --wrap "sleep 1")
await "the job after pre-emption" 120 '[[ "$(state)" == *"after 2 restarts" ]]'
say "$(state); job $urgent ran in its place"
await "the end of the run" 300 '[ -f "$run/summary.json" ]'
await "the end of the job" 30 '[[ "$(state)" == "COMPLETED after 2 restarts" ]]'
say "$(state)"
grep -hE "stopped at step|continuing from|done in" slurm-*.log | sed "s|$work/||g; s/^/    | /"

# ---- the same run, undisturbed

srun --quiet --nodes 2 --ntasks-per-node 1 python -m vitlab fit --config digits.yaml --run.root alone \
  --trainer.num_nodes 2 >alone.log 2>&1
python - <<'PYTHON'
import torch
one, other = (torch.load(f"{root}/digits/seed-0/checkpoints/last.ckpt", weights_only=True) for root in ("runs", "alone"))
assert one["global_step"] == other["global_step"], (one["global_step"], other["global_step"])
differ = [name for name, value in one["state_dict"].items() if not torch.equal(value, other["state_dict"][name])]
assert not differ, f"other weights than those of the undisturbed run: {differ}"
print(f"{len(one['state_dict'])} tensors after {one['global_step']} steps: equal to the bit to those of an undisturbed run")
PYTHON

# ---- a study's runs as an array

sed 's/, strategy: ddp//; s/max_epochs: 12/max_epochs: 6/' digits.yaml >base.yaml
cat >study.yaml <<'YAML'
name: array
base: base.yaml
variants:
  two blocks: {model: {init_args: {backbone: {init_args: {depth: 2}}}}}
  four blocks: {model: {init_args: {backbone: {init_args: {depth: 4}}}}}
seeds: [1]
YAML
python -m vitlab compare --config study.yaml --executor slurm partition=usual time=10 job_name=array >compare.log 2>&1 & study=$!
started+=("$study")
await "the array's first epochs" 200 '[ "$(cat runs/array/*/seed-1/metrics.csv 2>/dev/null | wc -l)" -ge 6 ]'
array=$(squeue --noheader --name array --format %A | sort -n | head -n 1)
say "array $array: USR2, as SLURM sends it to submitit's tasks before they are pre-empted"
scancel --signal=USR2 "$array"
wait "$study" || { cat compare.log; exit 1; }
[ "$(grep -l "continuing from" runs/array/*/seed-1.log | wc -l)" -ge 1 ]
grep -hE "submitted|done$|The report" compare.log | sed "s|$work/||g; s/^/    | /"
grep -hE "stopped at step|continuing from" runs/array/*/seed-1.log | sed "s|$work/||g; s/^/    | /"
say "done"
