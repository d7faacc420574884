# What the sbatch scripts share: the set-up of a node, and one shard per array task, worked
# on by a runner in the background, so that Slurm's signals reach it. Sourced, never run.
#
# Signals   USR1  the time limit is near (--signal=B:USR1@SECONDS): the runner keeps what
#                 is finished and exits 75; then the task requeues itself, see below
#           TERM  scancel, preemption or the time limit itself: the runner does the same,
#                 the task never requeues itself (Slurm requeues what it preempts)
# Exit      the runner's code: 0 shard done, 3 done with failed rows, 4 refused,
#           75 stopped and resumable. Never 0 while the shard is unfinished.

say() { echo "$(date '+%F %T') tokenfork: $*" >&2; }

fail() {
  say "$1"
  [[ -z ${2-} ]] || say "hint: $2"
  exit "${3:-1}"
}

# find_shard LIST: sets shard to line SLURM_ARRAY_TASK_ID of LIST, counted from 0, or to
# the number itself without a list.
find_shard() {
  local task=${SLURM_ARRAY_TASK_ID-}
  [[ $task =~ ^[0-9]+$ ]] || fail "this is no array task" "submit with --array=0-N, one task a shard" 80
  shard=$task
  if [[ -n $1 ]]; then
    [[ -r $1 ]] || fail "cannot read the list of shards $1" "keep it on a file system that all nodes see" 4
    shard=$(sed -n "$((task + 1))p" "$1")
  fi
  [[ $shard =~ ^[0-9]+$ ]] || fail "no shard in line $task (from 0) of ${1:-the list}" "is --array longer than the list?" 4
}

# prologue: runs PROLOGUE line by line in this shell. A line, or a command at its top level,
# that fails ends the task before anything is started. A line goes on where bash needs more
# of it (if … fi, a backslash at the end).
prologue() {
  local line chunk='' code=0 depth=${#BASH_SOURCE[@]}
  trap 'prologue_failed $? "it ended the script"' EXIT
  trap 'code=$?; [[ ${#BASH_SOURCE[@]} -gt $depth || $BASH_COMMAND == "eval \"\$chunk\""* ]] || prologue_failed "$code" "$BASH_COMMAND"' ERR
  while IFS= read -r line <&9 || [[ -n $line ]]; do
    chunk+=$line$'\n'
    [[ $line != *\\ && -z $(bash -n <<<"$chunk" 2>&1) ]] || continue
    eval "$chunk" 9<&-
    code=$?
    [[ $code == 0 ]] || prologue_failed "$code" "$chunk"
    chunk=''
  done 9<<<"$PROLOGUE"
  [[ -z $chunk ]] || prologue_failed 2 "bash cannot read $chunk"
  trap - EXIT ERR
}

prologue_failed() {
  trap - EXIT ERR
  fail "the prologue failed with exit code $1: ${2%$'\n'}" \
    "each line of --prologue must end with exit code 0; add '|| true' to one that may fail"
}

# set_up: brings up the software and the folder for temporary files.
set_up() {
  prologue
  export TMPDIR=${SCRATCH:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}
  mkdir -p "$TMPDIR" || fail "cannot make the folder for temporary files $TMPDIR" "set SCRATCH to a node-local folder"
  [[ -z ${VLLM-} ]] || export TOKENFORK_VLLM=$VLLM
  # Nodes often reach no network, and models are read from folders.
  export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
}

# own_folder NAME: prints a folder in TMPDIR that is closed to other users. In /tmp another
# one may hold the name already: then it is a folder with a random end.
own_folder() {
  local folder
  mkdir -m 700 "$TMPDIR/$1" 2>/dev/null
  for folder in "$TMPDIR/$1" "$TMPDIR/$1".??????; do
    if is_own "$folder"; then
      echo "$folder"
      return
    fi
  done
  say "$TMPDIR/$1 belongs to another user or is open to others: not used"
  mktemp -d "$TMPDIR/$1.XXXXXX"
}

is_own() { [[ -d $1 && ! -L $1 && -O $1 && $(stat -c %a "$1") == 700 ]]; }

# stage FOLDER: copies a model to the node once and prints where; tasks on the node share
# it. The folder keeps its own name, by which results call a judge.
stage() {
  local to
  to=$(own_folder "tokenfork-models-$UID") || return 1
  "$TOKENFORK" stage "$1" --to "$to/$(printf '%s' "$1" | cksum | cut -d' ' -f1)"
}

# on_node MODEL: prints where the model is; with STAGE_MODEL that of a folder is its copy.
on_node() {
  if [[ -n $STAGE_MODEL && -d $1 ]]; then
    stage "$1"
    return
  fi
  [[ -z $STAGE_MODEL ]] || say "$1 is no folder on this node: it is not copied"
  printf '%s\n' "$1"
}

# kept: how many objects with results the job holds for the shard.
kept() {
  "$TOKENFORK" status --job "$JOB" "${JOB_FLAGS[@]}" --shard "$shard" --json |
    sed -n 's/^ *"kept_objects": \([0-9]*\).*/\1/p'
}

# run COMMAND...: runs it, hands signals on, requeues the task or exits with its code.
run() {
  local before pid='' stopped_by='' interrupted='' code=0
  trap 'stopped_by=${stopped_by:-USR1} interrupted=1; [[ -z $pid ]] || kill -USR1 "$pid" 2>/dev/null' USR1
  trap 'stopped_by=TERM interrupted=1; [[ -z $pid ]] || kill -TERM "$pid" 2>/dev/null' TERM
  say "shard $shard on $(hostname), job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID, restart ${SLURM_RESTART_COUNT:-0}"
  before=$(kept)
  [[ -n $before ]] || fail "cannot read the job $JOB" "tokenfork doctor --job $JOB checks this node" 4
  [[ -z $stopped_by ]] || fail "$stopped_by before anything was started" "" 75

  "$@" &
  pid=$!
  while :; do # a signal ends wait: wait again for the runner's own code
    wait "$pid"
    code=$?
    [[ -n $interrupted && $code -gt 128 ]] || break
    interrupted=
  done
  trap '' USR1
  [[ $stopped_by == USR1 && $code == 75 ]] && requeue "$before"
  exit "$code"
}

# requeue BEFORE: puts this task back into the queue if it got on since its start.
requeue() {
  local now
  now=$(kept)
  if [[ -z $now ]]; then
    say "stopped by USR1; not requeued: cannot read the job $JOB"
  elif ((now <= $1)); then
    say "stopped by USR1 without anything finished since the start; not requeued"
    say "hint: give it more time (--time), or plan with more and smaller shards"
  elif ((${SLURM_RESTART_COUNT:-0} >= MAX_REQUEUES)); then
    say "stopped by USR1; not requeued: MAX_REQUEUES=$MAX_REQUEUES is reached"
    say "hint: tokenfork status --job $JOB has the command that goes on"
  elif [[ $stopped_by == TERM ]]; then
    say "SIGTERM after USR1; not requeued"
  elif (trap '' TERM; exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"); then # Slurm may end it before it has said so
    say "stopped by USR1 with work left; requeued"
    exit 75
  else
    say "stopped by USR1; scontrol requeue was refused"
    say "hint: tokenfork status --job $JOB has the command that goes on"
  fi
}
