# The command line of each program of the cluster; sourced after place.sh.

# start_program NAME: starts it. For kubelet-NODE, containerd-NODE and csi-NODE, NODE is node1 or node2.
start_program() {
  local keys=$state/keys kubernetes=$programs/kubernetes node=${1##*-} holder
  case $1 in
  etcd)
    start "$1" network "$kubernetes" etcd "$state/etcd" http://127.0.0.1:2379 http://127.0.0.1:2380
    ;;
  kube-apiserver)
    start "$1" network "$kubernetes" kube-apiserver \
      --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --advertise-address=$address --secure-port=6443 \
      --tls-cert-file="$keys/server.crt" --tls-private-key-file="$keys/server.key" \
      --client-ca-file="$keys/authority.crt" --requestheader-client-ca-file="$keys/authority.crt" \
      --requestheader-allowed-names=nobody \
      --kubelet-client-certificate="$keys/apiserver.crt" --kubelet-client-key="$keys/apiserver.key" \
      --kubelet-preferred-address-types=InternalIP \
      --service-account-issuer=https://kubernetes.default.svc \
      --service-account-key-file="$keys/service-accounts.crt" \
      --service-account-signing-key-file="$keys/service-accounts.key" \
      --service-cluster-ip-range=$services --authorization-mode=Node,RBAC \
      --enable-admission-plugins=NodeRestriction --allow-privileged=true --endpoint-reconciler-type=lease \
      --profiling=false
    ;;
  kube-controller-manager)
    # The administrator's credentials: with one account for each controller the first pod waits 5 s longer.
    start "$1" network "$kubernetes" kube-controller-manager --kubeconfig="$keys/admin.kubeconfig" \
      --authentication-kubeconfig="$keys/admin.kubeconfig" --authorization-kubeconfig="$keys/admin.kubeconfig" \
      --bind-address=127.0.0.1 --leader-elect=false --root-ca-file="$keys/authority.crt" \
      --service-account-private-key-file="$keys/service-accounts.key" \
      --cluster-signing-cert-file="$keys/authority.crt" --cluster-signing-key-file="$keys/authority.key" \
      --node-monitor-grace-period=20s --profiling=false
    ;;
  kube-scheduler)
    start "$1" network "$kubernetes" kube-scheduler --kubeconfig="$keys/kube-scheduler.kubeconfig" \
      --authentication-kubeconfig="$keys/kube-scheduler.kubeconfig" \
      --authorization-kubeconfig="$keys/kube-scheduler.kubeconfig" \
      --bind-address=127.0.0.1 --leader-elect=false --profiling=false
    ;;
  kube-proxy)
    start "$1" network "$kubernetes" kube-proxy --config="$state/kube-proxy.yaml"
    ;;
  coredns)
    start "$1" network "$programs/coredns" -conf "$state/Corefile"
    ;;
  csi)
    start "$1" network "$kubernetes" csi -data "$state/disk" -socket "$state/csi.sock"
    ;;
  csi-provisioner)
    start "$1" network "$programs/csi-provisioner" --csi-address="$state/csi.sock" \
      --kubeconfig="$keys/admin.kubeconfig" --extra-create-metadata --retry-interval-start=100ms
    ;;
  csi-snapshotter)
    start "$1" network "$programs/csi-snapshotter" --csi-address="$state/csi.sock" \
      --kubeconfig="$keys/admin.kubeconfig" --retry-interval-start=100ms
    ;;
  snapshot-controller)
    start "$1" network "$programs/snapshot-controller" --kubeconfig="$keys/admin.kubeconfig" \
      --retry-interval-start=100ms
    ;;
  s3)
    start "$1" network env MAINSTAY_PEER_ADDRESS=$address \
      "$here/../peers/s3.sh" "$state/s3" 9000 "$cache/versitygw/versitygw"
    ;;
  forward-api | forward-s3)
    holder=$(process_of network)
    local from=127.0.0.1:$api_port to=$address:6443
    [ "$1" = forward-api ] || from=127.0.0.1:$s3_port to=$address:9000
    start "$1" host "$kubernetes" forward - "$from" "/proc/$holder/ns/net" "$to"
    ;;
  containerd-node?)
    start "$1" "$node" containerd --config "$state/$node.containerd.toml"
    ;;
  kubelet-node?)
    start "$1" "$node" "$kubernetes" kubelet --config="$state/$node.kubelet.yaml" \
      --kubeconfig="$keys/$node.kubeconfig" --hostname-override="$node" --node-ip="$(address_of "$node")"
    ;;
  csi-node?)
    start "$1" "$node" "$kubernetes" csi -data "$state/disk" -node "$node" \
      -socket "/var/lib/kubelet/plugins/btrfs.csi.test/csi.sock" -registry /var/lib/kubelet/plugins_registry
    ;;
  *) fail "there is no program $1" ;;
  esac
}

# The address of a node.
address_of() {
  local index
  for index in "${!nodes[@]}"; do
    [ "${nodes[index]}" != "$1" ] || echo "${node_addresses[index]}"
  done
}
