# Where the cluster lives and how its programs are started; sourced by the commands beside it.
#
# Everything is below ${XDG_CACHE_HOME:-~/.cache}/mainstay: what was built, by version and by hash of what it is built
# from, and `cluster`, the state of the one cluster that can run at a time.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mainstay
state=$cache/cluster

# The hash of some files' content, short.
hash_of() { cat "$@" | sha256sum | cut -c1-12; }

kubernetes_version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' "$here/kubernetes/go.mod")
programs=$cache/cluster-${kubernetes_version#v}-$(
  hash_of "$here/build" "$here"/kubernetes/go.* "$here"/kubernetes/*.go "$here"/kubernetes/*/*.go
)
images=$cache/cluster-images-$(hash_of "$here/images" "$here/containerd.toml" "$here/kubernetes/image.go")

# The programs of the cluster that is up, which may be of another version than this clone's.
use_running() { programs=$(readlink "$state/programs") || fail "the cluster is not up: tests/cluster/up starts it"; }

# One network for all: the control plane and the first node have the first address, the second node has the second.
address=10.77.0.1
nodes=(node1 node2)
node_addresses=(10.77.0.1 10.77.0.2)
pods=10.88
services=10.96.0.0/16
# The API server and the S3 server, on the loopback of the host.
api_port=${MAINSTAY_CLUSTER_PORT:-16443}
s3_port=${MAINSTAY_CLUSTER_S3_PORT:-19000}

fail() {
  echo "error: $*" >&2
  exit 1
}

# Waits until a command works: wait_for WHAT SECONDS COMMAND...
wait_for() {
  local what=$1 left=$(($2 * 20))
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || fail "$what: not within the time; see $state/log"
    sleep 0.05
  done
}

kubectl() { KUBECONFIG=$state/kubeconfig "$programs/kubernetes" kubectl "$@"; }

# --- control groups: what belongs to the cluster, and so what `down` ends ---------------------------------------------

group=mainstay-cluster
# With version 1, process ids are tracked by the hierarchy `pids`; with version 2 there is one hierarchy for all.
if [ -d /sys/fs/cgroup/pids ]; then
  hierarchies=(/sys/fs/cgroup/{cpu,cpuacct,cpuset,memory,devices,freezer,blkio,hugetlb,pids,systemd})
  tracked=/sys/fs/cgroup/pids/$group
else
  hierarchies=(/sys/fs/cgroup)
  tracked=/sys/fs/cgroup/$group
fi

# The processes of the cluster: its programs, and everything in its pods.
members() {
  [ ! -d "$tracked" ] || find "$tracked" -name cgroup.procs -exec cat {} + 2>/dev/null
}

# --- programs ---------------------------------------------------------------------------------------------------------

# The process of a program that was started, if it still runs.
process_of() {
  local process
  process=$(cat "$state/process/$1" 2>/dev/null) || return 1
  grep -qx "$process" "$tracked/programs/cgroup.procs" 2>/dev/null && echo "$process"
}

# start NAME NAMESPACES COMMAND...: runs it in the background, in the namespaces that another program holds, or in the
# host's where that is `host`.
start() {
  local name=$1 namespaces=$2 holder
  shift 2
  local enter=()
  if [ "$namespaces" != host ]; then
    holder=$(process_of "$namespaces") || fail "$namespaces does not run"
    enter=(nsenter --target "$holder" --net --mount --wd=/)
  fi
  (
    echo "$BASHPID" >"$tracked/programs/cgroup.procs"
    exec "${enter[@]}" setsid "$@"
  ) >>"$state/log/$name" 2>&1 </dev/null &
  echo $! >"$state/process/$name"
}

# stop NAME: ends one program at once, and waits until it is gone.
stop() {
  local process
  process=$(process_of "$1") || return 0
  kill -KILL "$process"
  while process_of "$1" >/dev/null; do sleep 0.02; done
}
