#!/usr/bin/env bash
# Makes the network and the disks of the cluster, and then holds them: network.sh. Run by `up` in new namespaces.
#
# Nothing of it is seen by the host, and all of it goes away with the last process in it.
set -euo pipefail
# shellcheck source=place.sh
. "$(dirname "$0")/place.sh"

ip link set lo up
# Both ends of a veth pair: not every kernel has dummy devices.
ip link add nodes type veth peer name nodes-end
ip link set nodes-end up
ip link set nodes up
for each in "${node_addresses[@]}"; do
  ip address add "$each/24" dev nodes
done
# It leads nowhere. Service addresses need some route before kube-proxy gets to see them.
ip route add default dev nodes
sysctl -qw net.ipv4.ip_forward=1
mount -o loop,compress=no "$state/disk.btrfs" "$state/disk"
mkdir -p "$state"/disk/{volumes,snapshots,capacities}
btrfs quota enable "$state/disk" # so that a full volume is full
mount -o loop "$images/containerd.btrfs" "$state/images"
# Each node has its container runtime's folder with all images unpacked; it is a snapshot, so it costs nothing.
for node in "${nodes[@]}"; do
  [ ! -e "$state/images/$node" ] || btrfs subvolume delete "$state/images/$node" >/dev/null
  btrfs subvolume snapshot "$state/images/prepared" "$state/images/$node" >/dev/null
done
touch "$state/network.ready"
exec "$programs/pause"
