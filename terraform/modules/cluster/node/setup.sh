#!/bin/bash
# Makes a node ready for tokenfork: mounts the shared file system, has software and models copied there once, and
# installs the program and the container runtime. Runs when a node starts, before its Slurm daemon; may run again.
set -euo pipefail

root=${TOKENFORK_ROOT:-} # other than empty only in tests
# shellcheck source=/dev/null
. "$root/etc/profile.d/tokenfork.sh"
shared=$root/shared
ready=$root/var/lib/tokenfork/ready

log() { echo "tokenfork-setup: $*"; }

# The file system's name and the endpoints may take a while to answer on a node that just started.
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
	mkdir -p "$shared/models" "$shared/work"
	chmod 1777 "$shared/work"
}

install_program() {
	install -D -m 755 "$shared/software/tokenfork-linux-amd64" "$root/usr/local/bin/tokenfork"
}

install_apptainer() {
	rm -rf "$root/opt/apptainer"
	mkdir -p "$root/opt/apptainer"
	tar -xzf "$shared/software/apptainer.tar.gz" -C "$root/opt/apptainer" --strip-components=1
	ln -sf "$root/opt/apptainer/bin/apptainer" "$root/usr/local/bin/apptainer"
	# Ubuntu 24.04 keeps user namespaces from programs that no profile allows them to.
	if command -v apparmor_parser >/dev/null; then
		apparmor_parser --replace "$root/etc/apparmor.d/tokenfork-apptainer"
	fi
}

# shellcheck disable=SC2317 # called by the trap
finish() {
	local status=$?
	[ "$status" = 0 ] && log "ready" && return
	log "failed; once the cause is mended, run: sudo tokenfork-setup"
}

main() {
	trap finish EXIT
	rm -f "$ready"
	mount_shared
	retry "$root/usr/local/sbin/tokenfork-stage"
	install_program
	install_apptainer
	mkdir -p "$(dirname "$ready")"
	touch "$ready"
}

main 2>&1 | tee -a "$root/var/log/tokenfork-setup.log"
