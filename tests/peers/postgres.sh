#!/usr/bin/env bash
# A PostgreSQL of our own: postgres.sh DIRECTORY PORT. The process itself becomes the server, so that its id ends it.
# User `mainstay`, password `mainstay`, who may do everything; on 127.0.0.1 only.
set -euo pipefail

directory=$1 port=$2
programs=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -1)")
# The server refuses to run as root.
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid=postgres --regid=postgres --clear-groups --no-new-privs)
fi
mkdir -p "$directory"
[ ${#as[@]} -eq 0 ] || chown postgres:postgres "$directory"
cd "$directory"
if [ ! -e "$directory/data/PG_VERSION" ]; then
  printf 'mainstay\n' >"$directory/password"
  chmod 644 "$directory/password"
  "${as[@]}" "$programs/initdb" --pgdata="$directory/data" --username=mainstay --pwfile="$directory/password" \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync >"$directory/initdb.log" 2>&1
fi
exec "${as[@]}" "$programs/postgres" -D "$directory/data" -p "$port" -c listen_addresses=127.0.0.1 \
  -c unix_socket_directories="$directory" -c fsync=off -c shared_buffers=32MB -c max_connections=50 \
  >>"$directory/server.log" 2>&1
