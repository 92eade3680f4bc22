#!/usr/bin/env bash
# A real SLURM of one node on loopback, for tests and to try launcher=slurm:  scripts/slurm_test_cluster.sh start|stop DIR
#
# Needs root and: apt-get install -y --no-install-recommends slurm-wlm munge
# It keeps all it writes in DIR (key, sockets and logs too), and takes ports that are free. It has the partitions `debug`
# and `high`, which preempts it: jobs of debug are signalled, have 20 seconds, and are queued again. There is no
# accounting database, as on many small clusters. After `start`:  export SLURM_CONF=DIR/slurm.conf
set -euo pipefail
[[ ${1:-} =~ ^(start|stop)$ && -n ${2:-} ]] || { echo "usage: $0 start|stop DIR" >&2; exit 2; }
mkdir -p "$2"
dir=$(cd "$2" && pwd)
export SLURM_CONF=$dir/slurm.conf

# Process id of a daemon of this cluster that lives: a file may be older than the process that has its number now
pid_of() {
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$1" ]] || return 0
  # One that has ended may stay as a zombie where nobody reaps it
  grep -qs '^State:[[:space:]]*[^Z]' "/proc/$pid/status" && echo "$pid" || true
}

stop() {
  for daemon in slurmd slurmctld munged; do
    pid=$(pid_of $daemon); [[ -z $pid ]] || kill "$pid" 2>/dev/null || true
  done
  for _ in $(seq 100); do
    alive=
    for daemon in slurmd slurmctld munged; do alive+=$(pid_of $daemon); done
    [[ -z $alive ]] && return
    sleep 0.1
  done
  for daemon in slurmd slurmctld munged; do  # slurmd waits for jobs that hang
    pid=$(pid_of $daemon); [[ -z $pid ]] || kill -9 "$pid" 2>/dev/null || true
  done
}

[[ $1 == stop ]] && { stop; exit; }
for program in munged slurmctld slurmd; do
  command -v $program >/dev/null || { echo "no $program: apt-get install -y slurm-wlm munge" >&2; exit 1; }
done
[[ $(id -u) == 0 ]] || { echo "this starts daemons as root: run it as root" >&2; exit 1; }

stop  # of an earlier start in this folder, which would go on with the old configuration

host=$(hostname -s)
memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
read -r controller_port node_port < <(python3 -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in taken))')
chmod 755 "$dir"
mkdir -p "$dir/state" "$dir/spool" "$dir/log" "$dir/munge"
chmod 700 "$dir/munge"
[[ -s $dir/munge/key ]] || (umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
# --force: the folder may lie under one that others may write to, as /tmp
munged --force --key-file="$dir/munge/key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" 2>"$dir/log/munged.log"

cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller_port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock
CredType=cred/munge
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,defer=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=10
DefMemPerCPU=$((memory / $(nproc)))
MinJobAge=600
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
slurmctld -c
slurmd -c
for _ in $(seq 300); do
  if sinfo -h -o %t 2>/dev/null | grep -q idle; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit
  fi
  sleep 0.1
done
echo "no idle node after 30 seconds: see $dir/log" >&2
stop
exit 1
