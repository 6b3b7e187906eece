#!/usr/bin/env bash
# An S3 server of our own: s3.sh DIRECTORY PORT PROGRAM [CERTIFICATE KEY]. The process itself becomes the server.
# Access key `mainstay`, secret `mainstay-secret`, bucket `backups`; https where a certificate is given. On 127.0.0.1 only, unless
# MAINSTAY_PEER_ADDRESS is another address.
set -euo pipefail

directory=$1 port=$2 program=$3
mkdir -p "$directory/data/backups" "$directory/versions"
tls=()
if [ $# -ge 5 ]; then
  tls=(--cert "$4" --key "$5")
fi
cd "$directory"
export ROOT_ACCESS_KEY=mainstay ROOT_SECRET_KEY=mainstay-secret
exec "$program" --port "${MAINSTAY_PEER_ADDRESS:-127.0.0.1}:$port" "${tls[@]}" posix --versioning-dir "$directory/versions" "$directory/data" \
  >>"$directory/server.log" 2>&1
