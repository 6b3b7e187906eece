#!/usr/bin/env bash
# A private certificate authority and a certificate of it for 127.0.0.1 and localhost, and for 10.77.0.1, which is the
# host's loopback in the test cluster: certificate.sh DIRECTORY.
set -euo pipefail

mkdir -p "$1"
cd "$1"
[ ! -e server.pem ] || exit 0
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=tests" \
  -keyout authority.key -out authority.pem -addext "basicConstraints=critical,CA:TRUE" \
  -addext "keyUsage=critical,keyCertSign" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" -keyout server.key \
  -out server.csr 2>/dev/null
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -out server.pem \
  -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.77.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n') 2>/dev/null
chmod 600 authority.key server.key
