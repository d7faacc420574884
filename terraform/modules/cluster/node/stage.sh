#!/bin/bash
# tokenfork-stage [models/NAME...|software]: copies the bucket's software, container image and models (all of them, unless
# named) to this node's disk, and installs the software. A node without GPUs gets no image and no weights. The unit tokenfork-stage runs it when a node starts; a task runs it
# for its own models and so waits until they are there. `tokenfork stage` copies, verifies and waits.
set -euo pipefail

root=${TOKENFORK_ROOT:-} # other than empty only in tests
# shellcheck source=/dev/null
. "$root/etc/profile.d/tokenfork.sh"
bucket=s3://$TOKENFORK_BUCKET
scratch=$root/scratch
state=$root/var/lib/tokenfork
tokenfork=$root/usr/local/bin/tokenfork

log() { echo "tokenfork-stage: $*" >&2; }

# The program comes first: it copies all the rest.
bootstrap() {
	local new
	[ -x "$tokenfork" ] && return
	new=$(mktemp -d)
	aws s3 cp --only-show-errors "$bucket/software/SHA256SUMS" "$new/"
	aws s3 cp --only-show-errors "$bucket/software/tokenfork-linux-amd64" "$new/"
	if ! (cd "$new" && grep -E '^[0-9a-f]{64} [ *]tokenfork-linux-amd64$' SHA256SUMS | sha256sum --check --status); then
		log "$bucket/software/tokenfork-linux-amd64 differs from its SHA256SUMS: upload both again"
		return 1
	fi
	install_program "$new/tokenfork-linux-amd64"
	rm -r "$new"
}

# A program that runs keeps its file.
install_program() {
	install -D -m 755 "$1" "$tokenfork.new"
	mv "$tokenfork.new" "$tokenfork"
}

# Each version has a folder of its own, so that a container that starts finds its runtime whole.
install_apptainer() {
	local dir=$root/opt/apptainer/$1
	rm -rf "$dir.new"
	mkdir -p "$dir.new"
	tar -xzf "$2" -C "$dir.new" --strip-components=1
	rm -rf "$dir"
	mv "$dir.new" "$dir"
	ln -sfn "$dir/bin/apptainer" "$root/usr/local/bin/apptainer"
	# Ubuntu 24.04 keeps user namespaces from programs that no profile allows them to.
	if command -v apparmor_parser >/dev/null; then
		apparmor_parser --replace "$root/etc/apparmor.d/tokenfork-apptainer"
	fi
	# Older ones go when no task runs here.
	flock --nonblock "$scratch/.staged/in-use" find "$root/opt/apptainer" -mindepth 1 -maxdepth 1 ! -name "$1" -exec rm -rf {} + || true
}

software() {
	local copies software version sources=("$bucket/software")
	bootstrap
	[ "$TOKENFORK_GPUS" = 0 ] || sources+=("$bucket/images")
	copies=$("$tokenfork" stage --to "$scratch" "${sources[@]}")
	software=${copies%%$'\n'*}
	version=$(basename "$(dirname "$software")")
	[ "$(cat "$state/software" 2>/dev/null)" = "$version" ] && return
	install_program "$software/tokenfork-linux-amd64"
	install_apptainer "$version" "$software/apptainer.tar.gz"
	echo "$version" >"$state/software"
	log "installed software $version"
}

main() {
	local name args=() sources=()
	for name; do
		# sudo lets every user of the node give names.
		if [[ ! $name =~ ^(software|models/[A-Za-z0-9][A-Za-z0-9._/-]*)$ || $name == *..* ]]; then
			log "$name is neither software nor models/NAME"
			return 80
		fi
		[ "$name" = software ] || sources+=("$bucket/$name")
	done
	mkdir -p "$state"
	(
		flock 9
		software
	) 9>"$state/lock"
	[ $# = 0 ] && sources=("$bucket/models")
	[ ${#sources[@]} = 0 ] && return
	[ "$TOKENFORK_GPUS" != 0 ] || args=(--no-weights)
	"$tokenfork" stage "${args[@]}" --to "$scratch" "${sources[@]}"
}

# What is said goes to the shared file system too, so that it outlives the node.
exec 2> >(tee -a "$root/var/log/tokenfork-stage.log" "$root/shared/work/nodes/$(hostname)-stage.log" >&2)
log "started: ${*:-everything}"
main "$@"
log "ready"
