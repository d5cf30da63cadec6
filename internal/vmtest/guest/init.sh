#!/bin/busybox sh
# Process 1 of the guest: mounts what a system has, loads the modules that the
# kernel's command line names, and hands over to the agent.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
ip link set lo up

# The kernel was started with one CPU, see kernelArguments.
for cpu in /sys/devices/system/cpu/cpu*/online; do
	[ ! -e "$cpu" ] || echo 1 >"$cpu" || echo "$cpu does not come" >>/run/init.failed
done

# Whatever does not load goes to the agent, which tells the host.
for word in $(cat /proc/cmdline); do
	case $word in
	guest.modules=*)
		for module in $(echo "${word#*=}" | tr , ' '); do
			modprobe "$module" 2>>/run/init.failed || echo "modprobe $module failed" >>/run/init.failed
		done
		;;
	esac
done

/sbin/agent
echo "the agent ended with status $?" >/dev/console
poweroff -f
