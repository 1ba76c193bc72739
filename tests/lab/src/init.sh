#!/bin/busybox sh
# The lab's init: makes a minimal Linux host with KVM, runs /lab/job (or a shell), switches off.
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
ip link set lo up
if [ "$(stat -c %u /bin/busybox)" != 0 ]; then
    # An ordinary user made this disk: here it all belongs to root.
    chown -hR 0:0 /bin /etc /lab /opt /out /root /sbin
    chmod -R go-w /opt /root
fi
hostname lab
for module in irqbypass kvm kvm-amd; do
    insmod "/lab/modules/$module.ko" || echo "@lab cannot load $module"
done
[ -c /dev/kvm ] || echo "@lab no /dev/kvm"
cd /root || echo "@lab no /root"

# Whoever waits for the job is to know that this machine lives (pulse.rs).
[ ! -e /lab/pulse ] || while sleep 10; do echo "@lab alive"; done &

if [ -x /lab/job ]; then
    stty -F /dev/ttyS1 raw -echo 115200
    /lab/job </dev/null >/dev/ttyS1 2>&1
    code=$?
    sync
    mount -o remount,ro / || echo "@lab the disk is busy"
    echo "@lab exit $code"
else
    echo "A Linux host with KVM. 'exit' switches it off."
    setsid cttyhack sh -l
fi
poweroff -f
