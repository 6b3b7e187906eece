#!/usr/bin/env bash
# Builds the peers that Debian does not have, once, into the folder given: build.sh FOLDER [cluster]. Prints nothing when
# all is there. With `cluster`: also what only the tests on the cluster need.
set -euo pipefail

cache=$1
here=$(cd "$(dirname "$0")" && pwd)

# versitygw: an S3 server. Its version is the one that go.mod names.
module=github.com/versity/versitygw
version=$(awk -v module="$module" '$1 == module { print $2 }' "$here/versitygw/go.mod")
program=$cache/versitygw-${version#v}/versitygw
if [ ! -x "$program" ]; then
  echo "building versitygw $version (about a minute)"
  mkdir -p "$(dirname "$program")"
  # Built under another name first, so that an interrupted build is never taken for a good one.
  (cd "$here/versitygw" && GOFLAGS=-mod=mod go build -o "$program.part" "$module/cmd/versitygw")
  mv "$program.part" "$program"
fi
ln -sfn "versitygw-${version#v}" "$cache/versitygw"

# Gitea: a forge. Its pages and translations come from the module's own folder.
module=code.gitea.io/gitea
version=$(awk -v module="$module" '$1 == module { print $2 }' "$here/gitea/go.mod")
program=$cache/gitea-${version#v}/gitea
if [ ! -x "$program" ]; then
  echo "building gitea $version (about three minutes)"
  mkdir -p "$(dirname "$program")"
  (
    cd "$here/gitea"
    export GOFLAGS=-mod=mod CGO_ENABLED=1
    go build -trimpath -ldflags "-s -w" -tags "sqlite sqlite_unlock_notify" -o "$program.part" "$module"
    rm -rf "$(dirname "$program")/share"
    mkdir "$(dirname "$program")/share"
    for part in options public templates; do
      cp -r --no-preserve=mode "$(go list -m -f '{{.Dir}}' "$module")/$part" "$(dirname "$program")/share"
    done
  )
  mv "$program.part" "$program"
fi
ln -sfn "gitea-${version#v}" "$cache/gitea"

# yaml-language-server: what editors check YAML with. Its version, and the hashes of all that it needs, are in the lock.
version=$(sed -n 's/.*"yaml-language-server": "\([0-9.]*\)".*/\1/p' "$here/yaml-language-server/package.json")
folder=$cache/yaml-language-server-$version
if [ ! -e "$folder/node_modules/yaml-language-server/bin/yaml-language-server" ]; then
  echo "installing yaml-language-server $version"
  rm -rf "$folder" "$folder.part"
  mkdir -p "$folder.part"
  cp "$here/yaml-language-server/package.json" "$here/yaml-language-server/package-lock.json" "$folder.part"
  npm ci --prefix "$folder.part" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  mv "$folder.part" "$folder"
fi
ln -sfn "yaml-language-server-$version" "$cache/yaml-language-server"

[ "${2:-}" = cluster ] || exit 0

# helm: installs charts. It has to be told which Kubernetes it is made for.
module=helm.sh/helm/v3
version=$(awk -v module="$module" '$1 == module { print $2 }' "$here/helm/go.mod")
program=$cache/helm-${version#v}/helm
if [ ! -x "$program" ]; then
  echo "building helm $version (two minutes when nothing is cached)"
  mkdir -p "$(dirname "$program")"
  kubernetes=$(awk '$1 == "k8s.io/client-go" { print $2 }' "$here/helm/go.mod")
  flags="-s -w -X $module/internal/version.version=$version -X $module/pkg/chartutil.k8sVersionMajor=1"
  flags+=" -X $module/pkg/chartutil.k8sVersionMinor=$(echo "$kubernetes" | cut -d. -f2)"
  (cd "$here/helm" && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -ldflags "$flags" -o "$program.part" "$module/cmd/helm")
  mv "$program.part" "$program"
fi
ln -sfn "helm-${version#v}" "$cache/helm"

# What ServiceMonitor and PrometheusRule are, from the module of their operator, of which nothing is built.
module=github.com/prometheus-operator/prometheus-operator
version=$(awk -v module="$module" '$2 == module { print $3 }' "$here/prometheus-operator/go.mod")
folder=$cache/prometheus-operator-${version#v}
if [ ! -d "$folder" ]; then
  echo "fetching the definitions of prometheus-operator $version"
  rm -rf "$folder.part"
  mkdir -p "$folder.part"
  source=$(cd "$here/prometheus-operator" && go mod download -json "$module@$version" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
  for kind in servicemonitors prometheusrules; do
    cp "$source/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$folder.part/$kind.yaml"
  done
  mv "$folder.part" "$folder"
fi
ln -sfn "prometheus-operator-${version#v}" "$cache/prometheus-operator"
