#!/bin/bash
# Mounts the shared file system and the node's own disks, and starts the unit that copies software and models. Runs when a
# node starts, before its Slurm daemon, and takes seconds: AWS PCS ends a node that is not in Slurm after half an hour.
set -euo pipefail

root=${TOKENFORK_ROOT:-} # other than empty only in tests
# shellcheck source=/dev/null
. "$root/etc/profile.d/tokenfork.sh"
shared=$root/shared
scratch=$root/scratch
mounted=$root/var/lib/tokenfork/mounted

log() { echo "tokenfork-mount: $*"; }

# The file system's name may take a while to resolve on a node that just started.
retry() {
	local try
	for try in 1 2 3 4 5 6; do
		"$@" && return
		log "try $try of 6 failed: $*"
		sleep "${TOKENFORK_RETRY_SECONDS:-10}"
	done
	return 1
}

# Both kinds are mounted so that flock holds between nodes; EFS with TLS and the node's role.
mount_shared() {
	local options=_netdev,noresvport,tls,iam
	if [ "$TOKENFORK_SHARED_TYPE" = lustre ]; then
		options=_netdev,relatime,flock
	fi
	mkdir -p "$shared"
	if ! grep -qs " $shared " "$root/etc/fstab"; then
		echo "$TOKENFORK_SHARED_SOURCE $shared $TOKENFORK_SHARED_TYPE $options 0 0" >>"$root/etc/fstab"
	fi
	mountpoint -q "$shared" || retry mount "$shared"
	mkdir -p "$shared/work/nodes"
	chmod 1777 "$shared/work"
}

# The node's own NVMe disks as one file system. AWS's deep-learning images have mounted theirs by now; a node without such
# disks takes a folder of its root disk.
mount_scratch() {
	local disks device
	mkdir -p "$scratch"
	mountpoint -q "$scratch" && return
	if mountpoint -q "$root/opt/dlami/nvme"; then
		mkdir -p "$root/opt/dlami/nvme/tokenfork"
		mount --bind "$root/opt/dlami/nvme/tokenfork" "$scratch"
		return
	fi
	# Empty ones only: a disk with a file system, a volume group or a mount is somebody's.
	disks=$(lsblk -J -o PATH,MODEL,FSTYPE,MOUNTPOINT | python3 -c '
import json, sys
for d in json.load(sys.stdin)["blockdevices"]:
    if "Instance Storage" in (d["model"] or "") and not (d["fstype"] or d["mountpoint"] or d.get("children")):
        print(d["path"])')
	if [ -z "$disks" ]; then
		log "no empty NVMe disk: $scratch is on the root disk"
		return
	fi
	device=${disks%%$'\n'*}
	if [ "$device" != "$disks" ]; then
		device=/dev/md/tokenfork
		# shellcheck disable=SC2086 # one word a disk
		mdadm --create "$device" --run --level=0 --raid-devices="$(wc -l <<<"$disks")" $disks
	fi
	mkfs.ext4 -q "$device"
	mount "$device" "$scratch"
}

main() {
	rm -f "$mounted"
	mount_shared
	mount_scratch
	mkdir -p "$scratch/.staged"
	touch "$scratch/.staged/in-use"
	mkdir -p "$(dirname "$mounted")"
	touch "$mounted"
	systemctl daemon-reload
	systemctl start --no-block tokenfork-stage.service
	log "mounted; tokenfork-stage.service copies software and models"
}

# The log is on the shared file system as soon as that is there, so that it outlives the node.
mkdir -p "$root/var/log"
set +e # `set -e` holds in the subshell only where its status is not part of a condition
(
	set -e
	main
) >"$root/var/log/tokenfork-mount.log" 2>&1
status=$?
set -e
cat "$root/var/log/tokenfork-mount.log"
if [ -d "$shared/work/nodes" ]; then
	cp "$root/var/log/tokenfork-mount.log" "$shared/work/nodes/$(hostname)-mount.log"
fi
exit "$status"
