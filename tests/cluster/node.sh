#!/usr/bin/env bash
# Makes this mount namespace that of a node, and then holds it: node.sh NODE. Run by `up` in a new mount namespace.
#
# The folders at fixed places, which containerd and the kubelet write whatever one tells them, become the node's own.
set -euo pipefail
# shellcheck source=place.sh
. "$(dirname "$0")/place.sh"

own=$state/$1
mount --make-rshared / # pods may ask for mounts to propagate
# The folders below /var/lib need not be there on the host: a layer over it has them.
layer=$state/images/$1-layer
rm -rf "$layer"
mkdir -p "$own"/{kubelet,cni,log,run} "$layer"/{upper,work} "$layer"/upper/{kubelet,cni,containerd}
mount -t overlay overlay -o "lowerdir=/var/lib,upperdir=$layer/upper,workdir=$layer/work" /var/lib
mount --bind "$own/kubelet" /var/lib/kubelet
mount --bind "$own/cni" /var/lib/cni
mount --bind "$state/images/$1" /var/lib/containerd
mount --bind "$own/log" /var/log
mount --bind "$own/run" /run
# The kubelet sets these. It gets files that look like them, so that the machine's own stay as they are.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=$own/$(basename "${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done
touch "$own/ready"
exec "$programs/pause"
