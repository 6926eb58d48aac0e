# shellcheck shell=bash
# What the jobs share; they run inside the guest, in /run/lab.
set -euo pipefail

# nfs_mount PORT [OPTIONS]: only one at a time. The NFS client recognises a server that it knows already, whatever the
# port, and would use the first mount's connection for the second.
nfs_mount() {
  local options="vers=4.1,rsize=1048576,wsize=1048576,port=$1,proto=tcp,sec=sys,hard,timeo=600,noresvport${2:+,$2}"
  [[ -z ${SHOW:-} ]] || echo "mount -t nfs4 -o $options $HOST:/ /mnt/nfs"
  timeout -k 5 40 mount -t nfs4 -o "$options" "$HOST:/" /mnt/nfs
}

forget_caches() { echo 3 >/proc/sys/vm/drop_caches; }
