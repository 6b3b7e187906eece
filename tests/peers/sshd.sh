#!/usr/bin/env bash
# An SSH server of our own: sshd.sh DIRECTORY PORT. The process itself becomes the server.
# DIRECTORY/client is the key that may log in, DIRECTORY/known_hosts knows the server; on 127.0.0.1 only.
set -euo pipefail

directory=$1 port=$2
mkdir -p "$directory"
chmod 700 "$directory"
[ -e "$directory/host" ] || ssh-keygen -q -t ed25519 -N '' -C host -f "$directory/host"
[ -e "$directory/client" ] || ssh-keygen -q -t ed25519 -N '' -C client -f "$directory/client"
cp "$directory/client.pub" "$directory/authorized_keys"
printf '[127.0.0.1]:%s %s\n' "$port" "$(cut -d' ' -f1,2 "$directory/host.pub")" >"$directory/known_hosts"
# sshd wants its folder for privilege separation, which the system's service would make.
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
cat >"$directory/sshd_config" <<CONFIG
ListenAddress 127.0.0.1
Port $port
HostKey $directory/host
PidFile none
AuthorizedKeysFile $directory/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
CONFIG
exec /usr/sbin/sshd -D -e -f "$directory/sshd_config" >>"$directory/server.log" 2>&1
