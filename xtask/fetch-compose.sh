#!/bin/sh
# Unpacks Debian unstable's docker-compose 2 below $1 without installing anything: this system's own release
# may only have version 1. Its mirror and its keys are the ones that this system uses already.
set -eu

folder=$1
rm -rf "$folder"
mkdir -p "$folder/lists/partial" "$folder/archives/partial" "$folder/root"
cd "$folder"

mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
if [ -z "$mirror" ]; then
    echo "this system has no mirror of Debian" >&2
    exit 1
fi
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >sources.list

apt() {
    apt-get -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD" -o APT::Sandbox::User=root \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false --quiet --quiet "$@"
}
apt update
apt download docker-compose
dpkg-deb --extract docker-compose_*.deb root
rm -rf lists archives ./*.deb ./*.bin
find "$PWD/root" -type f -name docker-compose -exec ln -s {} docker-compose \;
./docker-compose version
