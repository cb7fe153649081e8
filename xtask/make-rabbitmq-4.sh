#!/bin/sh
# Makes, at $1, a small tree of Debian unstable that holds its RabbitMQ 4, for tests that run it there by chroot. The
# mirror and the keys are the ones that this system uses already; nothing outside of $1 changes, but that debootstrap is
# installed where it is missing.
set -eu

tree=$1
if [ "$(id -u)" != 0 ]; then
    echo "RabbitMQ 4 runs in a tree of its own, by chroot: that needs root" >&2
    exit 1
fi
if ! command -v debootstrap >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        debootstrap debian-archive-keyring
fi
mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
if [ -z "$mirror" ]; then
    echo "this system has no mirror of Debian" >&2
    exit 1
fi

# Under another name until it is whole. One that was cut short may still have its own /proc mounted.
umount "$tree.part/proc" "$tree.part/sys" 2>/dev/null || true
rm -rf --one-file-system "$tree.part"
mkdir -p "$tree.part"
# The run level of maintenance: no service is started for having been installed.
RUNLEVEL=1 debootstrap --force-check-gpg --variant=minbase --include=rabbitmq-server sid "$tree.part" "$mirror"
cp /etc/hosts "$tree.part/etc/hosts"
case $(chroot "$tree.part" dpkg-query --show --showformat '${Version}' rabbitmq-server) in
4.*) ;;
*)
    echo "Debian unstable no longer has RabbitMQ 4" >&2
    exit 1
    ;;
esac
rm -rf "$tree.part/var/cache/apt" "$tree.part/var/lib/apt/lists"
mv "$tree.part" "$tree"
