#!/usr/bin/env bash
# A real PostgreSQL, from Debian's package, judges the source `postgres`: types, bounds, what may not run, TLS, refused passwords, cancelling
# (tests/it/postgres.rs). Nothing is skipped: what is missing is installed, and what cannot be installed is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || ! command -v psql >/dev/null || ! command -v openssl >/dev/null; then
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  $root apt-get update -qq
  # Its own server is not wanted: each test starts one.
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql postgresql-client openssl
fi
NIGHTCREW_NEED_POSTGRES=1 exec cargo test --locked --test it -- postgres::
