#!/bin/sh
# Makes a Debian or Ubuntu machine ready for lab.sh. May be run again at any time.
set -eu
source=${DATAPLANE_SOURCE:-$(cd "$(dirname "$0")/.." && pwd)}
target=${DATAPLANE_VENV:-/opt/dataplane}

wanted="iproute2 iptables nftables ipset nfacct conntrack curl python3-venv util-linux"
missing=
for package in $wanted; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  apt-get update -qq
  # shellcheck disable=SC2086 # several words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing
fi
if [ -z "${DATAPLANE:-}" ]; then # set: this command is used as it is
  [ -x "$target/bin/python" ] || python3 -m venv "$target"
  "$target/bin/pip" install --quiet --disable-pip-version-check "${source}[apply]"
  ln -sf "$target/bin/dataplane" /usr/local/bin/dataplane
  DATAPLANE=dataplane
fi
"$DATAPLANE" --version
