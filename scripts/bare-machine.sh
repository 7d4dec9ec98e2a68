#!/bin/bash
# Proves that a clone is enough: a minimal Debian in a chroot, the checkout copied in, then make test and the demo there.
#
#     scripts/bare-machine.sh [FOLDER]        root; the chroot is made in FOLDER (default: a new one in TMPDIR) and removed
#
# The chroot asks the registries that this machine asks: apt's sources and configuration, pip's configuration, certificates
# and PIP_* are taken over from outside.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "bare-machine: debootstrap and chroot need root; fix: sudo make bare-machine" >&2; exit 1; }
source_tree=$(cd "$(dirname "$0")/.." && pwd)
root=$(realpath "${1:-$(mktemp -d "${TMPDIR:-/tmp}/bare-XXXXXX")}")
mirror=$(awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)

clean_up() {
    umount --recursive --lazy "$root" 2>/dev/null || true
    if grep -qF -e " $root " -e " $root/" /proc/self/mountinfo; then
        echo "bare-machine: something is still mounted in $root, so it is not removed; fix: umount -R -l and rm -r" >&2
    else
        rm -rf --one-file-system "$root"
    fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

debootstrap --variant=minbase --include=ca-certificates bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 ||
    { tail -5 "$root.log" >&2; exit 1; }
rm -f "$root.log"
chmod 755 "$root"                  # the root of a real machine is everybody's to enter; mktemp's is not
# The root of a real machine is a mount, too: `ip netns exec` makes it a slave, which a mere folder cannot be. What is
# mounted inside, by us or by the tests (/run/netns), stays inside.
mount --bind "$root" "$root"
mount --make-private "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys" && mount --make-rslave "$root/sys"
mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"     # /dev/net/tun with it, for WireGuard
cp /etc/resolv.conf /etc/hosts "$root/etc/"
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
    rm -f "$root/etc/apt/sources.list"
    cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/"
fi
cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
rm -f "$root"/etc/apt/apt.conf.d/*packagekit "$root"/etc/apt/apt.conf.d/*appstream  # hooks for programs that are not there
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
[ ! -e "$HOME/.config/pip/pip.conf" ] || install -D "$HOME/.config/pip/pip.conf" "$root/root/.config/pip/pip.conf"

mkdir "$root/flyproxy"
if [ -d "$source_tree/.git" ] && git -C "$source_tree" rev-parse -q --verify HEAD >/dev/null; then
    git -C "$source_tree" archive HEAD | tar -x -C "$root/flyproxy"
else
    tar -C "$source_tree" --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./.demo --exclude='*.so' -c . |
        tar -x -C "$root/flyproxy"
fi

inside() {
    env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 $(env | grep -E '^(PIP_[A-Z_]+|https?_proxy|no_proxy)=' || true) \
        chroot "$root" sh -c "cd /flyproxy && $1"
}

inside "apt-get update -qq && apt-get install -y -qq --no-install-recommends make >/dev/null"
inside "make --no-print-directory build"
inside ".venv/bin/python scripts/try-demo.py"
inside "make --no-print-directory test"
