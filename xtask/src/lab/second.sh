#!/bin/bash
# The second program of L1, on its root: what a distribution's init would set up, then the one command that the host sends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
# Real ext4, where a root of two layers would refuse unnamed files.
chmod 1777 /scratch/tmp
mount --bind /scratch/tmp /tmp

# Places of the host's root have the same names here, and an ordinary user is to see what is put there.
chmod 755 /root
chmod 666 /dev/kvm /dev/net/tun /dev/ptmx /dev/fuse 2>/dev/null
ip link set lo up
hostname lab
ulimit -n 65536

# The kernel makes ports one after the other, and tells nobody who is not udev.
declare -A ports
until [[ ${ports[control]} && ${ports[stdout]} && ${ports[stderr]} ]]; do
    for port in /sys/class/virtio-ports/*; do
        [[ -r $port/name ]] && ports[$(<"$port/name")]=/dev/${port##*/}
    done
    [[ ${ports[control]} && ${ports[stdout]} && ${ports[stderr]} ]] || sleep 0.01
done
exec 3<>"${ports[control]}"
echo ready >&3
read -r length <&3
head -c "$length" <&3 >/run/lab-command

# A port is opened once at a time, so the command writes to pipes: it may open its own output again.
mkfifo /run/stdout /run/stderr
for stream in stdout stderr; do
    LC_ALL=C dd bs=32k if=/run/$stream of="${ports[$stream]}" 2>/run/$stream.count 3>&- &
done
mkdir /sys/fs/cgroup/command
(
    exec 3>&-
    echo "$BASHPID" >/sys/fs/cgroup/command/cgroup.procs
    exec bash /run/lab-command
) </dev/null >/run/stdout 2>/run/stderr
status=$?
# What the command has left behind must not hold its output open.
echo 1 >/sys/fs/cgroup/command/cgroup.kill
wait
bytes() {
    local lines
    mapfile -t lines <"/run/$1.count"
    echo "${lines[-1]%% *}"
}
echo "exit $status $(bytes stdout) $(bytes stderr)" >&3
# The host ends this machine as soon as it has read so many bytes of each.
exec sleep infinity
