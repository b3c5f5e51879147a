#!/bin/sh
# Two nodes, a pod on each, and a client outside, as network namespaces with real traffic between them:
#   sudo sh lab.sh            applies, asks the Service through a NodePort and an external IP, collects, compares, takes all away
#   KEEP=1 sudo sh lab.sh     leaves the lab standing (dp-a, dp-b, dp-lan, dp-pod-a, dp-pod-b); sudo sh lab.sh down takes it away
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dataplane=${DATAPLANE:-dataplane}
work=$(mktemp -d)

down() {
  for pod in a b; do
    if [ -f "/run/dp-lab-$pod.pid" ]; then
      kill "$(cat "/run/dp-lab-$pod.pid")" 2>/dev/null || true
      rm -f "/run/dp-lab-$pod.pid"
    fi
    ip netns del "dp-pod-$pod" 2>/dev/null || true
    if [ -e "/run/dataplane/dp-$pod.json" ]; then
      $dataplane cleanup --netns "dp-$pod" 2>/dev/null || true
    fi
  done
  ip netns del dp-lan 2>/dev/null || true
  rm -rf "$work"
}

up() {
  ip netns add dp-lan # the network outside: a bridge, the client's address on it
  ip -n dp-lan link set lo up
  ip -n dp-lan link add br0 type bridge
  ip -n dp-lan addr add 192.168.0.1/24 dev br0
  ip -n dp-lan link set br0 up
  for node in a b; do
    $dataplane apply -f "$here/lab.yaml" --node "node-$node" --netns "dp-$node"
    case $node in a) number=1 ;; *) number=2 ;; esac
    # The far ends of eth0 and cni0 become a port of the bridge and the pod's own link.
    ip -n "dp-$node-outside" link set p2 down
    ip -n "dp-$node-outside" link set p2 name "node-$node" netns dp-lan
    ip -n dp-lan link set "node-$node" master br0 up
    ip netns add "dp-pod-$node"
    ip -n "dp-$node-outside" link set p3 down
    ip -n "dp-$node-outside" link set p3 name eth0 netns "dp-pod-$node"
    ip -n "dp-pod-$node" link set lo up
    ip -n "dp-pod-$node" addr add "10.244.$number.5/24" dev eth0
    ip -n "dp-pod-$node" link set eth0 up
    ip -n "dp-pod-$node" route add default via "10.244.$number.1"
    # apply made the gateways known neighbours, since nobody stood outside: now somebody does.
    for gateway in $(ip -n "dp-$node" neigh show nud permanent dev eth0 | cut -d' ' -f1); do
      ip -n "dp-$node" neigh del "$gateway" dev eth0
    done
    mkdir -p "$work/$node"
    echo "pod-$node" > "$work/$node/index.html"
    ip netns exec "dp-pod-$node" python3 -m http.server 8080 --directory "$work/$node" >/dev/null 2>&1 &
    echo $! > "/run/dp-lab-$node.pid"
  done
  ip -n dp-lan route add 198.51.100.10/32 via 192.168.0.11 # the external IP is routed to node-a
  for node in a b; do # the servers answer
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
      ip netns exec "dp-pod-$node" curl -s --max-time 1 -o /dev/null http://127.0.0.1:8080/ && break
      sleep 0.5
    done
  done
}

ask() { # WHAT URL: ten answers, and which pods gave them
  answers=
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    answers="$answers $(ip netns exec dp-lan curl -s --max-time 5 "$2" || echo none)"
  done
  echo "$1: $(echo "$answers" | tr ' ' '\n' | sed '/^$/d' | sort | uniq -c | tr -s ' \n' ' ')"
  case "$answers" in *none*) echo "$1: no answer" >&2; return 1 ;; esac
}

if [ "${1:-}" = down ]; then
  down
  exit 0
fi
[ -n "${KEEP:-}" ] || trap down EXIT
down
mkdir -p "$work"
up
ask "NodePort of node-a" http://192.168.0.11:30080/
ask "NodePort of node-b" http://192.168.0.12:30080/
ask "external IP" http://198.51.100.10/
echo "the emulator: $($dataplane trace -f "$here/lab.yaml" --node node-a --in eth0 'tcp 192.168.0.1:40000 > 198.51.100.10:80' 2>/dev/null | tail -n 1)"
$dataplane collect --netns dp-a --out "$work/first"
$dataplane apply -f "$here/lab.yaml" --node node-a --netns dp-a >/dev/null
$dataplane collect --netns dp-a --out "$work/second"
if $dataplane diff "$work/first" "$work/second" | grep -E '^@@ ip6?tables'; then
  echo "a second apply changed rules" >&2
  exit 1
fi
echo "a second apply changed no rule"
if said=$($dataplane verify --snapshot "$work/first" --packets "${PACKETS:-500}" --keep "$work/differing" 2>&1); then
  echo "$said" | tail -n 3
else
  case "$said" in
    *"cannot be asked"* | *"not installed"*) echo "verify: $said" ;;
    *) echo "$said" >&2; exit 1 ;;
  esac
fi
