#!/bin/bash
# Runs a command on all hosts of a Cloud TPU slice (needs gcloud, logged in, with a project):
#     export NAME=magicvideo ZONE=us-west4-a
#     launch/tpu_vm.sh create        request a slice, and wait until it is active
#     launch/tpu_vm.sh setup         install this commit and its requirements on every host
#     launch/tpu_vm.sh run python -m magicvideo_jax.train --config=configs/t2v.py --workdir=DIR
#     launch/tpu_vm.sh logs [HOST]   follow the log of a host, by default host 0
#     launch/tpu_vm.sh status | delete
# TYPE and RUNTIME choose the TPU, CREATE holds further options of `create` (--spot). --dry-run before the word prints the
# commands. `run` ends when all hosts have, with the first code that is not 0. At 75 (saved) it runs the command again,
# on a new slice if this one was taken away: leave it on a machine that stays up.
set -eu

dry=
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi
verb=${1:-}
if [ $# -gt 0 ]; then shift; fi
: "${TYPE:=v5litepod-16}" "${RUNTIME:=v2-alpha-tpuv5-lite}" "${CREATE:=}"

# Words, quoted for a shell.
quoted() {
    local said='' word
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
        esac
        said="$said${said:+ }$word"
    done
    printf '%s\n' "$said"
}

# Run a command, or print it in a dry run.
line() {
    if [ -n "$dry" ]; then quoted "$@"; else "$@"; fi
}

tpus() {
    line gcloud compute tpus "$@"
}

on_hosts() {
    tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

state() {
    gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)'
}

create() {
    # shellcheck disable=SC2086  # CREATE is words
    tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
        --runtime-version="$RUNTIME" $CREATE
    until [ -n "$dry" ] || [ "$(state)" = ACTIVE ]; do
        case $(state) in FAILED | SUSPEND*) echo "$NAME: $(state): see launch/tpu_vm.sh status" >&2 && exit 1 ;; esac
        sleep "${POLL:-30}"
    done
}

# The images' Python is too old: uv installs one. JAX recommends transparent huge pages on v5e and later.
setup() {
    local archive="${TMPDIR:-/tmp}/magicvideo_jax.tgz"
    line git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    tpus tpu-vm scp "$archive" "$NAME:" --zone="$ZONE" --worker=all
    line rm "$archive"
    on_hosts all "mkdir -p magicvideo_jax && tar -xzf magicvideo_jax.tgz -C magicvideo_jax && cd magicvideo_jax &&\
 python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --clear --python 3.12 .venv &&\
 python3 -m uv pip install --quiet -r requirements.txt 'jax[tpu]' &&\
 echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
}

delete() {
    tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

run() {
    local code=0
    on_hosts all "cd magicvideo_jax && . .venv/bin/activate && MAGICVIDEO_CLUSTER=auto JAX_COORDINATOR_PORT=8476\
 MAGICVIDEO_START_TIMEOUT=${MAGICVIDEO_START_TIMEOUT:-300} $(quoted "$@") >> ../run.log 2>&1" || code=$?
    if [ -n "$dry" ]; then exit; fi
    case $(state) in
        SUSPEND*)
            delete
            create
            setup
            ;;
        *) if [ "$code" -ne 75 ]; then exit "$code"; fi ;;
    esac
}

if [ "$verb" = run ] && [ $# -eq 0 ]; then verb=; fi
if [ -n "$verb" ]; then : "${NAME:?what the slice is called}" "${ZONE:?where it is, as us-west4-a}"; fi
case $verb in
    create | setup | delete) "$verb" ;;
    run) while true; do run "$@"; done ;;
    logs) on_hosts "${1:-0}" "tail -n 100 -F run.log" ;;
    status) tpus queued-resources describe "$NAME" --zone="$ZONE" ;;
    *) sed -n '2,11s/^# //p' "$0" >&2 && exit 2 ;;
esac
