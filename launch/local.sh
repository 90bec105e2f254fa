#!/bin/sh
# Runs N processes on this machine, like the hosts of a pod:
#     launch/local.sh N python -m magicvideo_jax.train --config=configs/t2v.py --workdir=DIR
# PORT is the coordinator's port (8476); the next port is used, too. --dry-run before N prints the commands. The exit
# code is the first that is not 0, by index; 75 means: run the same command again.
set -eu

dry=
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi
case ${1:-} in '' | *[!0-9]* | 0) set -- ;; esac
if [ $# -lt 2 ]; then sed -n '2,5s/^# //p' "$0" >&2 && exit 2; fi
number=$1 && shift

export JAX_COORDINATOR_ADDRESS="localhost:${PORT:-8476}" JAX_NUM_PROCESSES="$number"
pids=
i=0
while [ "$i" -lt "$number" ]; do
    if [ -n "$dry" ]; then
        echo "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$number JAX_PROCESS_ID=$i $*"
    else
        JAX_PROCESS_ID=$i "$@" &
        pids="$pids $!"
    fi
    i=$((i + 1))
done
# shellcheck disable=SC2064,SC2086  # these processes, a word each
trap "kill -TERM $pids 2>/dev/null" INT TERM

code=0
for pid in $pids; do
    # A signal ends `wait` early, but not the process.
    while true; do
        wait "$pid" && ended=0 || ended=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    if [ "$code" -eq 0 ]; then code=$ended; fi
done
exit "$code"
