#!/bin/bash
# A SLURM cluster on one machine, to try job files and to test: slurmctld, one slurmd per node, munge. Needs root.
#
#   scripts/slurm/cluster.sh up DIR [NODES]   start a cluster of NODES=2 nodes with 4 CPUs each; all its files are in DIR
#   . DIR/env.sh                              let sbatch, srun, squeue and scancel of this shell use it
#   scripts/slurm/cluster.sh down DIR         cancel its jobs and stop it; DIR stays, with the logs
#
# On Debian and Ubuntu: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#
# Partitions: "main", whose jobs are requeued when a job of "urgent" needs the CPUs (60 s of grace), and "urgent".
# The nodes have no host names, so env.sh sets MASTER_ADDR=127.0.0.1, which sbatch passes on. There is no accounting:
# env.sh puts a small `sacct` on PATH that asks slurmctld. Port: SLURM_TOY_PORT=17300, and one per node after it.
# A job that was requeued waits 2 minutes; `scontrol update jobid=ID StartTime=now` starts it.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where Debian puts the daemons

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0"
}

fail() {
    echo "cluster.sh: error: $*" >&2
    exit 2
}

check_programs() {
    local program missing=()
    for program in munged slurmctld slurmd sinfo scancel; do
        command -v "$program" > /dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] || fail "${missing[*]} not found; install SLURM:" \
        "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
    [ "$(id -u)" = 0 ] || fail "slurmd starts jobs as other users: run this as root"
}

check_ports() {
    local i
    for i in $(seq 0 "$nodes"); do
        if (: < "/dev/tcp/127.0.0.1/$((port + i))") 2> /dev/null; then
            fail "port $((port + i)) is in use, perhaps by another cluster; choose others: SLURM_TOY_PORT=$((port + 200)) $0 up $dir"
        fi
    done
}

write_config() {
    local host i
    host=$(hostname -s)
    cat > "$dir/slurm.conf" <<CONF
ClusterName=toy
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/pid/slurmctld
SlurmdPidFile=$dir/pid/slurmd.%n
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=30
MinJobAge=3600
CONF
    for i in $(seq "$nodes"); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=4 RealMemory=2000"
    done >> "$dir/slurm.conf"
    cat >> "$dir/slurm.conf" <<CONF
PartitionName=main Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=off
CONF
}

write_sacct() {
    cat > "$dir/bin/sacct" <<'SACCT'
#!/bin/bash
# The part of sacct that programs poll: JobID|State|NodeList|ExitCode of `-j ID`, from what slurmctld remembers.
ids=
while [ $# -gt 0 ]; do
    case $1 in -j) ids+=" $2"; shift ;; --jobs=*) ids+=" ${1#*=}" ;; esac
    shift
done
echo "JobID|State|NodeList|ExitCode"
for id in ${ids//,/ }; do
    scontrol --oneliner show job "$id" 2> /dev/null | while read -r line; do
        value() { grep -oP "(^| )$1=\K[^ ]*" <<< "$line" | head -1; }
        array=$(value ArrayJobId) || true
        echo "${array:+${array}_$(value ArrayTaskId)}${array:-$(value JobId)}|$(value JobState)|$(value NodeList)|$(value ExitCode)" |
            sed "s/^\(${array:-x}_[0-9]*\)${array:-x}|/\1|/"
    done
done
SACCT
    chmod +x "$dir/bin/sacct"
}

write_environment() {
    cat > "$dir/env.sh" <<ENV
export SLURM_CONF='$dir/slurm.conf'
export MASTER_ADDR=127.0.0.1
export PATH='$dir/bin':"\$PATH":/usr/sbin
ENV
}

start() { # NAME COMMAND...: in the background, with its output in log/NAME.out and its id in pids
    local name=$1
    shift
    setsid "$@" > "$dir/log/$name.out" 2>&1 < /dev/null &
    echo "$! $name" >> "$dir/pids"
}

wait_for() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if [ $SECONDS -ge $end ]; then
            down
            fail "$what did not start; see $dir/log: $(tail -qn 2 "$dir"/log/* | tail -n 6)"
        fi
        sleep 0.1
    done
}

all_idle() {
    [ "$(sinfo --noheader --Node --partition=main --states=idle 2> /dev/null | wc -l)" = "$nodes" ]
}

is_ours() { # PID NAME: the process still is the one that was started, not another one with the same id
    [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' < "/proc/$1/cmdline" | grep -q "^[^ ]*${2%%.*}[^ ]* .*$dir"
}

up() {
    check_programs
    [[ $nodes =~ ^[1-9][0-9]?$ ]] || fail "NODES=$nodes: expected an integer from 1 to 99"
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ ! -e "$dir/pids" ] || down # a cluster that runs in this folder, or files of one that was killed
    check_ports
    rm -rf "${dir:?}"/{state,spool,pid,log}
    mkdir -p "$dir"/{munge,state,spool,pid,log,bin}
    chmod 755 "$dir" "$dir/munge" # munge refuses a socket that others cannot reach
    [ -s "$dir/munge/key" ] || head -c 1024 /dev/urandom > "$dir/munge/key"
    chmod 400 "$dir/munge/key"
    write_config
    write_sacct
    write_environment
    . "$dir/env.sh"
    : > "$dir/pids"
    start munged munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/pid/munged" --log-file="$dir/log/munged" --seed-file="$dir/munge/seed"
    wait_for 10 munged test -S "$dir/munge/socket"
    start slurmctld slurmctld -D -c -f "$SLURM_CONF"
    for i in $(seq "$nodes"); do
        mkdir -p "$dir/spool/n$i"
        start "slurmd.n$i" slurmd -D -c -N "n$i" -f "$SLURM_CONF"
    done
    wait_for 30 "the cluster" all_idle
    sinfo
    echo "ready; type: . $dir/env.sh"
}

down() {
    [ -e "$dir/pids" ] || { echo "$dir: no cluster runs here"; return; }
    dir=$(cd "$dir" && pwd)
    . "$dir/env.sh"
    local pid name alive
    if command -v timeout scancel > /dev/null && [ -S "$dir/munge/socket" ]; then
        timeout 5 scancel --full --user=root 2> /dev/null && sleep 1 || true
    fi
    for signal in TERM KILL; do
        alive=0
        for _ in $(seq 50); do
            alive=0
            while read -r pid name; do # slurmd before slurmctld before munged
                if is_ours "$pid" "$name"; then
                    alive=1
                    kill -s $signal "$pid" 2> /dev/null || true
                fi
            done < <(tac "$dir/pids")
            [ $alive = 1 ] || break 2
            sleep 0.2
        done
    done
    rm -f "$dir/pids" "$dir/munge/socket"
}

case "${1:-}" in
-h | --help | help)
    usage
    exit 0
    ;;
up | down) [ -n "${2:-}" ] || fail "$1 needs a folder: cluster.sh $1 DIR" ;;
*) usage >&2; exit 2 ;;
esac
dir=$2 nodes=${3:-2} port=${SLURM_TOY_PORT:-17300}
"$1"
