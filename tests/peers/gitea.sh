#!/usr/bin/env bash
# A Gitea of our own: gitea.sh DIRECTORY PORT PROGRAM. The process itself becomes the server. On 127.0.0.1 only.
#
# The users ada, bob, eve and mainstay have the password `a-password-of-the-tests`, and their tokens are in
# DIRECTORY/tokens/NAME. None of them is an administrator of the server but ada.
set -euo pipefail

directory=$1 port=$2 program=$3
share=$(dirname "$(readlink -f "$program")")/share
mkdir -p "$directory/tokens" "$directory/home"
cd "$directory"
export HOME=$directory/home GITEA_WORK_DIR=$directory
cat >app.ini <<INI
APP_NAME = tests
RUN_MODE = prod
RUN_USER = $(id -un)
WORK_PATH = $directory
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
[server]
PROTOCOL = http
HTTP_ADDR = 127.0.0.1
HTTP_PORT = $port
ROOT_URL = http://127.0.0.1:$port/
STATIC_ROOT_PATH = $share
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
PATH = $directory/gitea.db
[security]
INSTALL_LOCK = true
PASSWORD_HASH_ALGO = pbkdf2_v1
[service]
DISABLE_REGISTRATION = true
[webhook]
ALLOWED_HOST_LIST = loopback
DELIVER_TIMEOUT = 5
[repository]
DEFAULT_BRANCH = main
[log]
LEVEL = Warn
MODE = file
ROOT_PATH = $directory
[indexer]
ISSUE_INDEXER_TYPE = db
[cron.update_checker]
ENABLED = false
INI
gitea() {
  "$program" --config "$directory/app.ini" "$@" 2>>"$directory/setup.log"
}
if [ ! -e "$directory/tokens/complete" ]; then
  gitea migrate >>"$directory/setup.log"
  for user in ada bob eve mainstay; do
    admin=()
    [ "$user" != ada ] || admin=(--admin)
    gitea admin user create "${admin[@]}" --username "$user" --password a-password-of-the-tests \
      --email "$user@example.org" --must-change-password=false >>"$directory/setup.log"
    # Warnings go to standard output, too; the token is the last line.
    gitea admin user generate-access-token --username "$user" --token-name tests --scopes all --raw |
      tail -n 1 >"$directory/tokens/$user"
  done
  touch "$directory/tokens/complete"
fi
exec "$program" --config "$directory/app.ini" web >>"$directory/server.log" 2>&1
