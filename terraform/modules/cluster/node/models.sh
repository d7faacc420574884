#!/bin/bash
# In a task's script: `. tokenfork-models [models/NAME...]`; before one command: `tokenfork-models [models/NAME...] -- COMMAND`.
# Waits until this node has the software and the models that are named here or in the settings of tokenfork's scripts, points
# the settings at this node's copies, and keeps these copies from being removed while the task runs.
tokenfork_models() {
	local root=${TOKENFORK_ROOT:-} variable named=() want=("$@") copies i
	for variable in SMALL_MODEL REFERENCE_MODEL JUDGE_MODEL; do
		if [[ ${!variable-} == "$root"/scratch/models/* ]]; then
			named+=("$variable")
			want+=("${!variable#"$root"/scratch/}")
		fi
	done
	[ ${#want[@]} -gt 0 ] || want=(software)
	while :; do
		if ! copies=$(sudo -n "$root/usr/local/sbin/tokenfork-stage" "${want[@]}"); then
			echo "tokenfork-models: ${want[*]} could not be copied to this node: the reason is above" >&2
			return 1
		fi
		exec {tokenfork_in_use}<"$root/scratch/.staged/in-use" || return
		flock --shared "$tokenfork_in_use"
		[[ -z $copies ]] && return
		mapfile -t copies <<<"$copies"
		# A new upload may have replaced a copy before the lock was there.
		for i in "${copies[@]}"; do [ -d "$i" ] || continue 2; done
		break
	done
	if [ "${#copies[@]}" != "${#want[@]}" ]; then
		echo "tokenfork-models: ${#want[@]} models are wanted, ${#copies[@]} folders were copied: name folders that hold a SHA256SUMS of their own" >&2
		return 1
	fi
	for i in "${!named[@]}"; do
		printf -v "${named[i]}" %s "${copies[i + $#]}"
	done
}

if [[ ${BASH_SOURCE[0]} != "$0" ]]; then
	tokenfork_models "$@"
	return
fi
tokenfork_names=()
while [[ $# -gt 0 && $1 != -- ]]; do
	tokenfork_names+=("$1")
	shift
done
if [[ $# -lt 2 ]]; then
	echo "tokenfork-models: no command after --" >&2
	exit 80
fi
shift
tokenfork_models "${tokenfork_names[@]}" && exec "$@"
