#!/bin/bash
# Copies s3://BUCKET/software and the folders of s3://BUCKET/models to the shared file system. A folder counts once its
# SHA256SUMS is there, which is uploaded last. Each version is copied once: nodes that start together wait for the one
# that copies, and what an interrupted copy has finished is not fetched again. Run it again after an upload.
set -euo pipefail

root=${TOKENFORK_ROOT:-} # other than empty only in tests
# shellcheck source=/dev/null
. "$root/etc/profile.d/tokenfork.sh"
shared=$root/shared
store=$shared/.store

log() { echo "tokenfork-stage: $*"; }

# fetch URL DIR SUM NAME: a file gets its name only when it has its sum. Runs in a shell of its own.
fetch() {
	local url=$1 dir=$2 sum=$3 name=$4 part
	part="$dir/$name.part"
	[ -e "$dir/$name" ] && return
	mkdir -p "$(dirname "$part")" && aws s3 cp --only-show-errors "$url/$name" "$part" || return
	if ! echo "$sum  $part" | sha256sum --check --status; then
		echo "tokenfork-stage: $url/$name differs from its SHA256SUMS: upload it again" >&2
		return 1
	fi
	mv "$part" "$dir/$name"
}
export -f fetch

# copy URL SUMS DIR
copy() {
	local url=$1 sums=$2 dir=$3
	if [ ! -s "$sums" ] || grep -qvE '^[0-9a-f]{64} [ *][A-Za-z0-9_][A-Za-z0-9_./+-]*$' "$sums" || grep -qF .. "$sums"; then
		echo "tokenfork-stage: $url/SHA256SUMS is not what 'sha256sum FILE...' prints" >&2
		return 1
	fi
	log "copying $url"
	# shellcheck disable=SC2016 # the inner shell expands it
	sed -E 's/ [ *]/ /' "$sums" | xargs -P 4 -L 1 bash -c 'fetch "$@"' fetch "$url" "$dir" || return
	touch "$dir/.complete"
}

# stage PREFIX: PREFIX on the shared file system becomes a link to the version that the bucket holds.
stage() {
	local prefix=$1 url=s3://$TOKENFORK_BUCKET/$1 key=${1//\//_} sums dir link
	sums=$(mktemp)
	if ! aws s3 cp --only-show-errors "$url/SHA256SUMS" "$sums"; then
		log "$url/SHA256SUMS can't be read; docs/cloud.md says what to upload"
		return 1
	fi
	dir=$store/$key-$(sha256sum <"$sums" | cut -c 1-12)
	if [ ! -e "$dir/.complete" ]; then
		mkdir -p "$dir"
		(
			flock 9
			[ -e "$dir/.complete" ] || copy "$url" "$sums" "$dir"
		) 9>"$store/$key.lock"
	fi
	rm -f "$sums"
	link=$store/.link-$HOSTNAME-$$
	mkdir -p "$(dirname "$shared/$prefix")"
	ln -sfn "$dir" "$link"
	mv -T "$link" "$shared/$prefix"
}

models() {
	aws s3api list-objects-v2 --bucket "$TOKENFORK_BUCKET" --prefix models/ --output text \
		--query "Contents[?ends_with(Key, '/SHA256SUMS')].[Key]" | sed -n 's|^\(models/.*\)/SHA256SUMS$|\1|p'
}

main() {
	local found model
	mkdir -p "$store"
	stage software
	found=$(models)
	for model in $found; do
		stage "$model"
	done
	log "on $shared: software ${found//$'\n'/ }"
}

main
