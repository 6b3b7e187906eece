#!/usr/bin/env bash
# Fills a folder with links to the programs that the hermetic tests may use: those that every Debian has, git, and what
# Rust needs to build. With that folder as the PATH, a test that uses another program fails.
#
#   tests/peers/rust-and-git.sh FOLDER
set -euo pipefail

folder=$1
mkdir -p "$folder"
essential=$(dpkg-query --show --showformat='${Essential} ${binary:Package}\n' | sed -n 's/^yes //p')
for package in $essential git; do
  dpkg --listfiles "$package" | { grep -E '^(/usr)?/s?bin/[^/]+$' || true; } | xargs -r ln -sft "$folder"
done
for program in cargo rustc rustdoc cc c++ gcc g++ as ld ld.lld ar ranlib make cmake; do
  if path=$(command -v "$program"); then ln -sf "$path" "$folder/$program"; fi
done
