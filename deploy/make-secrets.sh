#!/bin/sh
# Makes what the cluster keeps secret, on the first start; later starts find it and change nothing.
#
#   $1, for the nodes:  cluster-secret  which the nodes show each other
#                       amqp-url        where the broker is, with its user's password
#   $2, for the broker: rabbitmq.conf   its settings, with the same user and password
#
# $3 is the broker's host and port. A file appears whole or not at all; the nodes' amqp-url comes last.
set -eu

nodes=$1
broker=$2
address=$3

random() {
    # 32 bytes in hex: no character of it means anything in a URL or a settings file.
    od -A n -N 32 -t x1 /dev/urandom | tr -d ' \n'
}

put() {
    cat >"$1.new"
    chmod "$2" "$1.new"
    mv "$1.new" "$1"
}

if [ -s "$nodes/amqp-url" ]; then
    echo "the secrets are there"
    exit 0
fi

password=$(random)
random | put "$nodes/cluster-secret" 0400
put "$broker/rabbitmq.conf" 0444 <<END
# Made on the first start. The broker makes this user when its own folder is empty, and only then.
default_user = headcount
default_pass = $password

# Queues grow while a counter is away. Publishing stops before the disk is full, not after.
disk_free_limit.absolute = 1GB
END
echo "amqp://headcount:$password@$address/%2f" | put "$nodes/amqp-url" 0400
echo "made the secrets"
