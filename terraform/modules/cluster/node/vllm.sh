#!/bin/bash
# vLLM out of the container image on this node's disk: what tokenfork's --vllm starts. A newer image is a new file.
scratch=${TOKENFORK_ROOT:-}/scratch
if ! image=$(readlink -e "$scratch/images/vllm/vllm.sif"); then
	echo "vllm: this node has no images/vllm/vllm.sif of the bucket: run . tokenfork-models first, or sudo tokenfork-stage" >&2
	exit 1
fi
exec apptainer exec --nv --bind "$scratch" --bind "${TOKENFORK_ROOT:-}/shared" "$image" vllm "$@"
