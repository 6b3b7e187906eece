#!/usr/bin/env bash
# A MariaDB of our own: mariadb.sh DIRECTORY PORT. The process itself becomes the server, so that its id ends it.
# User `mainstay`, password `mainstay`, who may do everything; on 127.0.0.1 only.
set -euo pipefail

directory=$1 port=$2
# The server refuses to run as root; any other user will do.
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs)
fi
mkdir -p "$directory"
[ ${#as[@]} -eq 0 ] || chown nobody:nogroup "$directory"
cd "$directory"
if [ ! -d "$directory/data/mysql" ]; then
  "${as[@]}" mariadb-install-db --no-defaults --datadir="$directory/data" --auth-root-authentication-method=normal \
    --skip-test-db >"$directory/install.log" 2>&1
fi
cat >"$directory/init.sql" <<'SQL'
CREATE USER IF NOT EXISTS 'mainstay'@'127.0.0.1' IDENTIFIED BY 'mainstay';
CREATE USER IF NOT EXISTS 'mainstay'@'localhost' IDENTIFIED BY 'mainstay';
GRANT ALL ON *.* TO 'mainstay'@'127.0.0.1' WITH GRANT OPTION;
GRANT ALL ON *.* TO 'mainstay'@'localhost' WITH GRANT OPTION;
SQL
chmod 644 "$directory/init.sql"
exec "${as[@]}" /usr/sbin/mariadbd --no-defaults --datadir="$directory/data" --port="$port" --bind-address=127.0.0.1 \
  --socket="$directory/mariadb.sock" --pid-file="$directory/mariadb.pid" --init-file="$directory/init.sql" \
  --skip-log-bin --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 --character-set-server=utf8mb4 \
  >>"$directory/server.log" 2>&1
