#!/bin/busybox sh
# The first program of L1, in its initrd: drivers of the disks, and a root that is read from one and written to the other.
fail() { /bin/busybox echo "lab: $1"; /bin/busybox poweroff -f; }
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev && mount -t proc proc /proc && mount -t sysfs sys /sys || fail "no file systems of the kernel"
while read -r module; do insmod "/modules/$module" || fail "no module $module"; done </modules/order
for disk in /sys/block/vd*; do
    read -r serial <"$disk/serial"
    case $serial in
    root) mount -t ext4 -o ro "/dev/${disk##*/}" /lower || fail "no root disk" ;;
    scratch) mount -t ext4 "/dev/${disk##*/}" /scratch || fail "no scratch disk" ;;
    esac
done
mkdir -p /scratch/.root/upper /scratch/.root/work /scratch/tmp
mount -t overlay -o lowerdir=/lower,upperdir=/scratch/.root/upper,workdir=/scratch/.root/work root /root || fail "no root"
mkdir -p /root/scratch
for place in dev proc sys scratch; do mount --move "/$place" "/root/$place"; done
mount -t tmpfs -o mode=755 run /root/run
cp /second /root/run/lab-second
exec switch_root /root /bin/bash /run/lab-second
