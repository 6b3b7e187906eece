#!/usr/bin/env bash
# Installs what the live tests need from Debian, and nothing that is there already: install.sh [cluster]. Needs root.
# With `cluster`: what tests/cluster needs.
#
# Only programs are wanted: no service of the system is started or changed. Where no policy-rc.d forbids starting
# services, one is put there for the time of the installation.
set -euo pipefail

# Program to look for, and the package that has it.
wanted=(
  "/usr/lib/postgresql/*/bin/initdb:postgresql"
  "/usr/bin/pg_dump:postgresql-client"
  "/usr/sbin/mariadbd:mariadb-server-core"
  "/usr/bin/mariadb-dump:mariadb-client"
  "/usr/bin/restic:restic"
  "/usr/sbin/sshd:openssh-server"
  "/usr/bin/ssh-keygen:openssh-client"
  "/usr/bin/gpg:gnupg"
  "/usr/bin/git:git"
  "/usr/bin/openssl:openssl"
  "/usr/bin/sqlite3:sqlite3"
  "/usr/bin/python3:python3-minimal"
  "/usr/bin/getfattr:attr"
  "/usr/bin/setfacl:acl"
  "/usr/sbin/setcap:libcap2-bin"
  "/usr/lib/*/faketime/libfaketime.so.1:faketime"
  "/usr/bin/setpriv:util-linux"
  "/usr/bin/systemd-analyze:systemd"
  "/usr/bin/cc:gcc"
  "/usr/bin/cmake:cmake"
)
if [ "${1:-}" = cluster ]; then
  wanted=(
    "/usr/bin/containerd:containerd"
    "/usr/sbin/runc:runc"
    "/usr/lib/cni/bridge:containernetworking-plugins"
    "/usr/sbin/nft:nftables"
    "/usr/sbin/iptables:iptables"
    "/usr/bin/mmdebstrap:mmdebstrap"
    "/usr/bin/btrfs:btrfs-progs"
    "/usr/bin/nsenter:util-linux"
    "/usr/sbin/ip:iproute2"
    "/usr/bin/musl-gcc:musl-tools"
  )
fi
missing=()
for line in "${wanted[@]}"; do
  compgen -G "${line%%:*}" >/dev/null || missing+=("${line##*:}")
done
# Node may come from elsewhere than Debian, and npm with it.
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "error: these packages are missing: ${missing[*]}" >&2
  echo "  help: run tests/run once as root, or install them yourself" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
